"""Writes folders of timm's layout with small random weights, and computes their pooled outputs by hand."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, unfold

from tests.models.biomed import Weights, drawn

SIDE, PATCH, WIDTH, HEADS, BLOCKS, RATIO = 32, 8, 24, 2, 3, 2
MEAN, STD = [0.4, 0.5, 0.6], [0.5, 0.4, 0.3]
SIZES = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "num_heads": HEADS, "depth": BLOCKS}
KINDS = {
    "plain": {},
    "layer_scale": {"init_values": 1e-5},
    "mean_pooled": {"global_pool": "avg"},
    "both": {"init_values": 1e-5, "global_pool": "avg"},
    "panderm": {},
    "panderm_mean": {"global_pool": "avg"},
}
"""What each kind says in ``model_args`` besides the sizes."""
POOLINGS = {kind: "pooler" if arguments.get("global_pool") else "cls" for kind, arguments in KINDS.items()}


def config_of(kind: str) -> dict[str, Any]:
    """``config.json``, as timm writes it; PanDerm's authors give none."""
    name = "panderm_base_patch16_224" if kind.startswith("panderm") else "test_vit"
    return {
        "architecture": name,
        "num_classes": 5,
        "num_features": WIDTH,
        "model_args": SIZES | {"mlp_ratio": RATIO} | KINDS[kind],
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE],
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": 5,
        },
    }


def shapes_of(kind: str) -> dict[str, tuple[int, ...]]:
    """timm's (or PanDerm's) names of the weights, with those of a classifier."""
    panderm, scaled = kind.startswith("panderm"), kind in ("layer_scale", "both")
    norm = "fc_norm" if POOLINGS[kind] == "pooler" else "norm"
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, (SIDE // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        f"{norm}.weight": (WIDTH,),
        f"{norm}.bias": (WIDTH,),
        "head.weight": (5, WIDTH),
        "head.bias": (5,),
    }
    for block in range(BLOCKS):
        layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        layers |= {"mlp.fc1": (RATIO * WIDTH, WIDTH), "mlp.fc2": (WIDTH, RATIO * WIDTH)}
        vectors = {f"{name}.bias": shape[:1] for name, shape in layers.items()}
        vectors |= {f"{name}.{part}": (WIDTH,) for name in ("norm1", "norm2") for part in ("weight", "bias")}
        if panderm:
            del vectors["attn.qkv.bias"]
            vectors |= dict.fromkeys(("attn.q_bias", "attn.v_bias", "gamma_1", "gamma_2"), (WIDTH,))
        if scaled:
            vectors |= dict.fromkeys(("ls1.gamma", "ls2.gamma"), (WIDTH,))
        matrices = {f"{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in (matrices | vectors).items()}
    return shapes


def write_timm(folder: Path, kind: str, seed: int = 0, bin: bool = False) -> Weights:
    """Writes the folder; returns its weights under timm's names.

    Args:
        folder: the model's.
        kind: of `KINDS`.
        seed: of the weights.
        bin: as a file of torch.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(kind)), encoding="utf-8")
    # so large that every layer is seen in the output, and not so large that rounding is
    weights = {name: value * (1.5 if value.ndim > 1 else 1) for name, value in drawn(shapes_of(kind)).items()}
    torch.save(weights, folder / "pytorch_model.bin") if bin else save_file(weights, folder / "model.safetensors")
    return weights


def pooled_by_hand(weights: Weights, kind: str, pixels: Tensor) -> Tensor:
    """``[B, 3, 32, 32]`` to the pooled output ``[B, 24]`` before the classifier, as timm (or PanDerm) has it."""

    def norm(states: Tensor, name: str) -> Tensor:
        return layer_norm(states, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    def layer(states: Tensor, name: str) -> Tensor:
        return linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def scale(block: str, number: int) -> Tensor | float:
        names = (f"{block}.ls{number}.gamma", f"{block}.gamma_{number}")
        return next((weights[name] for name in names if name in weights), 1.0)

    patches = unfold(pixels, PATCH, stride=PATCH).transpose(1, 2)
    states = linear(patches, weights["patch_embed.proj.weight"].flatten(1), weights["patch_embed.proj.bias"])
    states = torch.cat([weights["cls_token"].expand(len(pixels), 1, WIDTH), states], dim=1) + weights["pos_embed"]
    for number in range(BLOCKS):
        block = f"blocks.{number}"
        bias = weights.get(f"{block}.attn.qkv.bias")
        if bias is None:
            q_bias, v_bias = (weights[f"{block}.attn.{one}_bias"] for one in "qv")
            bias = torch.cat([q_bias, torch.zeros(WIDTH), v_bias])
        joined = linear(norm(states, f"{block}.norm1"), weights[f"{block}.attn.qkv.weight"], bias)
        query, key, value = joined.split(WIDTH, dim=-1)
        mixed = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / (WIDTH / HEADS) ** 0.5
            mixed.append(scores.softmax(dim=-1) @ value[..., part])
        states = states + scale(block, 1) * layer(torch.cat(mixed, dim=-1), f"{block}.attn.proj")
        inner = gelu(layer(norm(states, f"{block}.norm2"), f"{block}.mlp.fc1"))
        states = states + scale(block, 2) * layer(inner, f"{block}.mlp.fc2")
    if POOLINGS[kind] == "pooler":
        return norm(states[:, 1:].mean(dim=1), "fc_norm")
    return norm(states, "norm")[:, 0]
