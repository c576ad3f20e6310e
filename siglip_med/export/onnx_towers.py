"""Both towers as ONNX graphs, checked against the model that they came from."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.export.pretrained import merged_copy, own_tokenizer, square_processor
from siglip_med.models import Refit, TwoTower

TOLERANCE = 1e-4
"""Largest difference between an L2-normalized embedding of onnxruntime and of PyTorch; of logits, by the largest."""


class VisionGraph(nn.Module):
    """``pixel_values [B, 3, H, W]`` to ``image_embeds [B, E]``, L2-normalized; of a refit ``refit_logits [B, C]`` and
    ``refit_distances [B]``."""

    def __init__(self, model: TwoTower, refit: Refit | None = None) -> None:
        """Takes a model without adapters."""
        super().__init__()
        self.model, self.refit = model, refit

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Embeds images, and ranks conditions where there is a refit."""
        features = self.model.pooled_features(pixel_values)
        embeddings = normalize(self.model.project_images(features), dim=-1)
        if self.refit is None:
            return (embeddings,)
        return embeddings, self.refit(features), self.refit.distances(features)


class TextGraph(nn.Module):
    """``input_ids [T, L]`` (and ``attention_mask [T, L]``) to ``text_embeds [T, E]``, L2-normalized."""

    def __init__(self, model: TwoTower) -> None:
        """Takes a model without adapters."""
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Embeds tokenized texts."""
        return (normalize(self.model.encode_texts(input_ids, attention_mask), dim=-1),)


def write_onnx(model: TwoTower, folder: Path, refit: Refit | None = None) -> None:
    """Writes ``vision.onnx`` and ``text.onnx`` with a free batch size, the tokenizer and the image processor.

    A refit becomes plain operations of ``vision.onnx`` with outputs ``refit_logits`` and ``refit_distances`` (to the
    nearest training image, for `Familiarity`). The model given is not changed.

    Raises:
        UserError: the packages are missing, or onnxruntime does not give the embeddings of PyTorch.
    """
    # the exporter imports the first two itself, halfway through
    _, _, runtime = (
        require(package, feature="format=onnx", extra="onnx") for package in ("onnx", "onnxscript", "onnxruntime")
    )
    merged = merged_copy(model).cpu().requires_grad_(False)
    side = merged.image_spec.size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    tokens = merged.tokenize(["a photograph of skin", "a photograph of skin with scaly plaques"])
    if not merged.text_mask:
        del tokens["attention_mask"]
    seen = ["image_embeds", *([] if refit is None else ["refit_logits", "refit_distances"])]
    _write(VisionGraph(merged, refit), {"pixel_values": images}, seen, folder / "vision.onnx", runtime)
    _write(TextGraph(merged), tokens, ["text_embeds"], folder / "text.onnx", runtime)
    own_tokenizer(merged).save_pretrained(folder)
    square_processor(merged).save_pretrained(folder)


@torch.no_grad()
def _write(graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path, runtime: Any) -> None:
    graph.eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.onnx.export(
        graph,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=outputs,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    # Another batch size than the exported one, so that a batch size frozen into the graph shows.
    repeated = {name: torch.cat([value, value[:1]]) for name, value in inputs.items()}
    found = session.run(outputs, {name: value.numpy() for name, value in repeated.items()})
    for name, one, expected in zip(outputs, found, graph(*repeated.values()), strict=True):
        difference, largest = float(np.abs(one - expected.numpy()).max()), float(expected.abs().max())
        if difference > TOLERANCE * max(1.0, largest):  # logits are larger than 1
            raise UserError(
                f"{path.name}, {name}: onnxruntime differs from PyTorch by {difference:.2e}; the file is not usable"
            )
