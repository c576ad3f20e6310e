"""Folders of BiomedCLIP's layout, converted: open_clip's own embeddings, adapters, and exports."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import linear, normalize
from transformers import BertConfig

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.export import export_checkpoint, write_merged
from siglip_med.models import Frozen, FullFineTune, Lora, check_gradients, clip, load_export, load_model
from siglip_med.models.conversion.open_clip import pair_names
from siglip_med.models.conversion.timm import vit_config
from siglip_med.models.pairs import VitBertConfig, VitBertModel
from tests.models import biomed, runs, their_open_clip
from tests.models.biomed import CONFIG, LENGTH, SHARED, SIDE, WEIGHTS, write_biomed
from tests.models.their_open_clip import converted
from tests.models.their_timm import timm
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
    ours = clip(converted(tmp_path / "their_model"), adaptation=FullFineTune())
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


@pytest.mark.parametrize("changes", BOTH, ids=["mlp_cls", "linear_mean"])
def test_embeddings_are_those_of_open_clips_whole_model(changes, tmp_path):
    timm()  # open_clip builds its image tower with it
    weights = write_biomed(tmp_path / "their_model", **changes)
    content = json.loads((tmp_path / "their_model" / CONFIG).read_text())["model_cfg"]
    content["text_cfg"]["hf_model_pretrained"] = False
    their = their_open_clip.part("model")
    text, vision = their.CLIPTextCfg(**content["text_cfg"]), their.CLIPVisionCfg(**content["vision_cfg"])
    model = their.CustomTextCLIP(SHARED, vision, text).eval()
    model.load_state_dict(weights)
    pixels, tokens, images, texts = embeddings(clip(converted(tmp_path / "their_model")))
    with torch.no_grad():
        torch.testing.assert_close(images, model.encode_image(pixels), **NEAR)
        torch.testing.assert_close(texts, model.encode_text(tokens["input_ids"]), **NEAR)


def test_adapters_are_trained_and_come_back_from_a_merged_export(tmp_path):
    write_biomed(tmp_path / "their_model")
    ours = clip(converted(tmp_path / "their_model"), adaptation=Lora(rank=2, dropout=0.0))
    pixels, tokens, before, texts_before = embeddings(ours)
    assert runs.adapters_alone(ours) == 6 * (biomed.BLOCKS + 2)
    runs.move_adapters(ours, pixels, tokens, rate=0.05)
    check_gradients(ours)
    _, _, images, texts = embeddings(ours)
    assert (images - before).abs().max() > 1e-3
    assert (texts - texts_before).abs().max() > 1e-3
    (tmp_path / "out").mkdir()
    write_merged(ours, tmp_path / "out")
    again = clip(str(tmp_path / "out"), adaptation=FullFineTune())
    assert torch.equal(again.tokenize(TEXTS)["input_ids"], tokens["input_ids"])
    torch.testing.assert_close(embeddings(again)[2], images, **NEAR)
    torch.testing.assert_close(embeddings(again)[3], texts, **NEAR)
    torch.testing.assert_close(again.logit_bias, ours.logit_bias)
    torch.testing.assert_close(again.logit_scale, ours.logit_scale)


def test_its_heads_are_pretrained_and_train_where_they_are_asked_to(tmp_path):
    write_biomed(tmp_path / "their_model")
    ours = clip(converted(tmp_path / "their_model"), adaptation=Frozen())
    trained = {name.removeprefix("backbones.model.") for name, value in ours.named_parameters() if value.requires_grad}
    heads = {"visual_projection.weight", "text_projection.0.weight", "text_projection.2.weight"}
    assert trained == heads | {"logit_scale", "logit_bias"}
    assert ours.vision_is_frozen
    assert ours.text_is_frozen


def test_kept_states_give_the_same_embeddings(tmp_path):
    write_biomed(tmp_path / "their_model")
    ours = clip(converted(tmp_path / "their_model"), adaptation=Lora(first_block={"vision": 4, "text": 1}))
    pixels, tokens, images, texts = embeddings(ours)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_images(ours.image_states(pixels)), images, **NEAR)
        states = ours.text_states(**tokens)
        torch.testing.assert_close(ours.encode_texts(**tokens, states=states), texts, **NEAR)


def test_a_run_trains_it_and_its_export_comes_back(cache, tmp_path):
    write_biomed(tmp_path / "their_model")
    words = [
        "model=clip_base",
        f"model.path={converted(tmp_path / 'their_model')}",
        "model.adaptation.rank=2",
        "seed=1",
    ]
    words += ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "trainer.accelerator=cpu", "data.batch_size=4"]
    words += ["evaluation.bootstrap=2", "evaluation.probe_images=0", "evaluation.neighbours=0"]
    train.run(small_settings(cache, tmp_path / "run", *words))
    checkpoint = next((tmp_path / "run").rglob("best.ckpt"))
    model, _ = load_model(checkpoint)
    assert any(value.abs().sum() > 0 for name, value in model.named_parameters() if "lora_B" in name)
    again, _ = load_export(export_checkpoint(checkpoint, "merged", tmp_path / "export"))
    for one, other in zip(embeddings(model)[2:], embeddings(again)[2:], strict=True):
        torch.testing.assert_close(other, one, **NEAR)
    for format in ("open_clip", "peft"):
        with pytest.raises(UserError, match=f"format={format}.* use format=merged"):
            export_checkpoint(checkpoint, format, tmp_path / format)
        assert not (tmp_path / format).exists()


def test_weights_as_tensors_of_torch_are_read_and_anything_else_is_not_run(tmp_path):
    folder = tmp_path / "their_model"
    weights = write_biomed(folder)
    _, _, images, texts = embeddings(clip(converted(folder)))
    (folder / WEIGHTS).unlink()
    file = folder / "open_clip_pytorch_model.bin"
    # as the first revisions of transformers had it
    positions = {"text.transformer.embeddings.position_ids": torch.arange(80)[None]}
    torch.save(weights | positions, file)
    again = embeddings(clip(converted(folder)))
    assert torch.equal(again[2], images)
    assert torch.equal(again[3], texts)
    torch.save({"weights": weights}, file)
    with pytest.raises(UserError, match="holds something else than the weights of a model"):
        clip(converted(folder))
    torch.save(weights | {"more": runs.Malicious(tmp_path / "pwned")}, file)
    with pytest.raises(UserError, match="was not loaded, since that could run code") as refusal:
        clip(converted(folder))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "pwned").exists()
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(UserError, match="is damaged, or holds more than tensors"):
        clip(converted(folder))


def test_every_weight_of_biomedclip_at_full_size_has_its_name():
    """Names and shapes of its file, with nothing of the hub."""
    with torch.device("meta"):
        sizes = {"cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "patch_embed.proj.weight": (768, 3, 16, 16)}
        sizes |= {"blocks.0.mlp.fc1.weight": (3072, 768)} | {f"blocks.{n}.norm1.weight": (768,) for n in range(12)}
        vision = vit_config({name: torch.empty(shape) for name, shape in sizes.items()}, heads=12)
        config = VitBertConfig(vision_config=vision, text_config=BertConfig(), projection_dim=512, text_hidden=640)
        model = VitBertModel(config)
    assert vision.layer_norm_eps == 1e-6  # too little for the formulas to show
    state = model.state_dict()
    names = [(old, new) for old, new in pair_names(model) if set(new) & set(state)]
    shapes = {old: [tuple(state[name].shape) for name in new if name in state] for old, new in names}
    assert shapes["visual.trunk.pos_embed"] == [(1, 197, 768)]
    assert shapes["visual.trunk.blocks.11.attn.qkv.weight"] == [(768, 768)] * 3
    assert shapes["visual.head.proj.weight"] == [(512, 768)]
    assert shapes["text.transformer.embeddings.word_embeddings.weight"] == [(30522, 768)]
    assert shapes["text.transformer.encoder.layer.11.intermediate.dense.weight"] == [(3072, 768)]
    assert (shapes["text.proj.0.weight"], shapes["text.proj.2.weight"]) == ([(640, 768)], [(512, 640)])
    assert {one for _, new in names for one in new if one in state} == {n for n in state if "position_ids" not in n}
    keys_and_bias = 12 * 768 - 1  # of the file, whose biases of keys have no place; and the bias of the logits here
    assert sum(value.numel() for value in state.values()) + keys_and_bias == 195_902_721  # its file has 784 MB


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("vision_cfg.timm_model_name", "vit_base_patch16_clip_224", "of timm's architectures are converted vit_{tiny,"),
        ("vision_cfg.timm_model_name", "resnet50", "vision_cfg.timm_model_name=resnet50: of timm's"),
        (
            "vision_cfg.timm_model_name",
            "vit_tiny_patch16_224",
            "embed_dim=192, but the weights beside it do not fit: they have embed_dim=64",
        ),
        ("vision_cfg.image_size", 176, "img_size=176, but the weights beside it do not fit: they have img_size=160"),
        ("vision_cfg.timm_pool", "avg", "vision_cfg.timm_pool=avg: converted are '', 'token'"),
        ("vision_cfg.timm_proj", "mlp", "vision_cfg.timm_proj=mlp: converted are 'linear'"),
        ("vision_cfg.timm_proj_bias", True, "timm_proj_bias=True: it is not known"),
        ("text_cfg.hf_pooler_type", "cls_pooler", "text_cfg.hf_pooler_type=cls_pooler: converted are"),
        ("text_cfg.hf_proj_type", "linear", "open_clip_config.json do not fit it"),
        ("text_cfg.context_length", 81, "its BERT takes 1 to 80 tokens"),
        ("text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}, "text_cfg.tokenizer_kwargs=.*: it is not known"),
        (
            "text_cfg.hf_model_name",
            "/nowhere/bert",
            "cannot be had .* put that model's config.json .* text_config.json",
        ),
        ("embed_dim", 21, "open_clip_config.json do not fit it"),
        ("embed_dim", "many", "or the weights beside it, are damaged"),
    ],
)
def test_another_model_is_refused_in_one_line(key, value, line, tmp_path):
    write_biomed(tmp_path / "their_model")
    their_open_clip.change(tmp_path / "their_model", key, value)
    with pytest.raises(UserError, match=line) as refusal:
        clip(converted(tmp_path / "their_model"))
    assert "\n" not in str(refusal.value)


def test_another_text_tower_or_tokenizer_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "their_model"
    write_biomed(folder)
    bert = BertConfig.from_pretrained(tmp_path / "their_model_bert").to_dict()
    (folder / "text_config.json").write_text(json.dumps(bert | {"model_type": "roberta"}))
    with pytest.raises(UserError, match="is a 'roberta' model; only BERT is converted"):
        clip(converted(folder))
    (folder / "text_config.json").write_text(json.dumps(bert | {"pad_token_id": 1}))
    with pytest.raises(UserError, match=r"its text tower knows .* and expects 1: put the files of"):
        clip(converted(folder))
    (folder / "text_config.json").unlink()
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match="cannot load the model in") as refusal:
        clip(converted(folder))
    assert "\n" not in str(refusal.value)


def test_logits_with_a_bias_of_its_own(tmp_path):
    folder = tmp_path / "their_model"
    weights = write_biomed(folder)
    save_file({k: v.contiguous() for k, v in weights.items()} | {"logit_bias": torch.tensor(-7.0)}, folder / WEIGHTS)
    ours = clip(converted(folder))
    _, _, images, texts = embeddings(ours)
    expected = weights["logit_scale"].exp() * normalize(images) @ normalize(texts).T - 7.0
    torch.testing.assert_close(ours.logits(images, texts).detach(), expected, **NEAR)
