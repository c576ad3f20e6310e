"""Ends a trial early where others of its study were better at the same step of training, on validation."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from pydantic import NonNegativeInt

from siglip_med.core.extras import require


def open_storage(journal: str | Path) -> Any:
    """Optuna's journal of trials: a file that several processes may share, also on a network file system.

    Raises:
        UserError: Optuna is not installed.
    """
    optuna: Any = require("optuna", "siglip-med-tune", "sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))


class Pruned(Exception):
    """A trial was ended early, which is a result and no failure; the message names step and reason."""


class Pruning(pl.Callback):
    """Reports the monitored metric of every validation to the study, and ends the trial if the study prunes it.

    A trial ends where its best value so far is worse than the median of the other trials at the same step.

    Source: Golovin et al. 2017, Google Vizier, section 3.2.2; `optuna.pruners.MedianPruner`.
    """

    def __init__(
        self,
        monitor: str,
        journal: str,
        study: str,
        trial: NonNegativeInt,
        startup: NonNegativeInt = 4,
        warmup_steps: NonNegativeInt = 0,
    ) -> None:
        """Opens the trial; ``siglip-med-tune`` sets the first four.

        Args:
            monitor: a metric of every validation.
            journal: file of the trials.
            study: the experiment that is tuned.
            trial: its number in the study.
            startup: finished trials before any is pruned.
            warmup_steps: training steps before a trial is pruned.
        """
        import optuna

        pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup_steps)
        found = optuna.load_study(study_name=study, storage=open_storage(journal), pruner=pruner)
        self.monitor, self.study = monitor, study
        self.trial = optuna.trial.Trial(found, found.get_trials(deepcopy=False)[trial]._trial_id)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, and ends the trial where it should.

        Raises:
            Pruned: the trial is over.
        """
        if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        step, value = trainer.global_step, float(trainer.callback_metrics[self.monitor])
        known = self.trial.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values
        if step not in known:  # a trial that is resumed from its checkpoint validates once more
            self.trial.report(value, step)
        if self.trial.should_prune() and not 0 < trainer.max_steps <= step:  # at its last step it has nothing to save
            raise Pruned(
                f"{self.monitor} was {value:.4f} at step {step}, and the best until then is worse than the median of "
                f"the other trials of {self.study} there"
            )
