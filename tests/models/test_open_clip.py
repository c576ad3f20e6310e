"""Folders in open_clip's format, converted: open_clip's own embeddings, adapters, and back again."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from siglip_med.core.errors import UserError
from siglip_med.export import write_merged, write_open_clip
from siglip_med.export.pretrained import save_weights
from siglip_med.export.recipes import loading_recipe
from siglip_med.models import FullFineTune, Lora, clip
from siglip_med.models.conversion import convert
from tests.models import runs, their_open_clip
from tests.models.their_open_clip import converted
from tests.models.tiny import IMAGE, LENGTH, WORDS, write_clip

VOCABULARY = 4 + len(WORDS)
CONFIG = {
    "embed_dim": 20,
    "vision_cfg": {"image_size": IMAGE, "layers": 2, "width": 24, "head_width": 12, "patch_size": 8},
    "text_cfg": {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def theirs():
    return their_open_clip.part("model")


@pytest.fixture
def write(theirs, tmp_path):
    """Writes a folder of DermLIP's layout with open_clip's own model, and returns both."""

    def written(**changes):
        folder = tmp_path / "their_model"
        config = CONFIG | changes
        torch.manual_seed(0)
        text = theirs.CLIPTextCfg(**config["text_cfg"])
        given = {key: config[key] for key in ("quick_gelu", "init_logit_bias") if key in config}
        kind = theirs.CustomTextCLIP if config.get("custom_text") else theirs.CLIP
        model = kind(config["embed_dim"], theirs.CLIPVisionCfg(**config["vision_cfg"]), text, **given).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 0:
                    parameter.normal_(std=0.1)
        write_tokenizer(folder)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
        content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.5, 0.4, 0.3]}}
        (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
        return folder, model

    return written


WEIGHTS = "open_clip_model.safetensors"


def write_tokenizer(folder: Path) -> None:
    """A word tokenizer whose end token is the last of the vocabulary, as CLIP's is."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<unk>", *WORDS, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("<s>", VOCABULARY - 2), ("</s>", VOCABULARY - 1)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def embeddings(model):
    tokens = model.tokenize(["a photograph of eczema", "red scaly itchy patch"])
    torch.manual_seed(1)
    pixels = torch.randn(3, 3, IMAGE, IMAGE)
    with torch.no_grad():
        return pixels, tokens, model.eval().encode_images(pixels), model.encode_texts(**tokens)


@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True}, {"init_logit_bias": -7.0, "custom_text": True}], ids=str)
def test_embeddings_and_logits_are_those_of_open_clip(write, changes):
    folder, model = write(**changes)
    conversion = convert(str(folder), folder / "converted")
    ours = clip(str(conversion.folder), adaptation=FullFineTune())
    pixels, tokens, images, texts = embeddings(ours)
    with torch.no_grad():
        torch.testing.assert_close(images, model.encode_image(pixels), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(texts, model.encode_text(tokens["input_ids"]), rtol=1e-5, atol=1e-5)
    assert ours.logit_scale.item() == pytest.approx(model.logit_scale.item(), abs=1e-5)
    # a CLIPModel has no place for a bias: the settings that are printed give it
    assert ours.logit_bias.item() == 0.0
    assert ("model.logits.bias=-7" in conversion.settings) == ("init_logit_bias" in changes)
    assert (ours.image_spec.size, ours.image_spec.mean) == (IMAGE, (0.4, 0.5, 0.6))


def test_adapters_are_trained_and_come_back_in_open_clips_format(write, theirs, tmp_path):
    folder, _ = write()
    ours = clip(converted(folder), adaptation=Lora(rank=2, dropout=0.0))
    pixels, tokens, before, _ = embeddings(ours)
    runs.move_adapters(ours, pixels, tokens, rate=0.05)
    assert all(p.grad.abs().sum() > 0 for n, p in ours.named_parameters() if "lora_B" in n)
    _, _, images, texts = embeddings(ours)
    assert (images - before).abs().max() > 1e-3
    output = tmp_path / "export"
    output.mkdir()
    write_open_clip(ours, output)
    content = json.loads((output / "open_clip_config.json").read_text())["model_cfg"]
    text, vision = theirs.CLIPTextCfg(**content["text_cfg"]), theirs.CLIPVisionCfg(**content["vision_cfg"])
    model = theirs.CLIP(content["embed_dim"], vision, text, init_logit_bias=content["init_logit_bias"]).eval()
    model.load_state_dict(load_file(output / WEIGHTS))
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(pixels), images, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.encode_text(tokens["input_ids"]), texts, rtol=1e-5, atol=1e-5)
    refit, plain = runs.refit(ours), loading_recipe(ours, "open_clip")
    save_weights(refit.state_dict(), output / "refit.safetensors")
    names = {"model": model, "pixel_values": pixels, "folder": str(output)}
    with torch.no_grad():
        exec(loading_recipe(ours, "open_clip", refit=True).removeprefix(plain), names)
        torch.testing.assert_close(names["features"], ours.pooled_features(pixels), rtol=1e-5, atol=1e-5)
        expected = refit(names["features"])
    torch.testing.assert_close(names["logits"].float(), expected, rtol=0, atol=1e-5)
    assert torch.unique(expected).numel() > 3
    again = clip(converted(output), adaptation=FullFineTune())
    torch.testing.assert_close(embeddings(again)[2], images, rtol=1e-5, atol=1e-5)
    merged = tmp_path / "merged"
    merged.mkdir()
    write_merged(ours, merged)
    torch.testing.assert_close(embeddings(clip(str(merged)))[2], images, rtol=1e-5, atol=1e-5)


