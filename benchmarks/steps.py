"""What a training step costs beside a plain loop, the Hugging Face Trainer and open_clip.

    python benchmarks/steps.py                  # every comparison
    python benchmarks/steps.py --only trainer

Each variant trains a few steps in turn, from the same JPEGs; the first step of each turn is not counted. Ours is the
fit of train.py with its callbacks and loggers, without progress bar and checkpoints, which no peer has, and without
validation. Its images were decoded once, before the first step (data.cache_dir); the Trainer recipe decodes them in
each. Weights are random in "base2", the shapes of SigLIP-base with two blocks per tower; "tiny" is the embedded base.
"""

import argparse
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import lightning.pytorch as pl
import torch
from cached_heads import settings
from peers import bare as plain_loop
from peers import open_clip as their
from peers import trainer as recipe
from rich.console import Console
from timing import Ratio, StepClock, compare_costs
from torch import Tensor
from towers import siglip_tokenizer, write_siglip

from siglip_med.core.config import instantiate
from siglip_med.core.files import write_csv
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.runs.building import build, build_module
from siglip_med.runs.components import Components
from siglip_med.synthetic import SyntheticSource
from siglip_med.training.module import FineTuneModule
from tools.pretraining.base import PACKAGED

NO_TRIMMINGS = ("callbacks.checkpoint=null", "+trainer.limit_val_batches=0", "trainer.enable_progress_bar=false")
EVERY_TERM = ("schedule=constant", "schedule.knots.gamma={0: 0.5}", "schedule.knots.delta={0: 0.5}")
IMAGES = 240
CLIP = 1.0


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        peer: ``bare``, ``trainer`` or ``open_clip``.
        model: ``tiny``, or ``base2``, ``base12``: with so many blocks per tower.
        batch_size: images per step.
        steps: counted steps of a turn.
        several: whether images list two or three conditions, as the drawings do, or one, as a peer's recipe knows it.
        overrides: of our run.
        first_block: of both towers, with adapters.
    """

    peer: str
    model: str
    batch_size: int
    steps: int
    several: bool
    overrides: tuple[str, ...]
    first_block: int = 0

    @property
    def what(self) -> str:
        """The first column."""
        listed = "2 to 3 conditions" if self.several else "one condition"
        return f"{self.model}, batch {self.batch_size}, {listed} per image, {', '.join(self.overrides)}"


LAYERED, POOL, PLAIN = "loss=layered", "text_pool=batch", "augmentation=none"
CASES = (
    Case("bare", "tiny", 32, 8, True, (LAYERED, "text_pool=all")),
    Case("bare", "base2", 8, 2, True, (LAYERED, POOL)),
    Case("trainer", "tiny", 32, 8, False, (POOL, PLAIN)),
    Case("trainer", "tiny", 32, 8, True, ("text_pool=all", PLAIN)),
    Case("trainer", "base2", 8, 2, False, (POOL, PLAIN)),
    Case("trainer", "base2", 8, 2, True, (POOL, PLAIN)),
    Case("open_clip", "base2", 8, 2, False, (POOL, PLAIN, "model/adaptation=full")),
    Case("open_clip", "base2", 8, 2, True, (POOL, PLAIN, "model/adaptation=full")),
)
LAST_THIRD = Case("trainer", "base12", 32, 1, False, (POOL, PLAIN, "features=cached"), first_block=8)
"""Not among the others: a turn of it takes minutes."""
AGAINST = {
    "bare": "a plain PyTorch loop, same work: time",
    "trainer": "the Hugging Face Trainer recipe: speed",
    "open_clip": "open_clip's step: speed",
}


def write_labels(root: Path, size: int) -> Path:
    """A folder of drawings whose table gives each its first condition alone."""
    source = SyntheticSource(root=str(root / "drawn"), n_images=IMAGES, seed=0, size=size)
    source.prepare()
    table, folder = source.load(), root / f"labeled-{size}"
    if not folder.exists():
        shutil.copytree(table.root / "images", folder / "images")
        names = [table.conditions[number] for number in table.frame["primary"]]
        rows = zip(table.frame["image"], names, table.frame["case"], strict=True)
        write_csv(folder / "labels.csv", ("image", "condition", "case"), rows)
    return folder


class Bench:
    """A case's model, data and ways to train, all built once."""

    def __init__(self, case: Case, work: Path) -> None:
        self.case = case
        self.model_folder = PACKAGED if case.model == "tiny" else work / case.model
        if not self.model_folder.exists():
            layers = int(case.model.removeprefix("base"))
            write_siglip(self.model_folder, layers=layers, tokenizer=siglip_tokenizer())
        size = 64 if case.model == "tiny" else 224
        data = (f"data.source.n_images={IMAGES}", f"data.source.size={size}")
        if not case.several:
            labeled = write_labels(work, size)
            data = ("data=csv", f"data.source.root={labeled}", "data.source.group_column=case")
        self.settings = settings(
            work,
            f"model={'siglip_tiny' if case.model == 'tiny' else 'siglip_base'}",
            f"model.path={self.model_folder}",
            f"paths.cache_dir={work}/cache",
            f"data.batch_size={case.batch_size}",
            f"trainer.max_steps={case.steps + 1}",
            f"trainer.gradient_clip_val={CLIP}",
            *data,
            *NO_TRIMMINGS,
            *EVERY_TERM,
            *case.overrides,
            *([f"model.adaptation.first_block={case.first_block}"] if case.first_block else []),
        )
        self.components: Components = build(self.settings, torch.device("cpu"))

    def module(self) -> FineTuneModule:
        """Ours, on the shared model."""
        chosen = self.settings
        return build_module(chosen, self.components, instantiate(chosen.loss), instantiate(chosen.optimizer))

    def ours(self) -> float:
        """Seconds a step of train.py's fit."""
        clock, chosen = StepClock(), self.settings
        loop: pl.Trainer = instantiate(chosen.trainer, callbacks=chosen.callbacks, logger=chosen.logger)
        loop.callbacks.append(_AfterStep(clock))  # type: ignore[attr-defined]
        loop.fit(self.module(), datamodule=self.components.data)
        return clock.seconds()

    def bare(self) -> float:
        """Seconds a step of the plain loop."""
        clock, module, steps = StepClock(), self.module(), self.case.steps + 1
        module.coefficients = instantiate(self.settings.schedule).at(0, steps)
        plain_loop.fit(module, self.components, steps, clock, CLIP)
        return clock.seconds()

    def trainer(self) -> float:
        """Seconds a step of the Trainer recipe."""
        clock = StepClock()
        recipe.fit(self._their_model, self._pairs, self.case.batch_size, self.case.steps + 1, clock)
        return clock.seconds()

    def open_clip(self) -> float:
        """Seconds a step of open_clip's, on batches of our loader: its own transforms need torchvision."""
        clock = StepClock()
        their.fit(self._their_open_clip, self._token_batches(), CLIP, clock)
        return clock.seconds()

    @functools.cached_property
    def _their_model(self) -> torch.nn.Module:
        return recipe.build(self.model_folder, self.case.first_block)

    @functools.cached_property
    def _their_open_clip(self) -> torch.nn.Module:
        return their.build(their.Shape())

    @functools.cached_property
    def _texts(self) -> list[str]:
        """A sentence a training image: a prompt of its first condition."""
        data = self.components.data
        first = data.table.frame["primary"].to_numpy()[data.split.train]
        return [self.components.training_prompts[number][0] for number in first]

    @functools.cached_property
    def _pairs(self) -> recipe.Pairs:
        table, rows = self.components.data.table, self.components.data.split.train
        images = [table.root / name for name in table.frame["image"].to_numpy()[rows]]
        return recipe.Pairs(self.model_folder, images, self._texts)

    def _token_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        data = self.components.data
        tokens = self.components.model.tokenize(self._texts)["input_ids"]
        place = {int(row): number for number, row in enumerate(data.split.train)}
        for _, batch in zip(range(self.case.steps + 1), data.train_dataloader(), strict=False):
            yield batch.images, tokens[[place[int(row)] for row in batch.index]]


class _AfterStep(pl.Callback):
    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def on_train_batch_end(self, *_: object) -> None:
        self.call()


def measure(case: Case, blocks: int, work: Path) -> Ratio | str:
    """Time of ours over a plain loop's, or speed of ours over that of another library; or why there is none."""
    if case.peer == "open_clip" and their.missing():
        return f"not measured: {their.missing()}"
    bench = Bench(case, work)
    if case.peer == "bare":
        return compare_costs(bench.ours, bench.bare, blocks)
    return compare_costs(getattr(bench, case.peer), bench.ours, blocks)


def rows(blocks: int, only: str = "") -> Iterator[tuple[str, str, str]]:
    """The lines of the table: what, against what, figure."""
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            if only in ("", case.peer):
                yield f"step: {case.what}", AGAINST[case.peer], str(measure(case, blocks, Path(name)))


def main() -> None:
    """Prints a line a comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(AGAINST), default="")
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    _quiet_libraries()
    for row in rows(options.blocks, options.only):
        Console(width=200).print(" | ".join(row), markup=False, highlight=False)


if __name__ == "__main__":
    main()
