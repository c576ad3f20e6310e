"""Folders of the layout of DermLIP with PanDerm, converted: its authors' embeddings, adapters, checkpoints, exports."""

import logging
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.export import export_checkpoint, write_merged
from siglip_med.inference.maps import relevance_map
from siglip_med.models import FullFineTune, Lora, check_gradients, clip, load_export, load_model
from tests.models import runs, their_open_clip
from tests.models.biomed import MEAN, STD, WEIGHTS
from tests.models.panderm_pairs import (
    BLOCKS,
    LENGTH,
    PATCH,
    SHARED,
    SIDE,
    WIDTH,
    images_by_hand,
    texts_by_hand,
    write_panderm,
)
from tests.models.their_open_clip import converted
from tests.short_runs import small_settings

TEXTS = ["A photograph of eczema.", "red scaly itchy moles", ""]
NEAR = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def folder(tmp_path):
    write_panderm(tmp_path / "their_model")
    return tmp_path / "their_model"


def embeddings(model):
    """Random pixels, the tokens of `TEXTS`, and the embeddings of both."""
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        return pixels, tokens, model.eval().encode_images(pixels), model.encode_texts(**tokens)


def by_hand(folder, weights, pixels, tokens):
    """The same embeddings from a folder's weights alone."""
    bert = BertModel(BertConfig.from_pretrained(folder.with_name("their_model_bert")), add_pooling_layer=False).eval()
    start = "text.transformer."
    bert.load_state_dict({key.removeprefix(start): one for key, one in weights.items() if key.startswith(start)})
    with torch.no_grad():
        states = bert(**tokens).last_hidden_state
        return images_by_hand(weights, pixels), texts_by_hand(weights, states, tokens["attention_mask"])


def test_embeddings_are_those_of_the_formulas(folder, caplog):
    caplog.set_level(logging.WARNING, logger="siglip_med")
    weights = load_file(folder / WEIGHTS)
    ours = clip(converted(folder), adaptation=FullFineTune())
    pixels, tokens, images, texts = embeddings(ours)
    expected_images, expected_texts = by_hand(folder, weights, pixels, tokens)
    torch.testing.assert_close(images, expected_images, **NEAR)
    torch.testing.assert_close(texts, expected_texts, **NEAR)
    assert tokens["input_ids"].shape == (3, LENGTH)
    assert ours.logit_scale.item() == pytest.approx(weights["logit_scale"].item())
    assert ours.logit_bias.item() == 0.0
    assert (ours.image_spec.size, list(ours.image_spec.mean), list(ours.image_spec.std)) == (SIDE, MEAN, STD)
    line = "preprocess_cfg.resize_mode=shortest not used: images become squares whole"
    assert [line in message for message in caplog.messages] == [True]


def test_texts_are_those_of_open_clips_text_encoder(folder):
    weights = load_file(folder / WEIGHTS)
    _, tokens, _, texts = embeddings(clip(converted(folder)))
    bert = str(folder.with_name("their_model_bert"))
    default = their_open_clip.part("model").CLIPTextCfg()
    encoder = their_open_clip.part("hf_model").HFTextEncoder(
        bert, SHARED, None, "mean_pooler", default.hf_proj_type, pretrained=False
    )
    encoder.load_state_dict({key.removeprefix("text."): one for key, one in weights.items() if key.startswith("text.")})
    with torch.no_grad():
        torch.testing.assert_close(texts, encoder.eval()(tokens["input_ids"]), **NEAR)