def test_a_clip_of_the_transformers_library_becomes_open_clips(theirs, tmp_path):
    model = clip(str(write_clip(tmp_path / "clip")), adaptation=FullFineTune())
    (tmp_path / "out").mkdir()
    write_open_clip(model, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
    text, vision = theirs.CLIPTextCfg(**content["text_cfg"]), theirs.CLIPVisionCfg(**content["vision_cfg"])
    other = theirs.CLIP(
        content["embed_dim"], vision, text, init_logit_bias=0.0, quick_gelu=content["quick_gelu"]
    ).eval()
    other.load_state_dict(load_file(tmp_path / "out" / WEIGHTS))
    pixels, _, images, _ = embeddings(model)
    with torch.no_grad():
        torch.testing.assert_close(other.encode_image(pixels), images, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        (
            "vision_cfg.timm_model_name",
            "vit_base_patch16_224",
            "vision_cfg.timm_model_name=vit_base_patch16_224: it is not known",
        ),
        ("text_cfg.hf_model_name", "bert", "text_cfg.hf_model_name=bert: it is not known"),
        ("vision_cfg.layers", 3, "open_clip_config.json do not fit it"),
        ("embed_dim", 21, "do not fit"),
        ("vision_cfg", None, "or the weights beside it, are damaged"),
        ("vision_cfg.width", "many", "or the weights beside it, are damaged"),
        ("text_cfg.vocab_size", VOCABULARY + 1, "reads them at token"),
    ],
)
def test_another_model_is_refused_in_one_line(write, key, value, line):
    folder, _ = write()
    if key == "text_cfg.vocab_size":
        weights = load_file(folder / WEIGHTS)
        weights["token_embedding.weight"] = torch.cat([weights["token_embedding.weight"], torch.zeros(1, 16)])
        save_file(weights, folder / WEIGHTS)
    their_open_clip.change(folder, key, value)
    with pytest.raises(UserError, match=line) as refusal:
        clip(converted(folder))
    assert "\n" not in str(refusal.value)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_is_not_converted_is_refused_with_the_command_that_converts_it(write):
    folder, _ = write()
    with pytest.raises(UserError, match="is not in the format of the transformers library") as refusal:
        clip(str(folder))
    command = f"siglip-med-convert source={folder} output=their_model-converted"
    assert str(refusal.value).endswith(command)
    assert "\n" not in str(refusal.value)


def test_missing_and_torn_files_are_named(write):
    folder, _ = write()
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    with pytest.raises(UserError, match="truncated or damaged"):
        clip(converted(folder))
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"holds none of open_clip_model\.safetensors, "):
        clip(converted(folder))
    with pytest.raises(UserError, match=r"no model .*nowhere"):
        clip(converted(folder / "nowhere"))
