"""Why a model cannot be had is said in one line."""

import json
import shutil

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig

from siglip_med.core.errors import UserError
from siglip_med.models import clip, dual_encoder, siglip
from siglip_med.models.hub import resolve_path
from tests.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_siglip(tmp_path_factory.mktemp("siglip"))


def refusal(function, *args, **settings) -> str:
    with pytest.raises(UserError) as error:
        function(*args, **settings)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unreachable_hub_is_one_sentence_with_two_ways_round():
    text = refusal(siglip, "google/siglip-base-patch16-224")
    assert text.startswith("google/siglip-base-patch16-224 is not in the local cache")
    assert "model.path=" in text
    assert "HF_HOME" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (GatedRepoError, "is gated: accept its terms on https://huggingface.co/some/model"),
        (RepositoryNotFoundError, "there is no model some/model"),
        (RevisionNotFoundError, "has no revision v9"),
    ],
)
def test_what_the_hub_answers_is_told_apart(kind, words, monkeypatch):
    def refuse(*args, **settings):
        cause = kind.__new__(kind)
        Exception.__init__(cause, "401")
        raise OSError("You are trying to access …\nmore lines") from cause

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", refuse)
    assert words in refusal(siglip, "some/model", revision="v9")


def test_missing_folders_are_not_taken_for_hub_ids(tmp_path):
    for path in (str(tmp_path / "none"), "./none", "~/none-of-this", "package:none", "a/b/c"):
        assert "no model folder" in refusal(siglip, path)
    assert "no config.json" in refusal(siglip, str(tmp_path))


def test_packaged_models_resolve_into_the_package():
    text = refusal(resolve_path, "package:no_such_model")
    assert "package:no_such_model" in text


def test_truncated_weights_are_one_clear_line(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    text = refusal(siglip, str(copy))
    assert "truncated or damaged" in text
    assert str(copy) in text


def test_weights_that_lack_a_tensor_are_refused_rather_than_drawn_at_random(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    del weights["text_model.head.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "1 missing (text_model.head.weight)" in refusal(siglip, str(copy))


def test_weights_of_another_shape_are_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["vocab_size"] = 50
    (copy / "config.json").write_text(json.dumps(config))
    refusal(siglip, str(copy))


def test_half_precision_files_are_loaded_in_full_precision(tmp_path):
    model = siglip(str(tiny.write_siglip(tmp_path, dtype=torch.float16)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_another_family_is_refused_with_the_config_that_fits(folder):
    assert "'siglip' model, not clip or siglip_med_vit_bert: use model=siglip_base" in refusal(clip, str(folder))


def test_dual_encoder_resizes_on_request_and_refuses_texts_that_are_too_long(tmp_path):
    parts = tiny.write_dual(tmp_path)
    model = dual_encoder(**parts, image_size=16, max_text_length=8)
    assert model.image_spec.size == 16
    assert model.encode_images(torch.zeros(1, 3, 16, 16)).shape == (1, 256)
    assert "takes 64 tokens at most" in refusal(dual_encoder, **parts, max_text_length=65)


def test_a_dual_encoder_takes_the_tower_of_a_two_tower_model(folder, tmp_path):
    text = tiny.write_dual(tmp_path)["text"]
    model = dual_encoder(str(folder), text, vision_pooling="pooler", max_text_length=8)
    reference = siglip(str(folder)).eval()
    images = torch.randn(2, 3, tiny.IMAGE, tiny.IMAGE)
    assert torch.allclose(model.eval().image_features(images), reference.image_features(images), atol=1e-5)