def test_adapters_are_trained_and_come_back_from_a_merged_export(folder, tmp_path):
    ours = clip(converted(folder), adaptation=Lora(rank=2, dropout=0.0))
    pixels, tokens, before, texts_before = embeddings(ours)
    assert runs.adapters_alone(ours) == 6 * (BLOCKS + 2)
    runs.move_adapters(ours, pixels, tokens, rate=0.02)
    check_gradients(ours)
    _, _, images, texts = embeddings(ours)
    assert (images - before).abs().max() > 1e-3
    assert (texts - texts_before).abs().max() > 1e-3
    (tmp_path / "out").mkdir()
    write_merged(ours, tmp_path / "out")
    again = clip(str(tmp_path / "out"), adaptation=FullFineTune())
    torch.testing.assert_close(embeddings(again)[2], images, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(embeddings(again)[3], texts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again.logit_bias, ours.logit_bias)


def test_every_weight_is_trained_where_all_are(folder):
    ours = clip(converted(folder), adaptation=FullFineTune(), gradient_checkpointing=True)
    pixels, tokens, _, _ = embeddings(ours)
    ours.train().logits(ours.encode_images(pixels), ours.encode_texts(**tokens)).square().mean().backward()
    check_gradients(ours)
    heads = {name for name, value in ours.named_parameters() if "visual_projection" in name and value.requires_grad}
    assert {name.rpartition(".")[2] for name in heads} == {"weight", "bias"}


@torch.no_grad()
def test_kept_states_give_the_same_embeddings(folder):
    ours = clip(converted(folder), adaptation=Lora(first_block={"vision": 2, "text": 1}))
    pixels, tokens, images, texts = embeddings(ours)
    states = ours.image_states(pixels)
    assert states.shape == (3, (SIDE // PATCH) ** 2 + 1, WIDTH)
    torch.testing.assert_close(ours.encode_images(states), images, **NEAR)
    torch.testing.assert_close(ours.encode_texts(**tokens, states=ours.text_states(**tokens)), texts, **NEAR)


def test_a_run_on_kept_states_trains_it_and_its_export_comes_back(cache, folder, tmp_path, monkeypatch, capsys):
    base = converted(folder)
    words = ["model=clip_base", f"model.path={base}", "model.adaptation.rank=2", "features=cached", "seed=1"]
    words += ["model.adaptation.first_block={vision: 2}", "trainer.max_epochs=1", "+trainer.limit_train_batches=1"]
    words += ["trainer.accelerator=cpu", "data.batch_size=4", "refit=null"]
    words += ["evaluation.bootstrap=2", "evaluation.probe_images=0", "evaluation.neighbours=0"]
    train.run(small_settings(cache, tmp_path / "run", *words))
    checkpoint = next((tmp_path / "run").rglob("best.ckpt"))
    model, about = load_model(checkpoint)
    trained = {name for name, value in model.named_parameters() if "lora_B" in name and value.abs().sum() > 0}
    assert {".layers.2." in name for name in trained if "vision_model" in name} == {True}
    assert about["base"]["name"] == base
    exported = export_checkpoint(checkpoint, "merged", tmp_path / "export")
    again, _ = load_export(exported)
    for one, other in zip(embeddings(model)[2:], embeddings(again)[2:], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    for format in ("open_clip", "peft"):
        with pytest.raises(UserError, match=f"format={format}.* use format=merged"):
            export_checkpoint(checkpoint, format, tmp_path / format)
        assert not (tmp_path / format).exists()
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "no other library has a class for a ViT beside a BERT" in card
    assert "library_name: siglip-med" in card
    assert "without any code of siglip-med" not in card
    (lines,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    monkeypatch.chdir(exported)
    capsys.readouterr()
    names: dict = {}
    with torch.no_grad():  # which the lines switch off for good
        exec(lines, names)
        prompts = model.encode_texts(**model.tokenize(names["texts"]))
        expected = model.logits(model.encode_images(names["pixel_values"]), prompts)
    torch.testing.assert_close(names["logits"], expected, rtol=1e-3, atol=1e-3)
    assert len(capsys.readouterr().out.splitlines()) == 5
    write_panderm(tmp_path / "other" / "their_model", seed=1)
    with pytest.raises(UserError, match="is another base"):
        load_model(checkpoint, base=converted(tmp_path / "other" / "their_model"))


def test_a_map_follows_the_patches(folder):
    """With one block, the class token's own attention carries nothing into such a score."""
    weights = load_file(folder / WEIGHTS)
    later = ("visual.blocks.1.", "visual.blocks.2.")
    save_file({name: one for name, one in weights.items() if not name.startswith(later)}, folder / WEIGHTS)
    their_open_clip.change(folder, "vision_cfg.layers", 1)
    model = clip(converted(folder))
    pixels, _, _, _ = embeddings(model)
    relevance = relevance_map(model, pixels[0], torch.randn(SHARED, generator=torch.Generator().manual_seed(2)))
    assert relevance.shape == (SIDE // PATCH, SIDE // PATCH)
    assert relevance.min() > 0


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("vision_cfg.layers", 2, "depth=2, but the weights beside it do not fit: they have depth=3"),
        ("vision_cfg.layers", 0, "depth=0, but the weights"),
        ("vision_cfg.layers", [2, 2, 2, 2], r"depth=\[2, 2, 2, 2\], but the weights"),
        ("vision_cfg.width", 96, "embed_dim=96, but the weights"),
        ("vision_cfg.width", "many", "or the weights beside it, are damaged"),
        ("vision_cfg.patch_size", 7, "patch_size=7, but the weights"),
        ("vision_cfg.image_size", 40, "img_size=40, but the weights"),
        ("vision_cfg.pool_type", "tok", "vision_cfg.pool_type=tok: it is not known"),
        ("vision_cfg.head_width", 32, "vision_cfg.head_width=32: it is not known"),
        ("text_cfg.hf_pooler_type", "cls_pooler", "text_cfg.hf_pooler_type=cls_pooler: converted are"),
        ("text_cfg.hf_model_name", None, "vision_cfg.pretrain_path=.*: it is not known"),
        ("text_cfg.context_length", 81, "its BERT takes 1 to 80 tokens"),
        ("embed_dim", 21, "open_clip_config.json do not fit it"),
    ],
)
def test_another_model_is_refused_in_one_line(key, value, line, folder):
    their_open_clip.change(folder, key, value)
    with pytest.raises(UserError, match=line) as refusal:
        clip(converted(folder))
    assert "\n" not in str(refusal.value)


def test_towers_of_other_names_are_refused(folder):
    """Its successor wraps the tower, and pools it otherwise; CAE's own fine-tuning calls its norm ``fc_norm``."""
    weights = load_file(folder / WEIGHTS)
    for change in (("visual.", "visual.trunk."), ("visual.norm.", "visual.fc_norm.")):
        renamed = {name.replace(*change): one for name, one in weights.items()}
        save_file(renamed, folder / WEIGHTS)
        with pytest.raises(UserError, match=r"open_clip_config\.json.* do not fit|weights beside it, are damaged"):
            clip(converted(folder))
