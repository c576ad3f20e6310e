"""A feature whose package is missing says so in one line, with the command that installs it."""

import re
import sys
import tomllib

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.export import write_onnx
from siglip_med.launch.command_line import check_words
from siglip_med.sources.huggingface import HuggingFaceSource
from tests.models import runs
from tests.short_runs import CONF
from tools.build_codes import build_codes


@pytest.fixture
def block(monkeypatch):
    """Makes a package look as if it were not installed."""
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_onnx_export_names_the_missing_package_before_it_writes(package, block, tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path / "base"))
    (tmp_path / "export").mkdir()
    block(package)
    with pytest.raises(UserError, match=rf"^format=onnx needs {package}: pip install 'siglip-med\[onnx\]'$"):
        write_onnx(model, tmp_path / "export")
    assert not list((tmp_path / "export").iterdir())


def test_hugging_face_data_names_the_missing_package(block, tmp_path):
    block("datasets")
    with pytest.raises(UserError, match=r"^data=huggingface needs datasets: pip install 'siglip-med\[huggingface\]'$"):
        HuggingFaceSource(root=str(tmp_path / "export"), dataset="someone/something").prepare()
    assert not list(tmp_path.iterdir())


def test_building_the_codes_names_the_missing_package(block):
    block("simple_icd_10_cm")
    with pytest.raises(UserError, match=r"^build-codes needs simple_icd_10_cm: pip install 'siglip-med\[codes\]'$"):
        build_codes()


@pytest.mark.parametrize(
    ("launcher", "file", "package"),
    [
        ("parallel", "joblib.yaml", "hydra-joblib-launcher"),
        ("slurm", "submitit_slurm.yaml", "hydra-submitit-launcher"),
    ],
)
def test_a_launcher_names_the_missing_package(launcher, file, package, monkeypatch):
    Plugins.instance()  # what is installed has stored its configs by now; without it this one would not be there
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"], file)
    with pytest.raises(UserError) as raised:
        check_words(CONF, "train", ["-m", "seed=0,1", f"launcher={launcher}"])
    assert str(raised.value) == f"launcher={launcher} needs {package}: pip install 'siglip-med[{launcher}]'"


def test_what_an_installed_package_lacks_is_named_and_one_that_does_not_load_says_why(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    (tmp_path / "broken.py").write_text("raise ImportError('built for\\nanother numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^x=y needs not_there_at_all: "):
        require("half_there", feature="x=y", extra="z")
    with pytest.raises(UserError, match=r"^x=y needs broken, which is installed but does not load \(built for another"):
        require("broken", feature="x=y", extra="z")


def test_every_extra_that_an_error_names_exists():
    folder = CONF.parent
    known = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    files = [
        folder / "README.md",
        *(folder / "siglip_med").rglob("*.py"),
        *CONF.rglob("*.yaml"),
        *(folder / "docs").glob("*.md"),
    ]
    named_as = r"feature=.*extra=\"(\w+)\"|(?:siglip-med|'\.)\[([\w,]+)\]"
    named = {
        extra
        for path in files
        for found in re.findall(named_as, path.read_text(encoding="utf-8"))
        for extra in ",".join(found).strip(",").split(",")
    }
    assert {"onnx", "huggingface", "codes", "slurm", "parallel"} <= named
    assert named <= set(known)
