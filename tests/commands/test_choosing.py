"""With five conditions R@5 is always 1; the kept checkpoint is the one that the choosing metric favors."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from siglip_med.core.config import instantiate
from siglip_med.metrics import CHOOSING, RetrievalMetrics
from tests.short_runs import compose_config

CONDITIONS = 5


class Classifier(pl.LightningModule):
    """Five clusters and a linear layer, judged at validation as a run is; it starts with every answer wrong."""

    def __init__(self, centers):
        super().__init__()
        self.layer = torch.nn.Linear(CONDITIONS, CONDITIONS, bias=False)
        self.layer.weight.data = -0.3 * centers
        self.metrics = RetrievalMetrics(1 - torch.eye(CONDITIONS))
        self.seen = {}

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

    def validation_step(self, batch, _):
        images, primary, index = batch
        labels = torch.nn.functional.one_hot(primary, CONDITIONS).float()
        self.metrics.update(self.layer(images), labels, primary, index)

    def on_validation_epoch_end(self):
        values = self.metrics.compute()
        self.metrics.reset()
        self.seen[self.global_step] = values
        self.log_dict({f"val/{name}": float(value) for name, value in values.items()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    primary = torch.arange(200) % CONDITIONS
    points = torch.eye(CONDITIONS)[primary] + 0.6 * torch.randn(200, CONDITIONS, generator=generator)
    return DataLoader(TensorDataset(points, primary, torch.arange(200)), batch_size=40)


def kept_step(module, images, folder, monitor, mode):
    node = compose_config(f"paths.output_dir={folder}", f"monitor={monitor}", f"mode={mode}").callbacks.checkpoint
    checkpoint = instantiate(node)
    trainer = pl.Trainer(
        max_steps=60, check_val_every_n_epoch=2, num_sanity_val_steps=0, callbacks=[checkpoint], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, images, images)
    return torch.load(checkpoint.best_model_path, weights_only=True)["global_step"]


def test_five_conditions_and_sixty_steps_keep_the_checkpoint_of_the_best_mrr(images, tmp_path):
    config = compose_config()
    module = Classifier(torch.eye(CONDITIONS))
    kept = kept_step(module, images, tmp_path, config.monitor, config.mode)
    chosen = {step: float(values[CHOOSING]) for step, values in module.seen.items()}
    assert kept == max(chosen, key=chosen.get) > min(chosen)
    assert {float(values["r_at_5"]) for values in module.seen.values()} == {1.0}
    assert float(module.seen[kept]["r_at_1"]) > 2 * float(module.seen[min(chosen)]["r_at_1"])


def test_r_at_5_would_have_kept_the_first_one(images, tmp_path):
    module = Classifier(torch.eye(CONDITIONS))
    assert kept_step(module, images, tmp_path, "val/r_at_5", "max") == min(module.seen)
