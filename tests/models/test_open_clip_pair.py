"""Folders of BiomedCLIP's layout: open_clip's own embeddings, adapters, and back again."""

import importlib.util
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, normalize
from transformers import BertConfig

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.export import export_checkpoint, write_open_clip
from siglip_med.models import Frozen, FullFineTune, Lora, check_gradients, load_model, open_clip
from siglip_med.models.open_clip_pair import pair_names, read_pair
from tests.models import biomed, runs, their_open_clip
from tests.models.biomed import CONFIG, LENGTH, SHARED, SIDE, WEIGHTS, write_biomed
from tests.short_runs import small_settings

TEXTS = ["A photograph of eczema.", "red scaly itchy moles", ""]
BOTH = [{}, {"text_cfg": {"hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}}]
NEAR = {"rtol": 1e-5, "atol": 1e-5}


def embeddings(model):
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    tokens = model.tokenize(TEXTS)
    with torch.no_grad():
        return pixels, tokens, model.eval().encode_images(pixels), model.encode_texts(**tokens)


def their_texts(folder, weights, input_ids):
    """open_clip's text encoder with these weights, on tokens alone: it makes the mask itself."""
    text = json.loads((folder / CONFIG).read_text())["model_cfg"]["text_cfg"]
    encoder = their_open_clip.part("hf_model").HFTextEncoder(
        text["hf_model_name"], SHARED, None, text["hf_pooler_type"], text["hf_proj_type"], pretrained=False
    )
    start = "text."
    encoder.load_state_dict({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)})
    with torch.no_grad():
        return encoder.eval()(input_ids)


@pytest.mark.parametrize("changes", BOTH, ids=["mlp_cls", "linear_mean"])
def test_embeddings_are_those_of_the_formulas_and_of_open_clips_text_encoder(changes, tmp_path):
    weights = write_biomed(tmp_path / "their_model", **changes)
    ours = open_clip(str(tmp_path / "their_model"), adaptation=FullFineTune())
    pixels, tokens, images, texts = embeddings(ours)
    by_hand = linear(biomed.vit_by_hand(biomed.trunk(weights), pixels), weights["visual.head.proj.weight"])
    torch.testing.assert_close(images, by_hand, **NEAR)
    torch.testing.assert_close(texts, their_texts(tmp_path / "their_model", weights, tokens["input_ids"]), **NEAR)
    torch.testing.assert_close(ours.encode_texts(tokens["input_ids"]), texts, **NEAR)  # the mask follows from padding
    assert ours.logit_scale.item() == pytest.approx(weights["logit_scale"].item())
    assert ours.logit_bias.item() == 0.0
    assert (ours.image_spec.size, list(ours.image_spec.mean)) == (SIDE, biomed.MEAN)
    assert tokens["input_ids"].shape == (3, LENGTH)
    assert tokens["attention_mask"].sum(dim=1).tolist() == [7, 7, 2]


@pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed: open_clip's towers need it"
)
@pytest.mark.parametrize("changes", BOTH, ids=["mlp_cls", "linear_mean"])
def test_embeddings_are_those_of_open_clips_whole_model(changes, tmp_path):
    weights = write_biomed(tmp_path / "their_model", **changes)
    content = json.loads((tmp_path / "their_model" / CONFIG).read_text())["model_cfg"]
    content["text_cfg"]["hf_model_pretrained"] = False
    their = their_open_clip.part("model")
    text, vision = their.CLIPTextCfg(**content["text_cfg"]), their.CLIPVisionCfg(**content["vision_cfg"])
    model = their.CustomTextCLIP(SHARED, vision, text).eval()
    model.load_state_dict(weights)
    pixels, tokens, images, texts = embeddings(open_clip(str(tmp_path / "their_model")))
    with torch.no_grad():
        torch.testing.assert_close(images, model.encode_image(pixels), **NEAR)
        torch.testing.assert_close(texts, model.encode_text(tokens["input_ids"]), **NEAR)


def test_adapters_are_trained_and_come_back_in_open_clips_format(tmp_path):
    write_biomed(tmp_path / "their_model")
    ours = open_clip(str(tmp_path / "their_model"), adaptation=Lora(rank=2, dropout=0.0))
    pixels, tokens, before, texts_before = embeddings(ours)
    assert runs.adapters_alone(ours) == 6 * (biomed.BLOCKS + 2)
    runs.move_adapters(ours, pixels, tokens, rate=0.05)
    check_gradients(ours)
    _, _, images, texts = embeddings(ours)
    assert (images - before).abs().max() > 1e-3
    assert (texts - texts_before).abs().max() > 1e-3
    (tmp_path / "out").mkdir()
    write_open_clip(ours, tmp_path / "out")
    exported = load_file(tmp_path / "out" / WEIGHTS)
    assert exported.keys() == load_file(tmp_path / "their_model" / WEIGHTS).keys() | {"logit_bias"}
    by_hand = linear(biomed.vit_by_hand(biomed.trunk(exported), pixels), exported["visual.head.proj.weight"])
    torch.testing.assert_close(by_hand, images, **NEAR)
    torch.testing.assert_close(their_texts(tmp_path / "out", exported, tokens["input_ids"]), texts, **NEAR)
    shutil.rmtree(tmp_path / "their_model_bert")  # the export holds the text tower's config itself
    again = open_clip(str(tmp_path / "out"), adaptation=FullFineTune())
    assert torch.equal(again.tokenize(TEXTS)["input_ids"], tokens["input_ids"])
    torch.testing.assert_close(embeddings(again)[2], images, **NEAR)
    torch.testing.assert_close(embeddings(again)[3], texts, **NEAR)
    torch.testing.assert_close(again.logit_bias, ours.logit_bias)
    torch.testing.assert_close(again.logit_scale, ours.logit_scale)


def test_its_heads_are_pretrained_and_train_where_they_are_asked_to(tmp_path):
    write_biomed(tmp_path / "their_model")
    ours = open_clip(str(tmp_path / "their_model"), adaptation=Frozen())
    trained = {name.removeprefix("backbones.model.") for name, value in ours.named_parameters() if value.requires_grad}
    heads = {"visual_projection.weight", "text_projection.0.weight", "text_projection.2.weight"}
    assert trained == heads | {"logit_scale", "logit_bias"}
    assert ours.vision_is_frozen
    assert ours.text_is_frozen


def test_kept_states_give_the_same_embeddings(tmp_path):
    write_biomed(tmp_path / "their_model")
    ours = open_clip(str(tmp_path / "their_model"), adaptation=Lora(first_block={"vision": 4, "text": 1}))
    pixels, tokens, images, texts = embeddings(ours)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_images(ours.image_states(pixels)), images, **NEAR)
        states = ours.text_states(**tokens)
        torch.testing.assert_close(ours.encode_texts(**tokens, states=states), texts, **NEAR)


