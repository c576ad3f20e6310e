"""Processes of one run agree on what they train before the first step, or it ends with one line."""

from collections.abc import Mapping

import lightning.pytorch as pl
import torch

from siglip_med.core.errors import EXIT_STATUS, UserError


class Agreement(pl.Callback):
    """Compares facts of every process with those of the first when the processes have found each other."""

    def __init__(self, facts: Mapping[str, str]) -> None:
        """Takes what has to be the same, by the name that a message gives it."""
        self.facts = dict(facts)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares.

        Raises:
            UserError: in the first process: the line names a process, the fact, and both values.
            SystemExit: in the others.
        """
        if trainer.world_size == 1:
            return
        found: list[dict[str, str]] = [{}] * trainer.world_size
        torch.distributed.all_gather_object(found, self.facts)
        for rank, other in enumerate(found):
            for name in sorted(self.facts.keys() | other.keys()):
                mine, its = found[0].get(name, "none"), other.get(name, "none")
                if mine == its:
                    continue
                if trainer.is_global_zero:
                    raise UserError(
                        f"processes of one run must agree: {name} is {its} in process {rank} and {mine} in process 0; "
                        "start all of them with the same command line, data and code"
                    )
                raise SystemExit(EXIT_STATUS)
