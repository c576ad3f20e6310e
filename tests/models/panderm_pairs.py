"""Writes a folder of the layout of DermLIP with PanDerm, with small random weights, and computes embeddings by hand."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, linear

from tests.models.biomed import (
    CONFIG,
    MEAN,
    STD,
    TEXT_WIDTH,
    WEIGHTS,
    Weights,
    begun_by_hand,
    drawn,
    write_bert,
    write_tokenizer,
)

SIDE, PATCH, WIDTH, BLOCKS, SHARED, LENGTH = 32, 8, 128, 3, 20, 24
HEADS, HIDDEN = 2, 512  # of 64 units each, and four times the width: no key of the config says them
MIDDLE = (TEXT_WIDTH + SHARED) // 2


def visual_shapes() -> dict[str, tuple[int, ...]]:
    """Names of the weights of their vision tower, ``visual.`` in front of them left out."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (SHARED, WIDTH),
        "head.bias": (SHARED,),
    }
    for number in range(BLOCKS):
        block = f"blocks.{number}"
        shapes |= {f"{block}.{norm}.{kind}": (WIDTH,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        shapes |= {f"{block}.{name}": (WIDTH,) for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")}
        shapes |= {f"{block}.attn.qkv.weight": (3 * WIDTH, WIDTH), f"{block}.attn.proj.weight": (WIDTH, WIDTH)}
        shapes |= {f"{block}.mlp.fc1.weight": (HIDDEN, WIDTH), f"{block}.mlp.fc2.weight": (WIDTH, HIDDEN)}
        shapes |= {f"{block}.attn.proj.bias": (WIDTH,), f"{block}.mlp.fc1.bias": (HIDDEN,)}
        shapes |= {f"{block}.mlp.fc2.bias": (WIDTH,)}
    return shapes


def write_panderm(folder: Path, seed: int = 0) -> Weights:
    """Writes the folder; returns its weights under their names.

    Args:
        folder: the model's; the folder of the BERT that its config names is made beside it.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    bert = write_bert(folder.with_name(f"{folder.name}_bert"))
    weights = {f"visual.{name}": value for name, value in drawn(visual_shapes()).items()}
    weights |= {f"text.transformer.{name}": value.detach() for name, value in bert.named_parameters()}
    weights |= drawn({"text.proj.0.weight": (MIDDLE, TEXT_WIDTH), "text.proj.2.weight": (SHARED, MIDDLE)})
    weights["logit_scale"] = torch.tensor(4.4454)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS)
    # the keys of their own config, of which hf_proj_type is none
    vision: dict[str, Any] = {"image_size": SIDE, "layers": BLOCKS, "width": WIDTH, "patch_size": PATCH}
    vision["pretrain_path"] = "/somewhere/panderm_bb_data6_checkpoint-499.pth"
    text = {"context_length": LENGTH, "hf_model_name": str(folder.with_name(f"{folder.name}_bert"))}
    text |= {"hf_tokenizer_name": "neuml/pubmedbert-base-embeddings", "hf_pooler_type": "mean_pooler"}
    content = {
        "model_cfg": {"embed_dim": SHARED, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
    }
    (folder / CONFIG).write_text(json.dumps(content), encoding="utf-8")
    write_tokenizer(folder)
    return weights


def images_by_hand(weights: Weights, pixels: Tensor) -> Tensor:
    """``[B, 3, 32, 32]`` to embeddings ``[B, 20]``, as the vision tower of DermLIP's authors has it."""
    own = {name.removeprefix("visual."): value for name, value in weights.items() if name.startswith("visual.")}

    norm, layer, states = begun_by_hand(own, pixels, PATCH)
    for number in range(BLOCKS):
        block = f"blocks.{number}"
        bias = torch.cat([own[f"{block}.attn.q_bias"], torch.zeros(WIDTH), own[f"{block}.attn.v_bias"]])
        joined = linear(norm(states, f"{block}.norm1"), own[f"{block}.attn.qkv.weight"], bias)
        mixed = []
        for head in range(HEADS):
            query, key, value = (
                joined[..., part * WIDTH + head * 64 : part * WIDTH + (head + 1) * 64] for part in range(3)
            )
            mixed.append((query / 8 @ key.transpose(1, 2)).softmax(dim=-1) @ value)
        states = states + own[f"{block}.gamma_1"] * layer(torch.cat(mixed, dim=-1), f"{block}.attn.proj")
        inner = gelu(layer(norm(states, f"{block}.norm2"), f"{block}.mlp.fc1"))
        states = states + own[f"{block}.gamma_2"] * layer(inner, f"{block}.mlp.fc2")
    # one norm, used twice
    return layer(norm(norm(states, "norm")[:, 1:].mean(dim=1), "norm"), "head")


def texts_by_hand(weights: Weights, states: Tensor, mask: Tensor) -> Tensor:
    """``[T, L, 32]`` states of the BERT and the mask of its tokens ``[T, L]`` to embeddings ``[T, 20]``."""
    means = torch.stack([one[: int(count)].mean(dim=0) for one, count in zip(states, mask.sum(dim=1), strict=True)])
    return linear(gelu(linear(means, weights["text.proj.0.weight"])), weights["text.proj.2.weight"])
