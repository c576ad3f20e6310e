"""Changed checkpoints, bases, exports and predictions, sealed anew, give the right answer or one line."""

import copy
import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from siglip_med.core.errors import UserError
from siglip_med.core.seals import write_sums
from siglip_med.metrics import Predictions
from siglip_med.models import load_export, load_model, read_checkpoint, read_familiarity, read_refit, write_checkpoint
from siglip_med.models.hub import load_weights
from tests.models import runs
from tests.reliability.outside_values import KINDS, Bench, outcome
from tests.report.synthetic_run import synthetic_predictions

COUNT = int(os.environ.get("SIGLIP_MED_OUTSIDE_VALUES", "60"))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("outside"))


def test_a_random_change_is_right_or_refused_in_one_line(bench):
    found = {}
    for number in range(COUNT):
        result, said = outcome(bench, number)
        found[said] = result
    assert not {said: result for said, result in found.items() if result not in ("right", "refused")}
    refused = Counter(said.split(", ")[1].split(":")[0] for said, result in found.items() if result == "refused")
    assert set(refused) == set(KINDS), "each kind has changes that matter"


def spoiled(bench, place, change):
    checkpoint = copy.deepcopy(read_checkpoint(bench.checkpoint))
    change(checkpoint)
    write_checkpoint(checkpoint, place / "changed.ckpt")
    return place / "changed.ckpt"


def refusal(function, *words):
    with pytest.raises(UserError) as error:
        function(*words)
    assert "\n" not in str(error.value)
    return str(error.value)


def first(state):
    return next(name for name in state if "lora_" in name)


