"""Both towers as ONNX graphs, checked against the model that they came from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.export.merge import merged_copy
from siglip_med.export.pretrained import own_tokenizer, square_processor
from siglip_med.models import TwoTower

TOLERANCE = 1e-4
"""Largest difference between an L2-normalized embedding of onnxruntime and of PyTorch."""


class VisionGraph(nn.Module):
    """``pixel_values [B, 3, H, W]`` to ``image_embeds [B, E]``, L2-normalized."""

    def __init__(self, model: TwoTower) -> None:
        """Takes a model without adapters."""
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Embeds images."""
        return normalize(self.model.encode_images(pixel_values), dim=-1)


class TextGraph(nn.Module):
    """``input_ids [T, L]`` (and ``attention_mask [T, L]``) to ``text_embeds [T, E]``, L2-normalized."""

    def __init__(self, model: TwoTower) -> None:
        """Takes a model without adapters."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeds tokenized texts."""
        return normalize(self.model.encode_texts(input_ids, attention_mask), dim=-1)


def write_onnx(model: TwoTower, folder: Path) -> None:
    """Writes ``vision.onnx`` and ``text.onnx`` with a free batch size, the tokenizer and the image processor.

    Args:
        model: the trained model; it is not changed.
        folder: an existing folder.

    Raises:
        UserError: the packages are missing, or onnxruntime does not give the embeddings of PyTorch.
    """
    # the exporter imports the first two itself, halfway through
    _, _, runtime = (
        require(package, feature="format=onnx", extra="onnx") for package in ("onnx", "onnxscript", "onnxruntime")
    )
    merged = merged_copy(model).cpu()
    merged.requires_grad_(False)
    side = merged.image_spec.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    tokens = merged.tokenize(["a photograph of skin", "a photograph of skin with scaly plaques"])
    if not merged.text_mask:
        del tokens["attention_mask"]
    _write(VisionGraph(merged), {"pixel_values": images}, "image_embeds", folder / "vision.onnx", runtime)
    _write(TextGraph(merged), tokens, "text_embeds", folder / "text.onnx", runtime)
    own_tokenizer(merged).save_pretrained(folder)
    square_processor(merged).save_pretrained(folder)


@torch.no_grad()
def _write(graph: nn.Module, inputs: dict[str, Tensor], output: str, path: Path, runtime: Any) -> None:
    graph.eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        graph,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # Another batch size than the exported one, so that a batch size frozen into the graph shows.
    repeated = {name: torch.cat([value, value[:1]]) for name, value in inputs.items()}
    (found,) = session.run([output], {name: value.numpy() for name, value in repeated.items()})
    expected = graph(*repeated.values()).numpy()
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE:
        raise UserError(f"{path.name}: onnxruntime differs from PyTorch by {difference:.2e}; the file is not usable")
