"""Trains heads on the kept features of frozen towers, or adapters, as fast as a plain loop goes, for the studies.

The loop calls the project's own module, losses, prompts, data and optimizer, and leaves out what a study does not read:
checkpoints, logs, dashboards. Its weights are those of ``python train.py`` (a test).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from siglip_med.commands import train
from siglip_med.conditions import dissimilarity
from siglip_med.core.config import instantiate, leaves
from siglip_med.data import LabeledData
from siglip_med.data.splitting import Split
from siglip_med.inference import predict_split
from siglip_med.inference.probe import frozen_features
from siglip_med.metrics import Predictions
from siglip_med.models import DualEncoder, TwoTower
from siglip_med.runs.building import build, build_module
from siglip_med.runs.components import Components, build_model
from siglip_med.runs.scoring import predict
from siglip_med.training.module import FineTuneModule

Rows = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Chooses training rows: of all of them, and their first conditions."""


@dataclass
class Bench:
    """One seed's data, features and freshly started heads or adapters; any number of losses is trained on them.

    Attributes:
        settings: of the seed; loss and optimizer are those of each run.
        components: its data, and the model that is trained.
        module: gets each run's loss.
        start: the trained weights before training.
        features: ``[n, F]`` image features of the base for ``val``, ``test`` and, where ``trains_vision``, ``train``.
        frames: labels of ``val`` and ``test``, before training.
        split: whole, whatever rows are trained on.
        trains_vision: whether the vision tower is trained, so that predictions need its forward pass.
    """

    settings: train.Settings
    components: Components
    module: FineTuneModule
    start: dict[str, Tensor]
    features: dict[str, Tensor]
    frames: dict[str, Predictions]
    split: Split
    trains_vision: bool

    @classmethod
    def build(cls, settings: train.Settings, earlier: "Bench | None" = None, rounded: bool = False) -> "Bench":
        """Reads the data, and embeds every image and prompt once.

        Args:
            settings: of a run.
            earlier: a bench of another seed, whose frozen towers and embedded prompts serve this one from now on, or
                the features of the base where towers are trained.
            rounded: whether trained towers give features in bfloat16, as frozen ones do on a processor that has it.
        """
        model = build_model(settings.model, settings.seed)
        start = {name: value.clone() for name, value in model.trainable_state().items()}
        kept = bool(model.vision_is_frozen and settings.features)
        reused = earlier if kept else None
        components = build(settings, torch.device("cpu"), reused.model if reused else model)
        if reused:
            # Frozen towers and the same sentences: what they gave for one seed holds for all.
            vars(components)["prompt_ensemble"] = reused.components.prompt_ensemble
            module = reused.module
            module.seed = module.texts.seed = settings.seed
        else:
            module = build_module(settings, components, instantiate(settings.loss), instantiate(settings.optimizer))
        components.model.load_trainable_state(start)
        if rounded:
            round_features(components.model)
        data = components.data
        known = None if kept or earlier is None else earlier.known_of(settings, data)
        with given_features(components.model, known):
            untrained = predict(components)
            features = dict(zip(("val", "test"), map(torch.from_numpy, untrained.features), strict=True))
            if not kept:
                features["train"] = torch.from_numpy(frozen_features(components.model, data, "train")[0])
        frames = {"val": untrained.val, "test": untrained.test}
        return cls(settings, components, module, start, features, frames, data.split, not kept)

    @property
    def model(self) -> TwoTower:
        """The model that is trained."""
        return self.components.model

    def serves(self, settings: train.Settings) -> bool:
        """Whether it is of a run's seed and images' size, the one setting of the model that trials may change."""
        return self.settings.seed == settings.seed and self.same_size(settings)

    def same_size(self, settings: train.Settings) -> bool:
        """Whether a run has images of the same size."""
        return bool(self.settings.model.get("image_size") == settings.model.get("image_size"))

    def known_of(self, settings: train.Settings, data: LabeledData) -> Tensor | None:
        """Features by the base of another seed's ``val``, ``test`` and ``train`` in turn; None where one is unknown."""
        rows = {split: np.asarray(getattr(self.split, split)) for split in ("val", "test", "train")}
        theirs = np.concatenate([data.rows(split) for split in rows])
        if not self.same_size(settings) or not set(theirs) <= set(np.concatenate([*rows.values()])):
            return None
        found = torch.zeros(len(data.table.frame), self.features["val"].shape[1])
        for split, own in rows.items():
            found[torch.from_numpy(own)] = self.features[split]
        return found[torch.from_numpy(theirs)]

    def train_on(self, choose: Rows | None) -> None:
        """Trains on the chosen rows of the training split alone (None: on all); validation and test stay."""
        data, rows, parts = self.components.data, self.split.train, self.split.parts.copy()
        kept = rows if choose is None else choose(rows, data.table.frame["primary"].to_numpy()[rows])
        parts[np.setdiff1d(rows, kept)] = "unused"
        data.split = replace(self.split, parts=parts)
        data.train_counts = (data.table.labels[kept] > 0).sum(axis=0)

    def predict(self, split: str) -> Predictions:
        """`siglip_med.inference.predict_split` of ``val`` or ``test``, from what was embedded before where it was."""
        return self.embed(split)[0]

    @torch.no_grad()
    def embed(self, split: str) -> tuple[Predictions, np.ndarray]:
        """What `predict` gives, and the ``[n, F]`` features by the towers as they are now."""
        model, c = self.model.eval(), self.components
        if self.trains_vision:
            return predict_split(model, c.prompt_ensemble, c.data, c.conditions, c.dissimilarity, split, progress=False)
        text = self.components.prompt_ensemble.encode(model)
        image = normalize(model.project_images(self.features[split]).float(), dim=-1)
        logits = image @ text.T * model.logit_scale.exp() + model.logit_bias
        found = replace(
            self.frames[split],
            logits=logits.numpy(),
            text_embeddings=text.numpy(),
            image_embeddings=image.numpy(),
        )
        return found, self.features[split].numpy()

    def training_dissimilarity(self, settings: train.Settings, shuffled: bool) -> np.ndarray:
        """D of the settings' geometry; shuffled: the same values over a random order of the conditions, by the seed."""
        data, chosen = self.components.data, settings.conditions
        labels = data.table.labels[data.split.train]
        matrix = dissimilarity(self.components.conditions, chosen.geometry, chosen.measure, labels, chosen.weights)
        if shuffled:
            order = np.random.default_rng((settings.seed, 1)).permutation(len(matrix))
            matrix = matrix[order][:, order]
        return matrix


