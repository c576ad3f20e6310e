"""Which loss term pulls how hard, and which terms pull against each other."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import lightning.pytorch as pl
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from siglip_med.losses import LayeredLoss, PairBatch
from siglip_med.training.callbacks import log_now


def term_gradients(loss: LayeredLoss, batch: PairBatch, coefficients: dict[str, float]) -> dict[str, Tensor]:
    """Gradient of each weighted term on the embeddings of a batch.

    The embeddings are detached copies, so the graph of the training step is neither used nor kept. A gradient is taken
    through the normalization: it has no part along an embedding, where a pull changes nothing.

    Args:
        loss: the terms.
        batch: the pairs of a step.
        coefficients: the coefficients of that step.

    Returns:
        Flat ``[(B + T) E]`` gradient of each computed term, images first.
    """
    with torch.enable_grad():
        image = batch.image.detach().requires_grad_()
        text = batch.text.detach().requires_grad_()
        leaves = replace(
            batch,
            image=F.normalize(image, dim=-1),
            text=F.normalize(text, dim=-1),
            logit_scale=batch.logit_scale.detach(),
            logit_bias=batch.logit_bias.detach(),
        )
        weighted = loss(leaves, coefficients).weighted
        gradients = {
            name: torch.autograd.grad(value, (image, text), retain_graph=True) for name, value in weighted.items()
        }
    return {name: torch.cat([part.flatten() for part in parts]) for name, parts in gradients.items()}


class LossDiagnostics(pl.Callback):
    """Logs the pull of each term on the embeddings every few optimizer steps.

    ``grad_norm/<term>`` is the L2 norm of the weighted term's gradient on all embeddings of the step, and
    ``grad_cosine/<a>_vs_<b>`` the cosine between two terms' gradients: below 0 they pull against each other. A term
    without a pull has no cosine and none is logged. The module keeps ``loss``, ``coefficients`` and
    ``last_pair_batch``; the terms' values it logs itself.
    """

    def __init__(self, every_n_steps: PositiveInt = 50) -> None:
        """Looks at every ``every_n_steps``-th optimizer step, each time at about the cost of one more loss."""
        self.every_n_steps = every_n_steps

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Computes and logs the gradients of the step that is about to be taken."""
        module: Any = pl_module
        if (trainer.global_step + 1) % self.every_n_steps or module.last_pair_batch is None:
            return
        gradients = term_gradients(module.loss, module.last_pair_batch, module.coefficients)
        norms = {name: gradient.norm() for name, gradient in gradients.items()}
        values = {f"grad_norm/{name}": norm for name, norm in norms.items()}
        for a, b in combinations(gradients, 2):
            product = norms[a] * norms[b]
            if product > 0:
                values[f"grad_cosine/{a}_vs_{b}"] = gradients[a] @ gradients[b] / product
        log_now(trainer, values)
