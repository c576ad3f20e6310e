"""A callback that ends a run early, as a lost machine would, leaving its last checkpoint."""

import lightning.pytorch as pl


class StopAt(pl.Callback):
    """Stops after some optimizer steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.step
