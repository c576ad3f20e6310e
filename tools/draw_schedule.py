"""Draws a schedule: ``python -m tools.draw_schedule conf/schedule/layered.yaml layered.png``."""

import argparse
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from siglip_med.core.config import validate_config
from siglip_med.core.errors import UserError, fail
from siglip_med.training.schedule import CoefficientSchedule


def draw(schedule: CoefficientSchedule, total_steps: int) -> Figure:
    """The coefficients over a run, one line each."""
    steps = np.unique(np.linspace(0, total_steps, 1001).astype(int))
    values = [schedule.at(int(step), total_steps) for step in steps]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for rank, name in enumerate(schedule.names):
        # coefficients that move together would hide each other: each line is thinner than the one below it
        width = max(6.0 - 1.6 * rank, 1.0)
        axes.plot(steps, [value[name] for value in values], linewidth=width, label=name, clip_on=False)
    axes.set(xlabel="optimizer step", ylabel="coefficient", xlim=(0, total_steps))
    axes.set_ylim(-0.03, None)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def main() -> None:
    """Draws the schedule of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("schedule", type=Path, help="a file as in conf/schedule/")
    parser.add_argument("picture", type=Path, help="file to write")
    parser.add_argument("--steps", type=int, default=3000, help="length of the run")
    options = parser.parse_args()
    config = OmegaConf.load(options.schedule)
    assert isinstance(config, DictConfig)
    try:
        validate_config(config)
        draw(instantiate(config), options.steps).savefig(options.picture, dpi=150)
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main()
