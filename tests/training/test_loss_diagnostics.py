import math
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch.utils.data import DataLoader, TensorDataset

from siglip_med.losses import IcdGeometric, LayeredLoss, MultiPositiveSigmoid, PairBatch, WeightedTerm
from siglip_med.training.loss_diagnostics import LossDiagnostics, term_gradients
from tools.debug_losses import example_batch, layered_terms

COEFFICIENTS = {"alpha": 0.5, "beta": 0.3, "gamma": 0.7, "delta": 0.2}


def test_gradients_equal_those_through_raw_embeddings() -> None:
    batch = example_batch()
    batch = replace(batch, image=batch.image.double(), text=batch.text.double())
    loss = LayeredLoss(layered_terms())
    gradients = term_gradients(loss, batch, COEFFICIENTS)
    image, text = batch.image.clone().requires_grad_(), batch.text.clone().requires_grad_()
    raw = PairBatch.build(
        image,
        text,
        batch.logit_scale,
        batch.logit_bias,
        batch.needed("labels"),
        batch.needed("text_condition"),
        batch.needed("dissimilarity"),
        batch.needed("condition_counts"),
    )
    for name, value in loss(raw, COEFFICIENTS).weighted.items():
        image.grad = text.grad = None
        value.backward(retain_graph=True)
        assert image.grad is not None
        assert text.grad is not None
        expected = torch.cat([image.grad.flatten(), text.grad.flatten()])
        torch.testing.assert_close(gradients[name], expected, rtol=1e-6, atol=1e-8)


class Toy(pl.LightningModule):
    """Two terms that want the opposite, and one that does not pull."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(32, 32)
        self.coefficients = {"alpha": 0.5}
        self.last_pair_batch: PairBatch | None = None
        self.loss = LayeredLoss(
            {
                "sigmoid": WeightedTerm(MultiPositiveSigmoid(), "alpha"),
                "double": WeightedTerm(MultiPositiveSigmoid(), "1 - alpha", scale=2.0),
                "against": WeightedTerm(lambda batch: -MultiPositiveSigmoid()(batch)),
                "still": WeightedTerm(lambda batch: batch.zero + 3.0),
                "off": WeightedTerm(IcdGeometric(), 0.0),
            }
        )

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        example = example_batch()
        self.last_pair_batch = replace(example, image=torch.nn.functional.normalize(self.layer(example.image), dim=-1))
        return self.loss(self.last_pair_batch, self.coefficients).total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Kept(DummyLogger):
    """Keeps what is logged, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        if any(name.startswith("grad_") for name in metrics):
            self.logged[step] = metrics


@pytest.mark.parametrize("diagnosed", [True, False])
def test_callback_logs_every_few_steps_and_leaves_the_training_alone(diagnosed: bool) -> None:
    torch.manual_seed(0)
    module, kept = Toy(), Kept()
    trainer = pl.Trainer(
        max_steps=4,
        callbacks=[LossDiagnostics(every_n_steps=2)] if diagnosed else [],
        logger=kept,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(torch.ones(4, 1))))
    torch.manual_seed(0)
    expected = Toy()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(4):
        example = example_batch()
        image = torch.nn.functional.normalize(expected.layer(example.image), dim=-1)
        optimizer.zero_grad()
        expected.loss(replace(example, image=image), expected.coefficients).total.backward()
        optimizer.step()
    torch.testing.assert_close(module.layer.weight, expected.layer.weight, rtol=0, atol=0)
    if not diagnosed:
        assert kept.logged == {}
        return
    assert list(kept.logged) == [1, 3]
    first = kept.logged[1]
    norms = {name.split("/")[1]: value for name, value in first.items() if name.startswith("grad_norm/")}
    assert set(norms) == {"sigmoid", "double", "against", "still"}
    assert norms["double"] == pytest.approx(2 * norms["sigmoid"], rel=1e-5)
    assert norms["still"] == 0
    cosines = {name.split("/")[1]: value for name, value in first.items() if name.startswith("grad_cosine/")}
    expected_cosines = {"sigmoid_vs_double": 1.0, "sigmoid_vs_against": -1.0, "double_vs_against": -1.0}
    assert cosines == pytest.approx(expected_cosines, abs=1e-5)
    assert all(math.isfinite(value) for value in first.values())
