"""Writes a folder of BiomedCLIP's layout with small random weights, and computes its embeddings by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, unfold
from transformers import BertConfig, BertModel, BertTokenizerFast

from tests.models.tiny import WORDS

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
WIDTH, BLOCKS, HEADS, HIDDEN, PATCH, SIDE = 64, 6, 2, 192, 16, 160  # timm's test_vit
SHARED, TEXT_WIDTH, LENGTH, POSITIONS = 20, 32, 64, 80
_FRAME = ["dermatological", "image", "showing", "close", "up", "skin", "with", "patient", "presenting", "-", "."]
"""Words of the prompts: the names of conditions are left to the letters."""
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")
TOKENS = list(
    dict.fromkeys(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *_FRAME, *_LETTERS, *(f"##{one}" for one in _LETTERS)]
    )
)
MEAN, STD = [0.4, 0.5, 0.6], [0.5, 0.4, 0.3]

Weights = dict[str, Tensor]
Layer = Callable[[Tensor, str], Tensor]


def vit_shapes() -> dict[str, tuple[int, ...]]:
    """timm's names of the weights of its ``test_vit``."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH), "mlp.fc1": (HIDDEN, WIDTH)}
    layers |= {"mlp.fc2": (WIDTH, HIDDEN)}
    for block in range(BLOCKS):
        for name, shape in layers.items():
            shapes |= {f"blocks.{block}.{name}.weight": shape, f"blocks.{block}.{name}.bias": shape[:1]}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    return shapes


def drawn(shapes: dict[str, tuple[int, ...]]) -> Weights:
    """Random weights; those of norms lie about 1."""
    return {
        name: torch.randn(shape) * 0.1 + (1.0 if name.endswith("weight") and len(shape) == 1 else 0.0)
        for name, shape in shapes.items()
    }


def write_bert(folder: Path, **changes: Any) -> BertModel:
    """A small BERT with its config, its vocabulary of words, and random weights."""
    folder.mkdir(parents=True)
    settings = {"hidden_size": TEXT_WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    settings |= {"vocab_size": len(TOKENS), "max_position_embeddings": POSITIONS}
    config = BertConfig(**settings | changes)
    config.save_pretrained(folder)
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def write_tokenizer(folder: Path) -> None:
    """BERT's word pieces."""
    vocabulary = {token: number for number, token in enumerate(TOKENS)}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)


def write_biomed(folder: Path, seed: int = 0, **changes: Any) -> Weights:
    """Writes the folder; returns its weights under open_clip's names.

    Args:
        folder: the model's; the folder of the BERT that its config names is made beside it.
        seed: of the weights.
        **changes: of ``vision_cfg`` and ``text_cfg``.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    bert = write_bert(folder.with_name(f"{folder.name}_bert"))
    hidden = (TEXT_WIDTH + SHARED) // 2
    text_cfg = {
        "hf_model_name": str(folder.with_name(f"{folder.name}_bert")),
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": LENGTH,
    } | changes.get("text_cfg", {})
    vision_cfg = {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": SIDE,
    } | changes.get("vision_cfg", {})
    heads = {"text.proj.0.weight": (hidden, TEXT_WIDTH), "text.proj.2.weight": (SHARED, hidden)}
    if text_cfg["hf_proj_type"] == "linear":
        heads = {"text.proj.weight": (SHARED, TEXT_WIDTH)}
    weights = {f"visual.trunk.{name}": value for name, value in drawn(vit_shapes()).items()}
    weights |= {f"text.transformer.{name}": value.detach() for name, value in bert.named_parameters()}
    weights |= drawn({"visual.head.proj.weight": (SHARED, WIDTH)} | heads) | {"logit_scale": torch.tensor(4.4454)}
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    model_cfg = {"embed_dim": SHARED, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    content = {"model_cfg": model_cfg, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")
    write_tokenizer(folder)
    return weights


def begun_by_hand(weights: Weights, pixels: Tensor, patch: int) -> tuple[Layer, Layer, Tensor]:
    """A norm and a linear layer by their names, and the tokens ``[B, 1 + P, F]`` that go into the first block."""

    def norm(states: Tensor, name: str) -> Tensor:
        return layer_norm(states, states.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    def layer(states: Tensor, name: str) -> Tensor:
        return linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])

    patches = unfold(pixels, patch, stride=patch).transpose(1, 2)
    states = linear(patches, weights["patch_embed.proj.weight"].flatten(1), weights["patch_embed.proj.bias"])
    first = weights["cls_token"].expand(len(pixels), 1, -1)
    return norm, layer, torch.cat([first, states], dim=1) + weights["pos_embed"]


def vit_by_hand(weights: Weights, pixels: Tensor) -> Tensor:
    """``[B, 3, 160, 160]`` to the normalized class token ``[B, F]``, as timm's ``VisionTransformer`` has it."""

    norm, layer, states = begun_by_hand(weights, pixels, PATCH)
    for block in range(BLOCKS):
        name = f"blocks.{block}"
        query, key, value = layer(norm(states, f"{name}.norm1"), f"{name}.attn.qkv").split(WIDTH, dim=-1)
        mixed = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / (WIDTH / HEADS) ** 0.5
            mixed.append(scores.softmax(dim=-1) @ value[..., part])
        states = states + layer(torch.cat(mixed, dim=-1), f"{name}.attn.proj")
        states = states + layer(gelu(layer(norm(states, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2")
    return norm(states, "norm")[:, 0]


def trunk(weights: Weights) -> Weights:
    """The vision tower's weights, by timm's own names."""
    start = "visual.trunk."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