@contextmanager
def given_features(model: TwoTower, values: Tensor | None) -> Iterator[None]:
    """While it is open, a model gives these ``[N, F]`` features, in order, and computes none; None: it does."""
    if values is None:
        yield
        return
    before, rest = vars(model).get("pooled_features"), values

    def given(images: Tensor) -> Tensor:
        nonlocal rest
        found, rest = rest[: len(images)], rest[len(images) :]
        return found

    model.pooled_features = given
    yield
    del model.pooled_features
    if before is not None:
        model.pooled_features = before


def round_features(model: TwoTower) -> None:
    """From now on the towers give features in bfloat16 while they are not trained."""
    exact = model.pooled_features

    def pooled(images: Tensor) -> Tensor:
        if model.training:
            return exact(images)
        with torch.autocast("cpu", torch.bfloat16):
            return exact(images).float()

    model.pooled_features = pooled


def long_tail(most: int, fewest: int, seed: int) -> Rows:
    """Training images per condition fall geometrically from ``most`` to ``fewest``, conditions in random order."""

    def choose(rows: np.ndarray, primary: np.ndarray) -> np.ndarray:
        random = np.random.default_rng((seed, 2))
        present = random.permutation(np.unique(primary))
        wanted = np.geomspace(most, fewest, len(present)).round().astype(int)
        kept = [random.permutation(rows[primary == c])[:n] for c, n in zip(present, wanted, strict=True)]
        return np.sort(np.concatenate(kept))

    return choose


