"""Small runs without a trainer: build a model from a folder, train a few steps, write a checkpoint."""

import os
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from siglip_med.metrics import Predictions, fit_kernel_ridge
from siglip_med.models import Refit, TwoTower, checkpoint_payload, write_checkpoint
from tests.models import tiny

KINDS = ("siglip", "siglip2", "clip", "dual_encoder")
TEXTS = ("a photograph of eczema on the arm", "melanoma dark mole", "itchy wheal urticaria")
LORA = {"_target_": "siglip_med.models.Lora", "rank": 3, "alpha": 6}


def model_node(kind: str, folder: Path, adaptation: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Writes a base of the given kind and returns the config node that builds a model on it."""
    folder.mkdir(parents=True, exist_ok=True)
    node: dict[str, Any] = {"_target_": f"siglip_med.models.{kind}", "adaptation": adaptation or LORA, **settings}
    if kind == "dual_encoder":
        return node | tiny.write_dual(folder) | {"embedding_dim": 12, "max_text_length": tiny.LENGTH}
    writer = {"siglip": tiny.write_siglip, "siglip2": tiny.write_siglip2, "clip": tiny.write_clip}[kind]
    return node | {"path": str(writer(folder))}


def build(node: dict[str, Any]) -> TwoTower:
    """Instantiates a node as train.py does, with adapters that depend on nothing but this seed."""
    torch.manual_seed(11)
    return hydra.utils.instantiate(node)


def images(count: int = 3, side: int = tiny.IMAGE) -> Tensor:
    """``[count, 3, side, side]`` random images."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5))


def scores(model: TwoTower) -> Tensor:
    """``[3, 3]`` logits of the random images and the sentences."""
    return model.logits(model.encode_images(images()), model.encode_texts(**model.tokenize(TEXTS)))


def train(model: TwoTower, steps: int = 3) -> TwoTower:
    """A few steps of AdamW on the diagonal sigmoid loss."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameter_groups(0.02, 0.01, 0.02))
    for _ in range(steps):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(scores(model), torch.eye(3)).backward()
        optimizer.step()
        model.clamp_logits()
    return model.eval()


def save(model: TwoTower, node: dict[str, Any], path: Path, **results: Any) -> Path:
    """Writes a checkpoint as the LightningModule does, with the entries that loading needs."""
    payload = checkpoint_payload(
        model,
        config={"model": node, "seed": 0, "evaluation": {"coverage": 0.95}},
        conditions=("Eczema", "Melanoma", "Urticaria"),
        codes=("L30.9", "C43.9", "L50.9"),
        prompts=tuple((text, f"this is {text}") for text in TEXTS),
        split_hash="abc123",
    )
    state = {f"model.{name}": value for name, value in model.trainable_state().items()}
    write_checkpoint({"state_dict": state, "siglip_med": payload | results, "epoch": 1}, path)
    return path


@torch.no_grad()
def refit(model: TwoTower, count: int = 12) -> Refit:
    """A refit on random images, each of three conditions in turn."""
    features, labels = (
        model.pooled_features(images(count, model.image_spec.size)).numpy(),
        np.eye(3)[np.arange(count) % 3],
    )
    val = Predictions.of(np.zeros_like(labels), labels)
    fitted = fit_kernel_ridge(features, labels, features, val)
    return Refit(fitted.calibrated(features, val).arrays(), fitted.about())


class Malicious:
    """Would create a file when unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def adapters_alone(model: TwoTower) -> int:
    """How many adapters are trained; nothing else is, but scale and bias of the logits."""
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert not [name for name in trained if ".lora_" not in name and not name.startswith("logit_")]
    return len([name for name in trained if ".lora_A" in name])


def move_adapters(model: TwoTower, pixels: Tensor, tokens: dict[str, Tensor], rate: float) -> None:
    """Two steps of Adam: B starts at 0, so A moves in the second."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(2):
        loss = model.train().logits(model.encode_images(pixels), model.encode_texts(**tokens)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