PAYLOADS = {
    "whole numbers": (lambda c: c["state_dict"].update({first(c["state_dict"]): torch.ones(3, 24).long()}), "int64"),
    "complex": (lambda c: c["state_dict"].update({first(c["state_dict"]): torch.ones(3, 24) + 0j}), "complex64"),
    "no fingerprint": (lambda c: c["siglip_med"]["base"].pop("fingerprint"), "base.fingerprint"),
    "a base of lists": (lambda c: c["siglip_med"]["base"].update(name=["x"]), "base.name"),
    "escape in a name": (lambda c: c["siglip_med"]["conditions"].__setitem__(0, "a\x1b[2J"), "a control character"),
    "escape in a code": (lambda c: c["siglip_med"]["codes"].__setitem__(0, "\x00"), "a control character"),
    "unsorted": (lambda c: c["siglip_med"]["familiarity"]["scores"].reverse(), "ascending order"),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_payload_that_contradicts_itself_is_refused(bench, tmp_path, name):
    change, said = PAYLOADS[name]
    assert said in refusal(load_model, spoiled(bench, tmp_path, change))


@pytest.mark.parametrize(("name", "value"), [("scale", 0.0), ("width", -1.0), ("scale", -1.0)])
def test_a_refit_that_divides_by_nothing_or_grows_without_end_is_refused(bench, name, value):
    stored = copy.deepcopy(read_checkpoint(bench.checkpoint)["siglip_med"]["refit"])
    stored["arrays"][name].fill_(value)
    assert f"{name} is not above 0" in refusal(read_refit, stored, 3, "x.ckpt")


@pytest.mark.parametrize("kind", ["base", "export"])
@pytest.mark.parametrize("change", ["all nan", "one inf", "whole numbers"])
def test_weights_that_are_none_are_refused(bench, tmp_path, kind, change):
    place = tmp_path / "changed"
    shutil.copytree(bench.place(kind), place)
    tensors = load_file(place / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    if change == "all nan":
        tensors = {key: torch.full_like(value, float("nan")) for key, value in tensors.items()}
    elif change == "one inf":
        tensors[name][0, 0] = float("inf")
    else:
        tensors[name] = (100 * tensors[name]).long()
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    if kind == "export":
        write_sums(place)
    said = refusal(load_export, place) if kind == "export" else refusal(load_model, bench.checkpoint, str(place))
    assert "holds no real numbers" in said if change == "whole numbers" else "is not finite" in said


def test_heads_of_a_dual_encoder_that_are_not_finite_are_refused(tmp_path):
    from siglip_med.export import export_checkpoint

    node = runs.model_node("dual_encoder", tmp_path / "base")
    path = runs.save(runs.build(node), node, tmp_path / "best.ckpt")
    folder = export_checkpoint(path, "merged", tmp_path / "export", license="cc0-1.0")
    heads = load_file(folder / "heads.safetensors")
    save_file({name: value * float("nan") for name, value in heads.items()}, folder / "heads.safetensors")
    write_sums(folder)
    assert "is not finite" in refusal(load_export, folder)


READ = {
    "preprocessor_config.json": ('"image_mean": [0.4', '"image_mean": [0.6'),
    "tokenizer.json": ('"eczema"', '"exzema"'),
}


@pytest.mark.parametrize("file", READ)
def test_a_base_that_reads_otherwise_than_in_training_is_refused(bench, tmp_path, file):
    shutil.copytree(bench.place("base"), tmp_path / "base")
    text = (tmp_path / "base" / file).read_text(encoding="utf-8")
    assert READ[file][0] in text
    (tmp_path / "base" / file).write_text(text.replace(*READ[file]), encoding="utf-8")
    said = refusal(load_model, bench.checkpoint, str(tmp_path / "base"))
    assert "another tokenizer, preprocessor_config.json or config.json" in said
    older = spoiled(bench, tmp_path, lambda c: c["siglip_med"].pop("reading"))
    load_model(older, str(tmp_path / "base"))  # an earlier version says nothing of it


@pytest.mark.parametrize("name", ["image_mean", "image_std"])
def test_a_normalization_is_never_a_librarys_default(bench, tmp_path, name):
    shutil.copytree(bench.place("base"), tmp_path / "base")
    path = tmp_path / "base/preprocessor_config.json"
    path.write_text(path.read_text().replace(f'"{name}"', '"x"'))
    assert name in refusal(load_model, bench.checkpoint, str(tmp_path / "base"))


def test_a_tokenizer_without_padding_is_refused(bench, tmp_path):
    shutil.copytree(bench.place("base"), tmp_path / "base")
    path = tmp_path / "base/tokenizer_config.json"
    path.write_text(path.read_text().replace('"pad_token"', '"x"'))
    assert "pad_token" in refusal(load_model, bench.checkpoint, str(tmp_path / "base"))


GOOD = synthetic_predictions(images=12, conditions=4)
SCORES = np.linspace(0, 1, 12, dtype=np.float32)
BAD = {
    "primary of halves": {"primary": GOOD.primary + 0.0},
    "primary of bools": {"primary": GOOD.primary > 0},
    "text embeddings NaN": {"text_embeddings": GOOD.text_embeddings * np.nan},
    "image embeddings long": {"image_embeddings": 2 * GOOD.image_embeddings},
    "familiarity 2": {"familiarity": 2 * SCORES},
    "familiarity NaN": {"familiarity": SCORES * np.nan},
    "nearest -3": {"nearest": -3 * SCORES},
    "counts without end": {"train_counts": GOOD.train_counts + np.inf},
    "complex embeddings": {"image_embeddings": GOOD.image_embeddings.astype(complex)},
}


@pytest.mark.parametrize("name", BAD)
def test_predictions_that_contradict_themselves_are_refused(name):
    with pytest.raises(ValueError):
        replace(GOOD, **BAD[name])


@pytest.mark.parametrize(("old", "new"), [('"A10.0"', "5"), ('"Condition 1"', '" "'), ('"Group 1"', "null")])
def test_names_on_disk_that_are_no_names_are_refused(tmp_path, old, new):
    GOOD.save(tmp_path)
    path = tmp_path / "meta.json"
    path.write_text(path.read_text().replace(old, new))
    assert "no name" in refusal(Predictions.load, tmp_path)


def test_unchanged_files_are_read(bench):
    model, payload = load_export(bench.place("export"))
    assert torch.isfinite(runs.scores(model)).all()
    assert read_familiarity(payload).scores == read_familiarity(read_checkpoint(bench.checkpoint)["siglip_med"]).scores


def test_an_export_that_computes_otherwise_is_refused(bench, tmp_path):
    shutil.copytree(bench.place("export"), tmp_path / "export")
    path = tmp_path / "export/config.json"
    path.write_text(path.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    write_sums(tmp_path / "export")
    assert "another tokenizer, preprocessor_config.json or config.json" in refusal(load_export, tmp_path / "export")


@pytest.mark.parametrize("change", ["no text_config", "num_hidden_layers", "hidden_size"])
def test_a_config_that_declares_more_than_the_weights_hold_is_refused_before_it_is_built(bench, tmp_path, change):
    place = shutil.copytree(bench.place("base"), tmp_path / "base")
    config = json.loads((place / "config.json").read_text())
    if change == "no text_config":
        del config["text_config"]  # transformers would build its default, 350 MB
    else:
        config["vision_config"][change] = 100_000
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the weights do not hold the \w+ of [\d,]+ that config\.json says"):
        load_weights(str(place), None)