def test_a_run_trains_it_and_its_export_comes_back(cache, tmp_path):
    write_biomed(tmp_path / "their_model")
    words = ["model=open_clip", f"model.path={tmp_path / 'their_model'}", "model.adaptation.rank=2", "seed=1"]
    words += ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "trainer.accelerator=cpu", "data.batch_size=4"]
    words += ["evaluation.bootstrap=2", "evaluation.probe_images=0", "evaluation.neighbours=0"]
    train.run(small_settings(cache, tmp_path / "run", *words))
    checkpoint = next((tmp_path / "run").rglob("best.ckpt"))
    model, _ = load_model(checkpoint)
    assert any(value.abs().sum() > 0 for name, value in model.named_parameters() if "lora_B" in name)
    folder = export_checkpoint(checkpoint, "open_clip", tmp_path / "export")
    again = open_clip(str(folder), adaptation=FullFineTune())
    for one, other in zip(embeddings(model)[2:], embeddings(again)[2:], strict=True):
        torch.testing.assert_close(other, one, **NEAR)
    for format in ("merged", "peft"):
        with pytest.raises(UserError, match=f"format={format}: .* use format=open_clip"):
            export_checkpoint(checkpoint, format, tmp_path / format)
        assert not (tmp_path / format).exists()


def test_weights_as_tensors_of_torch_are_read_and_anything_else_is_not_run(tmp_path):
    folder = tmp_path / "their_model"
    weights = write_biomed(folder)
    _, _, images, texts = embeddings(open_clip(str(folder)))
    (folder / WEIGHTS).unlink()
    file = folder / "open_clip_pytorch_model.bin"
    # as the first revisions of transformers had it
    positions = {"text.transformer.embeddings.position_ids": torch.arange(80)[None]}
    torch.save(weights | positions, file)
    again = embeddings(open_clip(str(folder)))
    assert torch.equal(again[2], images)
    assert torch.equal(again[3], texts)
    torch.save({"state_dict": weights}, file)
    with pytest.raises(UserError, match="holds something else than the weights of a model"):
        open_clip(str(folder))
    torch.save(weights | {"more": runs.Malicious(tmp_path / "pwned")}, file)
    with pytest.raises(UserError, match="was not loaded, since that could run code") as refusal:
        open_clip(str(folder))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "pwned").exists()
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match="is damaged, or holds more than tensors"):
        open_clip(str(folder))


