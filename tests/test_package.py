"""What an installed siglip-med is: quick to import, one version, and every data file of it accounted for."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import siglip_med
from siglip_med.conditions.codes import read_code_book

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "siglip_med"
NOTICE = (ROOT / "NOTICE").read_text(encoding="utf-8")


def imported_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_package_loads_no_library():
    loaded = imported_by("import siglip_med; siglip_med.__version__; dir(siglip_med)")
    assert not loaded & {"torch", "transformers", "lightning", "pandas", "numpy", "hydra", "pydantic"}


def test_conditions_and_their_geometry_need_no_torch():
    loaded = imported_by("import siglip_med; siglip_med.dissimilarity(siglip_med.load_conditions(['Eczema', 'Acne']))")
    assert "numpy" in loaded
    assert not loaded & {"torch", "transformers", "lightning", "pandas"}


@pytest.mark.parametrize("name", siglip_med.__all__)
def test_every_public_name_can_be_had_and_is_listed(name):
    assert getattr(siglip_med, name) is not None
    assert name in dir(siglip_med)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = siglip_med.laod


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "siglip_med/__init__.py"
    assert f"\nversion: {siglip_med.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def data_files() -> list[str]:
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc"))
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


@pytest.mark.parametrize("file", data_files())
def test_notice_says_where_each_data_file_of_the_package_comes_from(file):
    assert f"\n    {file}\n" in NOTICE


def test_notice_names_no_file_that_is_not_there():
    named = set(re.findall(r"^    (siglip_med/\S+)$", NOTICE, flags=re.MULTILINE))
    assert named == set(data_files())
    assert (ROOT / "conf").is_dir()
    assert "\n    conf/\n" in NOTICE


def test_notice_states_the_release_of_the_codes():
    assert read_code_book().release in NOTICE


def test_the_license_files_travel_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"LICENSE", "NOTICE"} <= set(project["license-files"])
