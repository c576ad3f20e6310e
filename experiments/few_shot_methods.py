"""What others train on a frozen vision-language model's embeddings: TaskRes, Tip-Adapter-F, CLAP and ProLIP.

Written from the papers, as plain torch. Each starts from a text classifier and the unit embeddings of training images,
takes its settings from the validation split of the same seed (the same number of trials for each, the first with the
paper's own settings), and ends as scores of ``val`` and ``test``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

from siglip_med.metrics import Predictions, headline_metrics

STEPS, BATCH, TRIALS = 300, 256, 8


@dataclass(frozen=True)
class Task:
    """What a method starts from.

    Attributes:
        images: ``[N, E]`` unit embeddings of the training images.
        labels: ``[N, C]`` weights of their conditions; a row sums to 1.
        others: ``[n, E]`` unit embeddings of ``val`` and ``test``.
        text: ``[C, E]`` unit embeddings of the conditions' prompts.
        scale: multiplier of the cosines.
        frames: what is known of ``val`` and ``test``.
        seed: of the batches and the trials.
    """

    images: Tensor
    labels: Tensor
    others: dict[str, Tensor]
    text: Tensor
    scale: float
    frames: dict[str, Predictions]
    seed: int


Scores = Callable[[Tensor], Tensor]
"""``[B, E]`` embeddings to ``[B, C]`` logits."""


@dataclass
class Method:
    """One method with its settings: what is trained, the scores, and what is added to the loss.

    Attributes:
        trained: its parameters, at their start.
        scores: reads them.
        penalty: added to the cross-entropy.
    """

    trained: list[Tensor]
    scores: Scores
    penalty: Callable[[], Tensor]


def nothing() -> Tensor:
    """No penalty."""
    return torch.zeros(())


def taskres(task: Task, alpha: float = 0.5) -> Method:
    """A residual per condition on a frozen text classifier: t + α x, x from zero.

    Source: Yu et al. 2023, Task Residual for Tuning Vision-Language Models, arXiv 2211.10277.
    """
    residual = torch.zeros_like(task.text, requires_grad=True)
    return Method(
        [residual], lambda images: task.scale * images @ normalize(task.text + alpha * residual, dim=-1).T, nothing
    )


def tip_adapter(task: Task, alpha: float = 1.0, beta: float = 5.5) -> Method:
    """The text classifier, plus α exp(−β (1 − cosine)) votes of a cache whose keys are trained.

    Source: Zhang et al. 2022, Tip-Adapter, arXiv 2207.09519 (the fine-tuned form, Tip-Adapter-F).
    """
    keys = task.images.clone().requires_grad_()

    def scores(images: Tensor) -> Tensor:
        affinity = (-beta * (1 - images @ normalize(keys, dim=-1).T)).exp()
        return task.scale * images @ task.text.T + alpha * affinity @ task.labels

    return Method([keys], scores, nothing)


def clap(task: Task, weight: float = 1.0) -> Method:
    """A linear probe that starts at the text classifier and is held near it, by how well that knows each condition.

    λ_c is the mean probability that the text classifier gives condition c on c's own training images.

    Source: Silva-Rodriguez et al. 2024, A Closer Look at the Few-Shot Adaptation of Large VLMs, arXiv 2312.12730.
    """
    prototypes = task.text.clone().requires_grad_()
    zero_shot = (task.scale * task.images @ task.text.T).softmax(dim=1)
    own = (task.labels > 0).float()
    multipliers = (zero_shot * own).sum(dim=0) / own.sum(dim=0).clamp_min(1)
    return Method(
        [prototypes],
        lambda images: task.scale * images @ normalize(prototypes, dim=-1).T,
        lambda: weight * (multipliers * (prototypes - task.text).square().sum(dim=1)).sum(),
    )


def prolip(task: Task, weight: float = 1.0) -> Method:
    """The projection of the image tower alone is trained, and held near its start by λ ‖W − W₀‖².

    SigLIP has no projection behind its pooling: here it is one more linear map, from the identity on. ``weight`` is in
    multiples of 1 / N of training images per condition, the paper's rule.

    Source: Fahes et al. 2024, CLIP's Visual Embedding Projector is a Few-shot Cornucopia, arXiv 2410.05270.
    """
    start = torch.eye(task.images.shape[1])
    projection = start.clone().requires_grad_()
    strength = weight * len(task.text) / len(task.images)
    return Method(
        [projection],
        lambda images: task.scale * normalize(images @ projection, dim=-1) @ task.text.T,
        lambda: strength * (projection - start).square().sum(),
    )


METHODS: dict[str, tuple[Callable[..., Method], dict[str, list[float]]]] = {
    "TaskRes": (taskres, {"alpha": [0.5, 0.1, 1.0]}),
    "Tip-Adapter-F": (tip_adapter, {"alpha": [1.0, 3.0, 10.0], "beta": [5.5, 2.0, 12.0]}),
    "CLAP": (clap, {"weight": [1.0]}),
    "ProLIP": (prolip, {"weight": [1.0, 0.1, 0.0]}),
}
"""Each with the settings among which trials draw; the first are the paper's."""


def train(task: Task, method: Method, rate: float) -> None:
    """AdamW with a cosine schedule on the softmax's cross-entropy, `STEPS` batches of `BATCH` images."""
    random = torch.Generator().manual_seed(task.seed)
    optimizer = torch.optim.AdamW(method.trained, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(task.images), (BATCH,), generator=random)
        loss = cross_entropy(method.scores(task.images[rows]), task.labels[rows]) + method.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def tuned(task: Task, name: str) -> dict[str, Predictions]:
    """Predictions of a method for ``val`` and ``test``, of the trial with the best MRR on validation."""
    build, space = METHODS[name]
    best: tuple[float, dict[str, Predictions]] | None = None
    for trial in range(TRIALS):
        random = np.random.default_rng((task.seed, trial))
        rate = 1e-3 if trial == 0 else float(np.exp(random.uniform(np.log(1e-4), np.log(3e-2))))
        own = {key: values[0 if trial == 0 else random.integers(len(values))] for key, values in space.items()}
        method = build(task, **own)
        train(task, method, rate)
        with torch.no_grad():
            logits = {split: method.scores(images).numpy() for split, images in task.others.items()}
        found = {split: replace(frame, logits=logits[split]) for split, frame in task.frames.items()}
        value = headline_metrics(found["val"])["mrr"]
        if best is None or value > best[0]:
            best = value, found
    assert best is not None
    return best[1]


def shares(labels: np.ndarray, primary: np.ndarray) -> Tensor:
    """``[N, C]`` labels whose rows sum to 1; a row without any has its primary condition."""
    sums = labels.sum(axis=1, keepdims=True)
    whole = torch.from_numpy(labels / np.maximum(sums, 1e-9)).float()
    return torch.where(torch.from_numpy(sums > 0), whole, one_hot(torch.from_numpy(primary), labels.shape[1]).float())