def test_biomedclips_own_config_is_read_as_its_weights_have_it(tmp_path, monkeypatch):
    """The layout at full size, with nothing of the hub: names and shapes alone."""
    monkeypatch.setattr("siglip_med.models.open_clip_pair.fill", lambda *given: None)
    text = {"proj": "mlp", "pooler_type": "cls_last_hidden_state_pooler", "context_length": 256}
    text["hf_model_name"] = text["hf_tokenizer_name"] = "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract"
    vision = {"timm_model_name": "vit_base_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    content = {"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}}
    with torch.device("meta"):
        model, _ = read_pair(tmp_path, content, "biomedclip")
    state = model.state_dict()
    shapes = {old: [tuple(state[name].shape) for name in new] for old, new in pair_names(model)}
    assert shapes["visual.trunk.pos_embed"] == [(1, 197, 768)]
    assert shapes["visual.trunk.blocks.11.attn.qkv.weight"] == [(768, 768)] * 3
    assert shapes["visual.head.proj.weight"] == [(512, 768)]
    assert shapes["text.transformer.embeddings.word_embeddings.weight"] == [(30522, 768)]
    assert shapes["text.transformer.encoder.layer.11.intermediate.dense.weight"] == [(3072, 768)]
    assert (shapes["text.proj.0.weight"], shapes["text.proj.2.weight"]) == ([(640, 768)], [(512, 640)])
    assert sum(value.numel() for value in state.values()) == 195_902_721  # its file has 784 MB


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("vision_cfg.timm_model_name", "vit_base_patch16_clip_224", "none of timm's plain vision .* read: vit_{tiny,"),
        ("vision_cfg.timm_model_name", "resnet50", "its vision tower resnet50 is none of timm's plain"),
        (
            "vision_cfg.timm_model_name",
            "vit_tiny_patch16_224",
            "image_size is 160, but vit_tiny_patch16_224 takes .* 224",
        ),
        ("vision_cfg.timm_pool", "avg", "vision_cfg.timm_pool is 'avg'; read are '', 'token'"),
        ("vision_cfg.timm_pool", None, "vision_cfg.timm_pool is 'avg'"),
        ("vision_cfg.timm_proj", "mlp", "vision_cfg.timm_proj is 'mlp'; read are 'linear'"),
        ("vision_cfg.timm_proj_bias", True, "timm_proj_bias=True makes it another"),
        ("text_cfg.hf_pooler_type", "cls_pooler", "text_cfg.hf_pooler_type is 'cls_pooler'"),
        ("text_cfg.hf_proj_type", "linear", "do not fit its open_clip_config.json"),
        ("text_cfg.context_length", 81, "its BERT takes 1 to 80 tokens"),
        ("text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}, "text_cfg.tokenizer_kwargs=.* makes it another"),
        (
            "text_cfg.hf_model_name",
            "/nowhere/bert",
            "cannot be had .* put that model's config.json .* text_config.json",
        ),
        ("embed_dim", 21, "do not fit its open_clip_config.json"),
        ("embed_dim", "many", "is damaged or was written by something else"),
    ],
)
def test_another_model_is_refused_in_one_line(key, value, line, tmp_path):
    write_biomed(tmp_path / "their_model")
    their_open_clip.change(tmp_path / "their_model", key, value)
    with pytest.raises(UserError, match=line) as refusal:
        open_clip(str(tmp_path / "their_model"))
    assert "\n" not in str(refusal.value)


def test_another_text_tower_or_tokenizer_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "their_model"
    write_biomed(folder)
    bert = BertConfig.from_pretrained(tmp_path / "their_model_bert").to_dict()
    (folder / "text_config.json").write_text(json.dumps(bert | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="is a 'roberta' model; only BERT is read there"):
        open_clip(str(folder))
    (folder / "text_config.json").write_text(json.dumps(bert | {"pad_token_id": 1}))
    with pytest.raises(UserError, match=r"its text tower knows .* and expects 1: put the files of"):
        open_clip(str(folder))
    (folder / "text_config.json").unlink()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="cannot load the model in") as refusal:
        open_clip(str(folder))
    assert "\n" not in str(refusal.value)


def test_logits_with_a_bias_of_its_own(tmp_path):
    folder = tmp_path / "their_model"
    weights = write_biomed(folder)
    save_file({k: v.contiguous() for k, v in weights.items()} | {"logit_bias": torch.tensor(-7.0)}, folder / WEIGHTS)
    ours = open_clip(str(folder))
    _, _, images, texts = embeddings(ours)
    expected = weights["logit_scale"].exp() * normalize(images) @ normalize(texts).T - 7.0
    torch.testing.assert_close(ours.logits(images, texts).detach(), expected, **NEAR)
