"""A stranger's checkpoint builds nothing but this package's models and data, whichever command opens it."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from siglip_med.commands import evaluate, export, predict, train
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.core.trust import build_trusted, check_trusted
from siglip_med.models import MODEL_BUILDERS, write_checkpoint
from siglip_med.runs.components import data_builders
from siglip_med.runs.confined_caches import kept_below
from siglip_med.runs.stored import open_run, predict_run, stored_run
from tests.short_runs import compose_config, small_settings

SECRET = "a value of the environment"


def gadgets(trace: Path) -> dict[str, object]:
    """Nodes that would leave ``trace``, or read the environment, if they were built or resolved."""
    code = f"open({str(trace)!r}, 'w')"
    pickled = str(trace.parent / "payload.pkl")
    calls: dict[str, dict[str, object]] = {
        "os.system": {"command": f"touch {trace}"},
        "os.mkdir": {"path": str(trace)},
        "builtins.open": {"file": str(trace), "mode": "w"},
        "builtins.exec": {"_args_": [code]},
        "builtins.eval": {"_args_": [code]},
        "subprocess.run": {"args": ["touch", str(trace)]},
        "shutil.copy": {"src": pickled, "dst": str(trace)},
        "numpy.testing.runstring": {"astr": code, "dict": {}},
        "torch.load": {"f": pickled, "weights_only": False},
        "pandas.read_pickle": {"filepath_or_buffer": pickled},
        "numpy.load": {"file": pickled, "allow_pickle": True},
        "joblib.load": {"filename": pickled},
        "siglip_med.core.files.write_text": {"path": str(trace), "text": "x"},
        "hydra.utils.instantiate": {"config": {"_target_": "os.mkdir", "path": str(trace)}},
    }
    nodes: dict[str, object] = {name: {"_target_": name, **arguments} for name, arguments in calls.items()}
    made = nodes["os.mkdir"]
    return nodes | {
        "in a tuple": (made,),
        "in a list in a mapping": {"inner": [{"deep": [made]}]},
        "an interpolation that creates": f"${{oc.create:{{_target_: os.mkdir, path: {trace}}}}}",
        "an interpolation in a key": {f"${{oc.create:{{_target_: os.mkdir, path: {trace}}}}}": 1},
        "the environment": "${oc.env:SIGLIP_MED_TEST_SECRET}",
        "a partial of an allowed builder": {"_target_": "siglip_med.models.Lora", "_partial_": True},
        "an attribute of an allowed builder": {"_target_": "siglip_med.models.Lora.wrap.__globals__"},
    }


NAMES = sorted(gadgets(Path("trace")))
WAYS = ("evaluate", "predict", "export", "resume", "init_from")


class Pickled:
    """Would make a folder when unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGLIP_MED_TEST_SECRET", SECRET)
    torch.save(Pickled(tmp_path / "trace"), tmp_path / "payload.pkl")
    return tmp_path / "trace"


def photograph(cache: Path) -> Path:
    """A gray picture."""
    path = cache / "gray.png"
    if not path.exists():
        cv2.imwrite(str(path), np.full((32, 32, 3), 128, dtype=np.uint8))
    return path


