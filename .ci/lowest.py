"""Prints the lower bounds in pyproject.toml as pip constraints: ``python .ci/lowest.py EXTRA,EXTRA``.

torch stays at the version of constraints.txt: older builds for Linux bring gigabytes of CUDA libraries.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINNED = {"torch"}


def main() -> None:
    """Prints one line a package of the plain install and of the extras named."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = (line for extra in sys.argv[1].split(",") for line in project["optional-dependencies"][extra])
    required = [*project["dependencies"], *named]
    lowest = {}
    for line in required:
        bound = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)", line)
        if bound is None:
            raise SystemExit(f"pyproject.toml: {line!r} has no lower bound of the form name>=version")
        lowest[_normalized(bound[1])] = bound[2]
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    newest = {_normalized(name): version for name, version in pins}
    for name, version in sorted(lowest.items()):
        print(f"{name}=={newest[name] if name in PINNED else version}")


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
