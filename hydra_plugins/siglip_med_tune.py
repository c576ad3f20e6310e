"""Hydra's door to `siglip_med.commands.tuning`: Hydra takes sweepers from this package alone.

It is imported at every start of any Hydra program, so it imports next to nothing.
"""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class Tune(Sweeper):
    """The sweeper of ``sweep=tune``."""

    def __init__(self, **settings: Any) -> None:
        """Keeps what ``conf/hydra/sweeper/tune.yaml`` says, which is checked before anything runs."""
        self.settings = settings
        self.context: HydraContext | None = None
        self.task: TaskFunction | None = None
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes what Hydra gives to every sweeper."""
        self.context, self.task, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Tunes."""
        from siglip_med.commands.tuning import tune
        from siglip_med.core.errors import UserError, fail

        plain = {
            name: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for name, value in self.settings.items()
        }
        try:
            return tune(plain, arguments, self.config, self.context, self.task)
        except UserError as error:
            fail(error)
