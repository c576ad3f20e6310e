"""Writes model folders of every family with random weights and a small tokenizer, as the hub would hold them."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

SENTENCES = (
    "a photograph of eczema psoriasis melanoma on the arm",
    "red scaly itchy patch mole dark skin acne urticaria",
    "wheal rash face leg hand this is photo tinea",
)
WORDS = [word for sentence in SENTENCES for word in sentence.split()]
PAD, UNKNOWN, BEGIN, END = 0, 1, 2, 3
VOCABULARY = 40
IMAGE = 32
LAYERS = 1
LENGTH = 64

_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
}
_VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "patch_size": 8,
}
_IDS = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}


def write_tokenizer(folder: Path, begin: int = BEGIN, end: int = END) -> None:
    """A word tokenizer that wraps every text in a begin and an end token."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    vocabulary |= {"<s>": begin, "</s>": end}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("<s>", begin), ("</s>", end)]
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def write_image_processor(folder: Path, kind: str, **settings: object) -> None:
    """The image processor's file, with a normalization that is not the default of any family."""
    values = {"image_processor_type": kind, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.4, 0.3], **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(values), encoding="utf-8")


def write_weights(model: PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Random weights that are large enough for embeddings to differ."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "logit_scale":
                parameter.fill_(2.5)
            elif name == "logit_bias":
                parameter.fill_(-4.0)
            elif parameter.ndim > 1:
                parameter.normal_(std=0.15)
            elif "norm" not in name:
                parameter.normal_(std=0.05)
    model.to(dtype).save_pretrained(folder)


def write_siglip(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A SigLIP folder."""
    torch.manual_seed(seed)
    config = SiglipConfig(
        text_config={**_TEXT, **_IDS, "max_position_embeddings": LENGTH},
        vision_config={**_VISION, "image_size": IMAGE},
    )
    write_weights(SiglipModel(config), folder, dtype)
    write_tokenizer(folder)
    write_image_processor(folder, "SiglipImageProcessor", size={"height": IMAGE, "width": IMAGE})
    return folder


def write_siglip2(folder: Path, seed: int = 0) -> Path:
    """A SigLIP 2 NaFlex folder with 4 x 4 patches."""
    torch.manual_seed(seed)
    config = Siglip2Config(
        text_config={**_TEXT, **_IDS, "max_position_embeddings": LENGTH},
        vision_config={**_VISION, "num_patches": (IMAGE // 8) ** 2},
    )
    write_weights(Siglip2Model(config), folder)
    write_tokenizer(folder)
    write_image_processor(folder, "Siglip2ImageProcessor", patch_size=8, max_num_patches=(IMAGE // 8) ** 2)
    return folder


def write_clip(folder: Path, seed: int = 0, begin: int = BEGIN, end: int = END) -> Path:
    """A CLIP folder; OpenAI's has the end token at the end of the vocabulary."""
    torch.manual_seed(seed)
    ids = _IDS | {"bos_token_id": begin, "eos_token_id": end}
    config = CLIPConfig(
        text_config={**_TEXT, **ids, "max_position_embeddings": LENGTH},
        vision_config={**_VISION, "image_size": IMAGE},
        projection_dim=20,
    )
    write_weights(CLIPModel(config), folder)
    write_tokenizer(folder, begin, end)
    square = {"height": IMAGE, "width": IMAGE}
    write_image_processor(
        folder, "CLIPImageProcessor", size={"shortest_edge": IMAGE}, crop_size=square, do_center_crop=True
    )
    return folder


def write_dual(folder: Path, seed: int = 0) -> dict[str, str]:
    """A DINOv2 folder and a BERT folder; returns their paths as the arguments of the factory."""
    torch.manual_seed(seed)
    vision, text = folder / "vision", folder / "text"
    vision.mkdir(parents=True)
    text.mkdir()
    layers = {"hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    write_weights(Dinov2Model(Dinov2Config(**layers, mlp_ratio=2, image_size=IMAGE, patch_size=8)), vision)
    square = {"height": IMAGE, "width": IMAGE}
    write_image_processor(
        vision, "BitImageProcessor", size={"shortest_edge": 40}, crop_size=square, do_center_crop=True
    )
    write_weights(
        BertModel(BertConfig(**layers, intermediate_size=32, vocab_size=VOCABULARY, max_position_embeddings=LENGTH)),
        text,
    )
    write_tokenizer(text)
    return {"vision": str(vision), "text": str(text)}
