"""What a file of somebody else's says is consistent before it is used, or refused in one line."""

import copy
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from siglip_med.core.config import instantiate
from siglip_med.core.errors import UserError
from siglip_med.metrics import Predictions
from siglip_med.models import load_model, read_checkpoint, write_checkpoint
from siglip_med.models.hub import load_image_processor, resolve_path
from tests.models import runs, tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    node = runs.model_node("siglip", folder / "base")
    path = runs.save(runs.train(runs.build(node)), node, folder / "best.ckpt")
    return folder, path, read_checkpoint(path)


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def first_weight(checkpoint):
    return next(iter(checkpoint["state_dict"]))


CHANGES = {
    "fewer codes": (lambda c: c["siglip_med"]["codes"].pop(), "3 conditions, 2 codes"),
    "fewer prompts": (lambda c: c["siglip_med"]["prompts"].pop(), "and 2 lists of prompts"),
    "no prompt": (lambda c: c["siglip_med"]["prompts"].__setitem__(1, []), "has no prompt, or an empty one"),
    "an empty prompt": (lambda c: c["siglip_med"]["prompts"].__setitem__(1, [" "]), "has no prompt, or an empty one"),
    "one name twice": (lambda c: c["siglip_med"]["conditions"].__setitem__(1, "Eczema"), "two have the same"),
    "an empty name": (lambda c: c["siglip_med"]["conditions"].__setitem__(1, " "), "has no name"),
    "no temperature": (lambda c: c["siglip_med"].update(calibration={"bias": 0.0}), "calibration.temperature"),
    "temperature 0": (lambda c: c["siglip_med"].update(calibration={"temperature": 0.0}), "greater than 0"),
    "temperature -1": (lambda c: c["siglip_med"].update(calibration={"temperature": -1.0}), "greater than 0"),
    "temperature NaN": (lambda c: c["siglip_med"].update(calibration={"temperature": float("nan")}), "finite"),
    "nested": (lambda c: c["siglip_med"].update(metrics=nested(200)), "nested more than"),
    "nested lists": (lambda c: c["siglip_med"]["config"].update(x=[nested(90)]), "nested more than"),
    "bits": (lambda c: c["siglip_med"].update(image_bits=99), "image_bits"),
    "weights NaN": (lambda c: c["state_dict"][first_weight(c)].fill_(float("nan")), "is not finite"),
    "one weight inf": (lambda c: c["state_dict"][first_weight(c)].view(-1)[0].fill_(float("inf")), "is not finite"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_that_contradicts_itself_is_refused_in_one_line(made, tmp_path, name):
    change, said = CHANGES[name]
    checkpoint = copy.deepcopy(made[2])
    change(checkpoint)
    write_checkpoint(checkpoint, tmp_path / "changed.ckpt")  # sealed anew
    with pytest.raises(UserError) as error:
        load_model(tmp_path / "changed.ckpt")
    assert "\n" not in str(error.value)
    assert said in str(error.value)
    assert "changed.ckpt" in str(error.value)


def test_an_archive_that_unpacks_to_much_more_is_refused_before_it_is_read(made, tmp_path):
    bomb = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64_000_000))
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(UserError, match=r"bomb\.ckpt would unpack to 64 MB"):
        read_checkpoint(bomb)


@pytest.mark.parametrize("target", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_an_index_of_weights_stays_in_its_folder(tmp_path, target):
    tiny.write_siglip(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": target}}))
    with pytest.raises(UserError, match="which is not a file of its folder"):
        resolve_path(str(tmp_path))
    index.write_text("[" * 5000)
    with pytest.raises(UserError, match="is no index of weights"):
        resolve_path(str(tmp_path))


@pytest.mark.parametrize("mean", [None, 5, [0.5, 0.5], ["a", "b", "c"], [0.5, float("nan"), 0.5], [True, 0.5, 0.5]])
def test_a_normalization_that_is_none_is_refused(tmp_path, mean):
    tiny.write_siglip(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": mean}))
    with pytest.raises(UserError) as error:
        load_image_processor(str(tmp_path), None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("std", [[0.5, 0.0, 0.5], [0.5, -1.0, 0.5], 0.5])
def test_a_spread_that_divides_by_nothing_is_refused(tmp_path, std):
    tiny.write_siglip(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_std": std}))
    with pytest.raises(UserError, match="image_std"):
        load_image_processor(str(tmp_path), None)


CONTENTS = ["{", "[]", "null", '{"model_type": 5}', '{"model_type": "siglip", "text_config": 3}']


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_damaged_base_is_read_all_the_same_or_costs_one_line(made, tmp_path, file, content):
    base = tmp_path / "base"
    shutil.copytree(made[0] / "base", base)
    (base / file).write_text(content)
    said = ""
    try:
        instantiate(runs.model_node("siglip", made[0] / "base") | {"path": str(base)})
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert said or file != "config.json"


GOOD = Predictions.of([[2.0, 1.0], [0.0, 1.0]], [[1, 0], [0, 1]])
BAD = {
    "complex": lambda: replace(GOOD, logits=GOOD.logits.astype(np.complex64)),
    "text": lambda: replace(GOOD, logits=GOOD.logits.astype(str)),
    "D of 50": lambda: replace(GOOD, dissimilarity=50 * GOOD.dissimilarity),
    "negative D": lambda: replace(GOOD, dissimilarity=-GOOD.dissimilarity),
    "complex D": lambda: replace(GOOD, dissimilarity=GOOD.dissimilarity.astype(complex)),
}


@pytest.mark.parametrize("name", BAD)
def test_predictions_that_are_none_are_refused(name):
    with pytest.raises(ValueError):
        BAD[name]()


def test_predictions_on_disk_name_each_image_once(tmp_path):
    replace(GOOD, frame=GOOD.frame.assign(image_id="a")).save(tmp_path)  # resampled rows may stand twice in memory
    with pytest.raises(UserError, match="holds an image_id twice"):
        Predictions.load(tmp_path)


def test_good_ones_are_read(made):
    model, payload = load_model(made[1])
    assert len(payload["conditions"]) == 3
    assert torch.isfinite(next(iter(model.trainable_state().values()))).all()