def open_with(way: str, path: Path, cache: Path, folder: Path) -> None:
    """Runs the command that opens the checkpoint, up to its end if nothing stops it."""
    if way == "evaluate":
        words = [f"checkpoint={path}", "recompute=true", f"paths.output_dir={folder}", "device=cpu"]
        evaluate.run(typed(compose_config(*words, name="evaluate"), evaluate.Settings))
    elif way == "predict":
        settings = predict.Settings(
            checkpoint=str(path),
            images=str(photograph(cache)),
            top_k=1,
            batch_size=1,
            device="cpu",
            output_dir=str(folder),
            base=None,
        )
        predict.run(settings)
    elif way == "export":
        export.run(
            export.Settings(
                checkpoint=str(path),
                format="merged",
                output=str(folder / "export"),
                license="other",
                base=None,
            )
        )
    else:
        train.run(small_settings(cache, folder / "run", f"{way}={path}", "trainer.max_steps=1"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_gadget_in_a_checkpoint_has_no_effect_and_is_refused_in_one_line(name, way, short_run, trace, cache):
    folder = trace.parent / "strangers"
    path = folder / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    checkpoint = torch.load(short_run.best, weights_only=True)
    config = checkpoint["siglip_med"]["config"]
    part, key = {"evaluate": (config["data"], "source"), "resume": (config["callbacks"], "extra")}.get(
        way, (config["model"], "adaptation")
    )
    part[key] = gadgets(trace)[name]
    write_checkpoint(checkpoint, path)
    before = sorted(trace.parent.rglob("*"))
    with pytest.raises(UserError) as refusal:
        open_with(way, path, cache, folder)
    assert "refused to load" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert SECRET not in str(refusal.value)
    assert sorted(trace.parent.rglob("*")) == before, "nothing was made"


def test_the_same_checkpoint_without_a_gadget_opens(short_run, cache, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    shutil.copy(short_run.best, path)
    for way in ("predict", "export"):
        open_with(way, path, cache, tmp_path / way)
    predict_run(open_run(path, device="cpu", cache_dir=cache))


def test_what_is_predicted_again_is_kept_below_the_own_cache(short_run, cache, tmp_path, capsys):
    checkpoint, path = torch.load(short_run.best, weights_only=True), tmp_path / "theirs.ckpt"
    data = checkpoint["siglip_med"]["config"]["data"]
    data["cache_dir"], data["source"]["root"] = str(tmp_path / "there"), str(tmp_path / "drawings")
    write_checkpoint(checkpoint, path)
    stored = stored_run(path, cache_dir=cache)
    assert {Path(stored.data["cache_dir"]).parent, Path(stored.data["source"]["root"]).parent} == {cache / "stored"}
    said = " ".join(capsys.readouterr().err.split())
    assert f"data.cache_dir: the stored {tmp_path / 'there'} is not below" in said
    assert f"data.source.root: the stored {tmp_path / 'drawings'} is not below" in said
    mine = {"cache_dir": str(tmp_path / "mine"), "source": {"root": str(tmp_path / "too")}}
    named = stored_run(path, cache, mine).data
    assert [named["cache_dir"], named["source"]["root"]] == [mine["cache_dir"], mine["source"]["root"]]
    own = torch.load(short_run.best, weights_only=True)["siglip_med"]["config"]["data"]
    assert stored_run(short_run.best, cache_dir=cache).data == own
    assert not capsys.readouterr().err


def test_a_folder_that_is_only_read_stays_where_the_file_says(tmp_path):
    csv = {"_target_": "siglip_med.sources.CsvSource", "root": "/photographs"}
    kept = {"_target_": "siglip_med.training.features.FeatureDataModule", "cache_dir": "/theirs"}
    data, features = kept_below(tmp_path, {"source": csv}, kept, {}, data_builders())
    assert data == {"source": csv}
    assert Path(features["cache_dir"]).is_relative_to(tmp_path)
    assert kept["cache_dir"] == "/theirs"
    assert kept_below(tmp_path, {"source": csv}, None, {}, data_builders()) == ({"source": csv}, None)


def test_the_allow_lists_hold_builders_of_this_package_alone():
    assert {"siglip_med.models.siglip", "siglip_med.models.Lora", "siglip_med.models.Logits"} <= set(MODEL_BUILDERS)
    assert {
        "siglip_med.data.DataModule",
        "siglip_med.synthetic.SyntheticSource",
        "siglip_med.sources.CsvSource",
        "siglip_med.data.splitting.split.GroupStratifiedSplitter",
        "siglip_med.data.sampling.OversampleToMinimum",
        "siglip_med.data.augmentation.Augmentation",
        "siglip_med.training.features.FeatureDataModule",
    } <= set(data_builders())
    for allowed in (MODEL_BUILDERS, data_builders()):
        assert all(name.startswith("siglip_med.") for name in allowed)
        assert not any("write" in name or "export" in name or "commands" in name for name in allowed)
    assert "siglip_med.data.DataModule" not in MODEL_BUILDERS


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"_target_": "siglip_med.models.Lora", "rnk": 3}, r"^model\.rnk: no such setting .*did you mean rank"),
        ({"_target_": "siglip_med.models.Lora", "rank": 0}, r"^model\.rank: .*greater than 0"),
        ({"_target_": "siglip_med.models.siglip", "path": 3}, r"^model\.path: .*string"),
        ({"_target_": ["siglip_med.models.Lora"]}, r"^refused to load best\.ckpt: its config at model would call"),
        ({"path": "somewhere"}, r"^best\.ckpt: its config has no model that could be built"),
        (
            {"_target_": "siglip_med.models.Lora", "rank": torch.ones(1)},
            r"model\.rank holds a Tensor, not a plain value",
        ),
    ],
)
def test_what_an_allowed_builder_gets_is_checked_too(node, line):
    with pytest.raises(UserError, match=line):
        build_trusted(node, MODEL_BUILDERS, "model", "best.ckpt")


def test_a_part_of_another_kind_is_no_part():
    node = {
        "_target_": "siglip_med.models.siglip",
        "path": "package:siglip_tiny",
        "adaptation": {"_target_": "siglip_med.models.Logits"},
    }
    with pytest.raises(UserError, match=r"model\.adaptation: "):
        build_trusted(node, MODEL_BUILDERS, "model", "best.ckpt")


def test_nested_nodes_are_built():
    node = {"_target_": "siglip_med.models.Lora", "rank": 3, "target_modules": ["q_proj"]}
    check_trusted(node, MODEL_BUILDERS, "model", "best.ckpt")
    built = build_trusted(node, MODEL_BUILDERS, "model", "best.ckpt")
    assert (built.rank, list(built.target_modules)) == (3, ["q_proj"])
