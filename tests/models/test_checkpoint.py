"""Checkpoints: small, harmless to open, and tied to their base."""

import os
import pickle

import numpy as np
import pytest
import torch

from siglip_med.core.errors import UserError
from siglip_med.models import (
    checkpoint_payload,
    finalize_checkpoint,
    load_model,
    read_checkpoint,
    read_trained,
    write_checkpoint,
)
from tests.models import runs, tiny


@pytest.fixture
def run(tmp_path):
    node = runs.model_node("siglip", tmp_path / "base")
    model = runs.train(runs.build(node))
    return model, node, runs.save(model, node, tmp_path / "best.ckpt")


def refusal(function, *args) -> str:
    with pytest.raises(UserError) as error:
        function(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", runs.KINDS)
def test_a_loaded_model_gives_the_trained_models_logits(kind, tmp_path):
    node = runs.model_node(kind, tmp_path / "base")
    fresh = runs.build(node).eval()
    model = runs.train(runs.build(node))
    loaded, payload = load_model(runs.save(model, node, tmp_path / "best.ckpt"))
    assert torch.allclose(runs.scores(loaded), runs.scores(model), atol=1e-6)
    assert not torch.allclose(runs.scores(fresh), runs.scores(model), atol=1e-2)
    assert not loaded.training
    assert payload["base"] == model.base.model_dump()
    assert payload["conditions"] == ["Eczema", "Melanoma", "Urticaria"]


def test_it_holds_what_is_trained_and_not_the_base(run):
    model, _, path = run
    state = read_checkpoint(path)["state_dict"]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.removeprefix("model.") for name in state} == trained
    assert sum(value.numel() for value in state.values()) < sum(p.numel() for p in model.parameters()) / 2


def test_a_fixed_bias_is_stored_all_the_same(tmp_path):
    logits = {"_target_": "siglip_med.models.Logits", "bias": -2.0, "train_bias": False}
    node = runs.model_node("siglip", tmp_path / "base", logits=logits)
    path = runs.save(runs.build(node), node, tmp_path / "best.ckpt")
    assert read_checkpoint(path)["state_dict"]["model.logit_bias"].item() == -2


def test_loading_leaves_the_callers_random_numbers_alone(run):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_model(run[2])
    assert torch.equal(torch.rand(2), expected)


def test_another_base_is_refused_in_one_sentence(run, tmp_path):
    _, node, path = run
    other = tiny.write_siglip(tmp_path / "other", seed=9)
    text = refusal(load_model, path, str(other))
    assert f"was trained on {node['path']}" in text
    assert f"{other} is another base" in text


def test_a_moved_base_is_found_by_its_new_name(run, tmp_path):
    model, node, path = run
    moved = tmp_path / "moved"
    os.rename(node["path"], moved)  # noqa: PTH104
    assert "or give its folder now: base=folder" in refusal(load_model, path)
    loaded, _ = load_model(path, str(moved))
    assert torch.allclose(runs.scores(loaded), runs.scores(model), atol=1e-6)


def test_both_bases_of_a_dual_encoder_can_move(tmp_path):
    node = runs.model_node("dual_encoder", tmp_path / "base")
    model = runs.train(runs.build(node))
    path = runs.save(model, node, tmp_path / "best.ckpt")
    os.rename(tmp_path / "base", tmp_path / "moved")  # noqa: PTH104
    moved = {name: str(tmp_path / "moved" / name) for name in ("vision", "text")}
    loaded, _ = load_model(path, moved)
    assert torch.allclose(runs.scores(loaded), runs.scores(model), atol=1e-6)
    assert "give 'base={vision: folder, text: folder}'" in refusal(load_model, path, str(tmp_path / "moved"))
    assert "has no such base" in refusal(load_model, path, {"image": "x"})


def test_another_adaptation_is_refused(run):
    _, node, path = run
    other = runs.build({**node, "adaptation": {"_target_": "siglip_med.models.Lora", "rank": 2}})
    assert "of another shape" in refusal(read_trained, other, path)
    frozen = runs.build({**node, "adaptation": {"_target_": "siglip_med.models.Frozen"}})
    assert "use the run's own model.adaptation" in refusal(read_trained, frozen, path)