def k_shot(images: int, seed: int) -> Rows:
    """At most ``images`` training images of each condition."""

    def choose(rows: np.ndarray, primary: np.ndarray) -> np.ndarray:
        random = np.random.default_rng((seed, 3))
        return np.sort(np.concatenate([random.permutation(rows[primary == c])[:images] for c in np.unique(primary)]))

    return choose


def fit(
    bench: Bench,
    settings: train.Settings,
    shuffled: bool = False,
    seen: Callable[[int], None] | None = None,
    average_over: float = 0.2,
) -> dict[str, Tensor]:
    """Trains the bench's heads from their start.

    Args:
        bench: of the same data, model and seed; its weights are those of the last step afterwards.
        settings: loss, schedule, optimizer, dropout, steps and geometry of this run.
        shuffled: train with a shuffled D (a control).
        seen: called with the step after each epoch and after the last step, as ``train.py`` validates.
        average_over: last share of the steps whose weights are averaged.

    Returns:
        The averaged weights, by name.
    """
    module, model = bench.module, bench.model
    trainer = SimpleNamespace(global_step=0, current_epoch=0, global_rank=0, train_dataloader=None)
    _prepare(bench, settings, shuffled, trainer)
    steps, clip = int(settings.trainer["max_steps"]), settings.trainer["gradient_clip_val"]
    schedule = instantiate(settings.schedule)
    optimizer, rates = module.optimizer_settings.build(model, steps)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # as Lightning rounds the forward pass of a step, whose losses are float32 by themselves; predictions never are
    rounded = torch.autocast("cpu", torch.bfloat16, enabled=settings.trainer["precision"] == "bf16-mixed")
    total: dict[str, Tensor] = {}
    averaged = 0
    trainer.train_dataloader = bench.components.data.train_dataloader()
    for epoch in count():
        trainer.current_epoch = epoch
        trainer.train_dataloader.sampler.set_epoch(epoch)
        for number, batch in enumerate(trainer.train_dataloader):
            module.on_train_batch_start(batch, number)
            model.train()
            with rounded:
                output = module.loss(module.pair(batch)[0], schedule.at(trainer.global_step, steps))
            optimizer.zero_grad()
            output.total.backward()
            torch.nn.utils.clip_grad_norm_(trained, clip)
            optimizer.step()
            rates.step()
            model.clamp_logits()
            trainer.global_step += 1
            if trainer.global_step > steps * (1 - average_over):
                averaged += 1
                _add(total, model.trainable_state())
            if trainer.global_step >= steps:
                break
        if seen is not None:
            seen(trainer.global_step)
        if trainer.global_step >= steps:
            return {name: value / averaged for name, value in total.items()}
    raise AssertionError("count() has no end")


def _prepare(bench: Bench, settings: train.Settings, shuffled: bool, trainer: Any) -> None:
    module, model = bench.module, bench.model
    if settings.seed != bench.settings.seed:
        raise ValueError(f"the bench is of seed {bench.settings.seed}, the settings of seed {settings.seed}")
    for name in ("model", "data", "features"):
        ours, theirs = dict(leaves(getattr(bench.settings, name) or {})), dict(leaves(getattr(settings, name) or {}))
        differ = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if isinstance(model, DualEncoder) and name == "model":
            differ = [key for key in differ if key != "dropout"]
        if differ:
            raise ValueError(
                f"{name}.{differ[0]} differs from the bench's: one model and its data serve all runs of a seed"
            )
    model.load_trainable_state(bench.start)
    if isinstance(model, DualEncoder):
        for head in (model.image_head, model.text_head):
            head.dropout.p = settings.model["dropout"]
    module.loss, module.optimizer_settings = instantiate(settings.loss), instantiate(settings.optimizer)
    module.texts.pool = settings.text_pool
    matrix = torch.from_numpy(bench.training_dissimilarity(settings, shuffled))
    module.get_buffer("dissimilarity").copy_(matrix)
    module.get_buffer("condition_counts").copy_(torch.as_tensor(bench.components.data.drawn_counts()))
    module.trainer = trainer


def _add(total: dict[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if name in total:
            total[name] += value
        else:
            total[name] = value.clone()
