"""Prints the lower bound of each dependency in pyproject.toml as a pip constraint: what ``make lowest`` installs.

torch stays at the version of constraints.txt: older builds for Linux bring gigabytes of CUDA libraries.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS_OF_TOOLS = {"dev", "notebook"}
"""Packages of these are for those who work on the project; they stay at constraints.txt."""
PINNED = {"torch"}


def main() -> None:
    """Prints one line a package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"]]
    required += [line for extra, lines in extras.items() if extra not in EXTRAS_OF_TOOLS for line in lines]
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