def test_a_model_that_trains_more_can_start_from_anothers_heads(tmp_path):
    node = runs.model_node("dual_encoder", tmp_path / "base", {"_target_": "siglip_med.models.Frozen"})
    frozen = runs.train(runs.build(node))
    path = runs.save(frozen, node, tmp_path / "heads.ckpt")
    lora = runs.build(node | {"adaptation": runs.LORA}).eval()
    before = runs.scores(lora)
    weights, payload = read_trained(lora, path, partial=True)
    assert torch.equal(runs.scores(lora), before), "reading changes nothing"
    assert payload["split_hash"] == "abc123"
    lora.load_trainable_state(weights, partial=True)
    # Adapters that were not trained yet change nothing, so the scores are those of the frozen run.
    assert torch.allclose(runs.scores(lora), runs.scores(frozen), atol=1e-6)
    assert "missing" in refusal(read_trained, lora, path)


def test_a_model_that_trains_less_cannot_start_from_anothers_adapters(run):
    _, node, path = run
    frozen = runs.build({**node, "adaptation": {"_target_": "siglip_med.models.Frozen"}})
    text = refusal(read_trained, frozen, path, True)
    assert text.startswith(str(path))
    assert "train at least what that run trained" in text


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_malicious_pickle_is_refused_and_not_run(writer, tmp_path):
    path, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    content = {"state_dict": {}, "siglip_med": runs.Malicious(trace)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    assert "refused to load" in refusal(read_checkpoint, path)
    assert not trace.exists()


def test_a_config_that_names_another_function_is_refused(run, tmp_path):
    checkpoint = read_checkpoint(run[2])
    model = checkpoint["siglip_med"]["config"]["model"]
    model["adaptation"] = {"_target_": "os.mkdir", "path": str(tmp_path / "trace")}
    write_checkpoint(checkpoint, tmp_path / "evil.ckpt")
    assert "would call 'os.mkdir'" in refusal(load_model, tmp_path / "evil.ckpt")
    assert not (tmp_path / "trace").exists()


def test_files_that_are_no_checkpoint_are_one_line(run, tmp_path):
    assert "no checkpoint" in refusal(read_checkpoint, tmp_path / "none.ckpt")
    data = run[2].read_bytes()
    for name, content in {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello, this is text"}.items():
        path = tmp_path / f"{name}.ckpt"
        path.write_bytes(content)
        assert str(path) in refusal(read_checkpoint, path)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert "not a checkpoint of this project" in refusal(read_checkpoint, tmp_path / "other.ckpt")


def test_a_newer_format_is_refused(run, tmp_path):
    checkpoint = read_checkpoint(run[2])
    checkpoint["siglip_med"]["version"] = 99
    write_checkpoint(checkpoint, tmp_path / "new.ckpt")
    assert "version 99" in refusal(read_checkpoint, tmp_path / "new.ckpt")


def test_the_payload_is_plain(run, tmp_path):
    model = run[0]
    payload = checkpoint_payload(model, {"path": tmp_path, "r": np.float32(0.5)}, ("a",), ("b",), (("c",),), "h")
    assert payload["config"] == {"path": str(tmp_path), "r": 0.5}
    assert type(payload["config"]["r"]) is float
    with pytest.raises(TypeError, match="plain values alone, not Tensor"):
        checkpoint_payload(model, {"x": torch.zeros(1)}, (), (), (), "h")


def test_results_are_added_to_a_finished_run(run):
    _, _, path = run
    before = read_checkpoint(path)
    finalize_checkpoint(path, metrics={"r_at_5": np.float64(0.9)}, calibration={"temperature": 1.5, "bias": 0.1})
    after = read_checkpoint(path)
    assert after["siglip_med"]["metrics"] == {"r_at_5": 0.9}
    assert after["siglip_med"]["calibration"] == {"temperature": 1.5, "bias": 0.1}
    assert after["siglip_med"]["config"] == before["siglip_med"]["config"]
    assert after["state_dict"].keys() == before["state_dict"].keys()
    assert [file.name for file in path.parent.glob("*") if file.is_file()] == ["best.ckpt"]
