"""The README's example runs as printed there, on a run of a few steps."""

import re
import shutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def example() -> tuple[str, list[str]]:
    """The one Python block of the README, and the lines that it says are printed."""
    found = re.findall(r"```python\n(.*?)```.*?```text\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1
    code, printed = found[0]
    return code, printed.splitlines()


def test_the_example_prints_what_the_readme_shows(example, short_run, tmp_path):
    code, shown = example
    drawing = next(short_run.components.data.table.root.rglob("*.jpg"))
    (tmp_path / "photographs").mkdir()
    shutil.copy(drawing, tmp_path / "photographs")
    code = re.sub(r'run = ".*"', f'run = "{short_run.folder}"', code)
    assert '"path/to/photos"' in code
    code = code.replace("path/to/photos", "photographs")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    printed = [line for line in done.stdout.splitlines() if line]  # a bar that went leaves an empty line
    assert len(printed) == len(shown)
    # another model and another picture: the shape of the first two lines, and every letter of the third
    for line in (printed[0], shown[0]):
        pairs = literal_eval(line)
        assert [[type(value) for value in pair] for pair in pairs] == [[str, str, float]] * 2
    assert re.fullmatch(r"\(\d+, 66\) 0\.\d+", printed[1])
    assert re.fullmatch(r"\(\d+, 66\) 0\.\d+", shown[1])
    assert printed[2] == shown[2]


def test_the_example_has_ten_lines(example):
    code, _ = example
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 10
