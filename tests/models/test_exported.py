"""A merged export is a model again, and anything else is refused in one line."""

import json
import shutil

import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.core.seals import SUMS
from siglip_med.export import export_checkpoint, write_open_clip
from siglip_med.inference import load
from siglip_med.models import load_export, load_model
from tests.models import runs, tiny
from tests.models.their_open_clip import converted

CALIBRATION = {"temperature": 1.5, "bias": -0.25}


@pytest.fixture(scope="module", params=[*runs.KINDS, "dual_encoder with a hidden layer"])
def exported(request, tmp_path_factory):
    """A checkpoint of each family and its merged export."""
    root = tmp_path_factory.mktemp("exported")
    kind, _, rest = request.param.partition(" ")
    node = runs.model_node(kind, root / "base", **({"image_hidden": 10} if rest else {}))
    model = runs.train(runs.build(node))
    checkpoint = runs.save(model, node, root / "best.ckpt", calibration=CALIBRATION)
    return checkpoint, export_checkpoint(checkpoint, "merged", root / "merged")


def test_an_export_scores_as_its_checkpoint_does(exported):
    checkpoint, folder = exported
    expected, payload = load_model(checkpoint)
    found, about = load_export(folder)
    assert not found.training
    with torch.no_grad():
        torch.testing.assert_close(runs.scores(found), runs.scores(expected), atol=1e-4, rtol=1e-4)
    assert found.image_spec == expected.image_spec
    upper = {name: value.tolist() for name, value in found.tokenize(["Red SCALY"]).items()}
    assert upper == {name: value.tolist() for name, value in expected.tokenize(["Red SCALY"]).items()}
    for key in ("conditions", "codes", "prompts", "calibration", "provenance"):
        assert about[key] == payload[key]


@pytest.mark.parametrize("kind", ["clip", "open_clip"])
def test_clip_of_either_format_comes_back(kind, tmp_path):
    """What was converted from open_clip's files is a CLIP of the transformers library; open_clip's has to be again."""
    first = tmp_path / "first"
    first.mkdir()
    end = tiny.VOCABULARY - 1  # as in OpenAI's: open_clip's format takes it for granted
    tiny.write_clip(first, begin=end - 1, end=end)
    node = {"_target_": "siglip_med.models.clip", "adaptation": runs.LORA, "path": str(first)}
    if kind == "open_clip":
        base = tmp_path / "base"
        base.mkdir()
        write_open_clip(runs.build(node), base)
        node["path"] = converted(base)
    model = runs.train(runs.build(node))
    checkpoint = runs.save(model, node, tmp_path / "best.ckpt", calibration=CALIBRATION)
    found, about = load_export(export_checkpoint(checkpoint, "merged", tmp_path / "merged"))
    with torch.no_grad():
        torch.testing.assert_close(runs.scores(found), runs.scores(model), atol=1e-4, rtol=1e-4)
    assert found.image_spec == model.image_spec
    assert about["calibration"] == CALIBRATION
    with pytest.raises(UserError, match="is an export with format=open_clip, for other software"):
        load_export(export_checkpoint(checkpoint, "open_clip", tmp_path / "export"))


@pytest.fixture
def copy(tmp_path):
    """A merged export of a small SigLIP, to be damaged; without its sums, which would notice."""
    node = runs.model_node("siglip", tmp_path / "base")
    checkpoint = runs.save(runs.build(node), node, tmp_path / "best.ckpt")
    folder = export_checkpoint(checkpoint, "merged", tmp_path / "merged")
    return checkpoint, folder


def rewrite(folder, **changes):
    (folder / SUMS).unlink(missing_ok=True)
    path = folder / "conditions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_no_merged_export_is_refused(copy, tmp_path):
    checkpoint, folder = copy
    with pytest.raises(UserError, match=r"is no export: it holds no conditions\.json; give a checkpoint"):
        load_export(tmp_path)
    peft = export_checkpoint(checkpoint, "peft", tmp_path / "peft")
    with pytest.raises(UserError, match=r"is an export with format=peft.*format=merged"):
        load_export(peft)
    with pytest.raises(UserError, match=r"^base=.* is an export and holds its base"):
        load(folder, base="elsewhere", device="cpu")


def test_an_altered_export_is_refused(exported, copy, tmp_path):
    _, whole = exported
    damaged = shutil.copytree(whole, tmp_path / "bits")
    path = next(file for file in damaged.rglob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} is damaged: its checksum"):
        load_export(damaged)
    _, folder = copy
    altered = shutil.copytree(folder, tmp_path / "altered")
    (altered / "conditions.json").write_text((altered / "conditions.json").read_text().replace("Eczema", "Health"))
    with pytest.raises(UserError, match=r"conditions\.json is damaged: its checksum"):
        load_export(altered)
    for changes, message in (
        ({"model": {"family": "os.system"}}, r"model\.family: input should be 'siglip'"),
        ({"logit_scale": -1.0}, r"logit_scale: input should be greater than 0"),
        ({"codes": ["L30.9"]}, r"3 conditions, 1 codes and 3 lists of prompts"),
        ({"calibration": {"temperature": "x", "bias": 0}}, r"calibration\.temperature"),
    ):
        damaged = shutil.copytree(folder, tmp_path / "damaged", dirs_exist_ok=True)
        rewrite(damaged, **changes)
        with pytest.raises(UserError, match=message):
            load_export(damaged)
