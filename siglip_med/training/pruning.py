"""Ends a trial of a sweep early where others were better at the same step of training, on validation."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from pydantic import NonNegativeInt

from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.core.files import write_json

NAME = "pruned.json"


class Pruned(Exception):
    """A trial was ended early, which is a result and no failure; the message says where and why."""


class Pruning(pl.Callback):
    """Reports the monitored metric of every validation to the sweep's store, and asks whether to go on.

    The rule is Optuna's median rule: a trial ends where its best value so far is worse than the median of the other
    trials at the same step. Of a run with several processes the first one asks.

    Raises:
        UserError: Optuna is not installed, or the run belongs to no sweep.

    Source: Golovin et al. 2017, Google Vizier, section 3.2.2; `optuna.pruners.MedianPruner`.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["min", "max"],
        startup: NonNegativeInt = 4,
        warmup_steps: NonNegativeInt = 0,
        store: str | None = None,
        study: str | None = None,
        trial: NonNegativeInt | None = None,
    ) -> None:
        """Knows the trial.

        Args:
            monitor: a metric of every validation.
            mode: whether more of it is better.
            startup: finished trials before any is pruned.
            warmup_steps: training steps before a trial is pruned.
            store: file of the sweep's trials; the sweeper gives this, ``study`` and ``trial``.
            study: the loss that is tuned.
            trial: number of the trial in it.
        """
        self.monitor, self.mode, self.startup, self.warmup_steps = monitor, mode, startup, warmup_steps
        self.store, self.study, self.trial = store, study, trial

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, and ends the trial where it should.

        Raises:
            Pruned: the trial is over.
        """
        if trainer.sanity_checking or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        step, value = trainer.global_step, float(trainer.callback_metrics[self.monitor])
        last = 0 < trainer.max_steps <= step
        wanted = trainer.is_global_zero and self._report(step, value) and not last
        if not trainer.strategy.reduce_boolean_decision(wanted, all=False):
            return
        reason = (
            f"{self.monitor} was {value:.4f} at step {step}, and the best until then is worse than the median of the "
            f"other trials of {self.study} there"
        )
        if trainer.is_global_zero:
            content = {"step": step, "metric": self.monitor, "value": value, "reason": reason}
            write_json(Path(trainer.default_root_dir) / NAME, content)
        raise Pruned(reason)

    def _report(self, step: int, value: float) -> bool:
        """Writes the value down, and says whether the trial should end."""
        if self.store is None or self.study is None or self.trial is None:
            raise UserError("callbacks.pruning: this run is no trial of a sweep; use it with -m sweep=tune alone")
        optuna: Any = require("optuna", "callbacks.pruning", "sweep")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=self.startup, n_warmup_steps=self.warmup_steps)
        study = optuna.load_study(study_name=self.study, storage=f"sqlite:///{self.store}", pruner=pruner)
        frozen = next(trial for trial in study.get_trials(deepcopy=False) if trial.number == self.trial)
        trial = optuna.trial.Trial(study, frozen._trial_id)
        if step not in frozen.intermediate_values:  # a run that goes on from its checkpoint validates once more
            trial.report(value, step)
        return bool(trial.should_prune())
