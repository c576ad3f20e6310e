"""Does attention over the images of a case beat their mean?

    python benchmarks/case_attention.py logs/…/run0 logs/…/run1

On the pooled features of finished runs' tuned towers: a linear layer on the mean of a case's images, and on their gated
attention (Ilse et al. 2018, equation 9), trained alike on the training cases by a softmax over conditions, with the
same trials (learning rates and weight decays) and the epoch chosen on validation by MRR per case. Judged per case on
test, with paired intervals over cases; beside them the refit's logits, averaged over a case's images, as in a run.
"""

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from familiarity import print_over_runs
from torch import Tensor, nn

from siglip_med.inference.probe import frozen_features
from siglip_med.metrics import Bootstrap, Predictions, per_case
from siglip_med.runs.stored import OpenedRun, open_run

RATES, DECAYS, EPOCHS, PATIENCE = (3e-3, 1e-2), (1e-3, 1e-2, 1e-1), 60, 10
METRICS = ("r_at_1", "mrr")


class GatedAttention(nn.Module):
    """``[G, F]``: sum of a_k h_k over the images of each case, a = softmax(w (tanh(V h) * sigmoid(U h)))."""

    def __init__(self, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(features, hidden), nn.Linear(features, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, images: Tensor, case: Tensor, cases: int) -> Tensor:
        """Pools; ``case`` is ``[N]`` in 0..cases-1."""
        score = self.score(torch.tanh(self.value(images)) * torch.sigmoid(self.gate(images)))[:, 0]
        highest = score.new_full((cases,), -torch.inf).scatter_reduce(0, case, score, "amax")
        weight = (score - highest[case]).exp()
        share = weight / torch.zeros_like(highest).index_add(0, case, weight)[case]
        return images.new_zeros(cases, images.shape[1]).index_add(0, case, share[:, None] * images)


class Mean(nn.Module):
    """``[G, F]``: the mean of each case's images."""

    def forward(self, images: Tensor, case: Tensor, cases: int) -> Tensor:
        """Pools; ``case`` is ``[N]`` in 0..cases-1."""
        count = torch.bincount(case, minlength=cases)[:, None]
        return images.new_zeros(cases, images.shape[1]).index_add(0, case, images) / count


@dataclass(frozen=True)
class Bags:
    """Images of a split ``[N, F]``, the case of each, and ``[G, C]`` labels of the cases, ordered by name."""

    images: Tensor
    case: Tensor
    labels: Tensor

    @classmethod
    def of(cls, run: OpenedRun, split: str, mean: Tensor | None = None, std: Tensor | None = None) -> "Bags":
        """Those of a run's split, standardized by training's mean and deviation."""
        features, rows = frozen_features(run.components.model, run.components.data, split, what="cases")
        table = run.components.data.table
        names, case = np.unique(table.cases[rows], return_inverse=True)
        labels = np.zeros((len(names), table.labels.shape[1]), dtype=np.float32)
        np.maximum.at(labels, case, table.labels[rows])
        images = torch.from_numpy(features)
        if mean is not None and std is not None:
            images = (images - mean) / std
        return cls(images, torch.from_numpy(case), torch.from_numpy((labels > 0).astype(np.float32)))


def fit(pooling: type[nn.Module], train: Bags, val: Bags, seed: int) -> tuple[nn.Module, nn.Linear, float]:
    """The trial and epoch that validation likes best, and its MRR there."""
    best: tuple[float, nn.Module, nn.Linear, dict[str, Tensor], dict[str, Tensor]] | None = None
    for rate, decay in product(RATES, DECAYS):
        torch.manual_seed(seed)
        features = train.images.shape[1]
        pool = pooling(features) if pooling is GatedAttention else pooling()
        head = nn.Linear(features, train.labels.shape[1])
        optimizer = torch.optim.AdamW([*pool.parameters(), *head.parameters()], lr=rate, weight_decay=decay)
        share, since = train.labels / train.labels.sum(dim=1, keepdim=True), 0
        own = -1.0
        for _ in range(EPOCHS):
            loss = -(share * head(pool(train.images, train.case, len(share))).log_softmax(dim=1)).sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            value = mrr(scores(pool, head, val), val.labels)
            since = 0 if value > own else since + 1
            own = max(own, value)
            if best is None or value > best[0]:
                weights = ({k: v.clone() for k, v in part.state_dict().items()} for part in (pool, head))
                best = (value, pool, head, *weights)
            if since >= PATIENCE:
                break
    assert best is not None
    value, pool, head, of_pool, of_head = best
    pool.load_state_dict(of_pool)
    head.load_state_dict(of_head)
    return pool, head, value


@torch.no_grad()
def scores(pool: nn.Module, head: nn.Linear, bags: Bags) -> Tensor:
    """``[G, C]``."""
    logits: Tensor = head(pool(bags.images, bags.case, len(bags.labels)))
    return logits


def mrr(logits: Tensor, labels: Tensor) -> float:
    """Mean reciprocal rank of the best positive condition."""
    rank = 1 + (logits[:, None, :] > logits.masked_fill(labels == 0, -torch.inf).amax(dim=1)[:, None, None]).sum(dim=2)
    return float((1.0 / rank).mean())


def of_run(folder: Path, seed: int) -> dict[str, float]:
    """Metrics per case of each pooling on a run's test, and the differences with their intervals, printed."""
    run = open_run(folder / "checkpoints" / "best.ckpt", ".cache", device="cpu")
    run.components.model.load_trainable_state(run.trained)
    raw = Bags.of(run, "train")
    mean, std = raw.images.mean(dim=0), raw.images.std(dim=0).clamp_min(1e-6)
    train = Bags((raw.images - mean) / std, raw.case, raw.labels)
    val, test = (Bags.of(run, split, mean, std) for split in ("val", "test"))
    refit = per_case(Predictions.load(folder / "predictions" / "test"))
    found, on_validation = {"refit, mean of logits": refit}, {}
    for name, pooling in (("mean", Mean), ("attention", GatedAttention)):
        pool, head, on_validation[name] = fit(pooling, train, val, seed)
        found[name] = refit.with_logits(scores(pool, head, test).numpy())
    values = {
        f"{metric}, {name}": Bootstrap(1).intervals(one, METRICS)[metric].estimate
        for name, one in found.items()
        for metric in METRICS
    }
    for base in ("mean", "refit, mean of logits"):
        for metric, gain in Bootstrap().paired([(found["attention"], found[base])], METRICS).items():
            told = f"{gain.difference:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            print(f"{folder.name} attention less {base}, {metric}: {told}")
            values[f"{metric}, attention less {base}"] = gain.difference
    return values | {f"mrr on validation, {name}": value for name, value in on_validation.items()}


def main() -> None:
    """Measures every run, and prints the means over them with a 95% interval."""
    if not sys.argv[1:]:
        print(__doc__)
        return
    print_over_runs([of_run(Path(folder), seed) for seed, folder in enumerate(sys.argv[1:])])


if __name__ == "__main__":
    main()
