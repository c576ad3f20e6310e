"""What a run leaves: one table on the screen, the numbers in metrics.json, and what to type next."""

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rich.table import Table

from siglip_med.core.files import write_json
from siglip_med.core.outside import Console
from siglip_med.core.provenance import sentence
from siglip_med.core.shell import other_command, setting
from siglip_med.data.splitting.look_alikes import SplitLookAlikes
from siglip_med.metrics import (
    KEY_METRICS,
    NEARNESS,
    NEED_SCORES,
    PER_CASE,
    SUMMARY_METRICS,
    Bootstrap,
    Interval,
    PairedResult,
    Predictions,
    case_metrics,
    chance,
    classification_summary,
    far_half_metrics,
    has_cases,
    headline_metrics,
    label_frequency_predictions,
    per_case,
    subgroup_metrics,
    table_label,
    without_unfamiliar,
)
from siglip_med.report.data_card import DATA_CARD
from siglip_med.report.evidence import (
    CHANCE,
    FREQUENCY,
    KEYS,
    NOT_MEASURED,
    PROBES,
    PROMPTS,
    ZERO_SHOT,
    baseline_intervals,
)
from siglip_med.report.page import bounds, plain

OWN = "own/"
"""What the names of metrics of one's own begin with."""
_FEW = 200
"""Resamples for a metric of one's own, which every one of them has to compute anew."""
_NONE = np.empty((0, 0), dtype=np.float32)


@dataclass(frozen=True)
class SplitPredictions:
    """The predictions of one model (zero-shot or tuned) on validation and test, and their pooled image features."""

    val: Predictions
    test: Predictions
    features: tuple[np.ndarray, np.ndarray] = field(default=(_NONE, _NONE), compare=False, repr=False)

    def metrics(self) -> dict[str, float]:
        """``<split>/<metric>`` for both splits; thresholds of precision, recall and F1 come from validation.

        Where cases have several images, ``<split>/case_<metric>`` too: of one answer per case, the mean of its logits.
        """
        values: dict[str, float] = {}
        for split, predictions in (("val", self.val), ("test", self.test)):
            metrics = headline_metrics(predictions) | classification_summary(self.val, predictions)
            metrics |= case_metrics(predictions)
            values |= {f"{split}/{name}": value for name, value in metrics.items()}
        values |= {f"test/{name}": value for name, value in far_half_metrics(self.test).items()}
        return values


class RunSummary:
    """Numbers before and after training, with intervals over cases."""

    def __init__(
        self,
        zero_shot: SplitPredictions,
        tuned: SplitPredictions,
        bootstrap: Bootstrap,
        probes: Mapping[str, SplitPredictions] = MappingProxyType({}),
        own: Mapping[str, Callable[[Predictions], float]] = MappingProxyType({}),
        look_alikes: SplitLookAlikes | None = None,
        prompts: SplitPredictions | None = None,
    ) -> None:
        """Computes every number once; metrics of one's own are called with predictions, also of resampled cases.

        ``prompts``: where ``tuned`` are a refit's answers, those of the same weights by the prompts.
        """
        self.zero_shot, self.tuned, self.probes, self.prompts = zero_shot, tuned, probes, prompts
        self.beside = dict(probes) | ({} if prompts is None else {PROMPTS: prompts})
        self.zero_shot_metrics, self.tuned_metrics = zero_shot.metrics(), tuned.metrics()
        self.frequency_metrics = headline_metrics(label_frequency_predictions(tuned.test))
        self.chance_metrics = chance(tuned.test)
        self.intervals = bootstrap.intervals(tuned.test, KEY_METRICS)
        cases = bootstrap.intervals(per_case(tuned.test), KEY_METRICS) if has_cases(tuned.test) else {}
        self.case_intervals = {PER_CASE + name: interval for name, interval in cases.items()}
        self.changes = bootstrap.paired([(tuned.test, zero_shot.test)], KEY_METRICS)
        tests = {name: one.test for name, one in self.beside.items()}
        self.beside_metrics = {
            name: {k: v for k, v in headline_metrics(test).items() if name == PROMPTS or k not in NEED_SCORES}
            | far_half_metrics(test)
            for name, test in tests.items()
        }
        self.look_alikes = tuned.test.meta.get("look_alikes", "")
        self._look_alikes = look_alikes
        self.baselines = baseline_intervals(tuned.test, zero_shot.test, tests, KEY_METRICS, bootstrap)
        self.coverage = bootstrap.coverage
        for name, metric in own.items():
            for values, model in ((self.zero_shot_metrics, zero_shot), (self.tuned_metrics, tuned)):
                values |= {f"{split}/{OWN}{name}": float(metric(getattr(model, split))) for split in ("val", "test")}
        few = replace(bootstrap, repetitions=min(bootstrap.repetitions, _FEW))
        self.own = {name: few.function(tuned.test, metric) for name, metric in own.items()}

    def metrics(self) -> dict[str, float]:
        """``zero_shot/<split>/<metric>``, ``tuned/…``, and, of the test split alone, ``label_frequency/test/…``,
        ``chance/test/…``, ``linear_probe/test/…``, ``kernel_probe/test/…`` and ``prompts/test/…`` (absent where not
        measured, the last without a refit). ``tuned`` is the run's answer: the refit's where there is one.
        """
        models = {"zero_shot": self.zero_shot_metrics, "tuned": self.tuned_metrics}
        models |= {"label_frequency/test": self.frequency_metrics, "chance/test": self.chance_metrics}
        models |= {f"{KEYS[name]}/test": values for name, values in self.beside_metrics.items()}
        return {f"{model}/{name}": float(value) for model, values in models.items() for name, value in values.items()}

    def save(self, path: Path, name: str, seed: int) -> None:
        """Writes metrics.json; an undefined value is null."""
        content = {
            "name": name,
            "seed": seed,
            "conditions": len(self.tuned.test.conditions),
            "test_size": self.tuned.test.size,
            "notice": sentence(self.tuned.test.provenance),
            "metrics": self.metrics(),
            "test_intervals": self.intervals | self.case_intervals | {OWN + key: one for key, one in self.own.items()},
            "test_baselines": self.baselines_for_model_card(),
            "test_changes": self.changes,
        }
        if known_familiar := without_unfamiliar(self.tuned.test)[0]:
            content["familiarity"] = known_familiar
        if self.look_alikes:
            known = {} if self._look_alikes is None else self._look_alikes.summary()
            quarters = subgroup_metrics(self.tuned.test, [NEARNESS], KEY_METRICS).to_dict("records")
            content["look_alikes"] = {"said": self.look_alikes, **known, "quarters": quarters}
        write_json(path, plain(content))

    def for_model_card(self) -> dict[str, dict[str, float]]:
        """The test metrics that have an interval: estimate, low and high."""
        return {name: asdict(value) for name, value in self.intervals.items()}

    def baselines_for_model_card(self) -> dict[str, dict[str, dict[str, float | None]] | None]:
        """Baseline -> metric -> estimate, low and high; None for a baseline that was not measured."""
        return {KEYS[name]: plain(found) for name, found in self.baselines.items()}

    def table(self) -> Table:
        """Test split: tuned, change from zero-shot, and the baselines; intervals where a metric has them."""
        table = Table(title=f"test split: {self.tuned.test.size}")
        ours = "tuned" if self.prompts is None else "tuned, refit"
        per_case = ["per case"] * bool(self.case_intervals)
        for heading in ("", ours, *per_case, "change", *self.baselines):
            table.add_column(heading, justify="left" if not heading else "right")
        values = {CHANCE: self.chance_metrics, FREQUENCY: self.frequency_metrics} | self.beside_metrics
        for name in SUMMARY_METRICS:
            zero_shot, tuned = self.zero_shot_metrics[f"test/{name}"], self.tuned_metrics[f"test/{name}"]
            of = {baseline: known.get(name) for baseline, known in values.items()} | {ZERO_SHOT: zero_shot}
            table.add_row(
                table_label(name, len(self.tuned.test.conditions)),
                _number(tuned) + _range(self.intervals.get(name)),
                *(self._per_case(name) for _ in per_case),
                f"{tuned - zero_shot:+.3f}" + _range(self.changes.get(name), "+.3f"),
                *(self._beside(baseline, name, of.get(baseline)) for baseline in self.baselines),
            )
        for name, interval in self.own.items():
            zero_shot, tuned = (of[f"test/{OWN}{name}"] for of in (self.zero_shot_metrics, self.tuned_metrics))
            others = (_number(zero_shot) if baseline == ZERO_SHOT else "" for baseline in self.baselines)
            ours = _number(tuned) + _range(interval)
            table.add_row(name, ours, *[""] * len(per_case), f"{tuned - zero_shot:+.3f}", *others)
        return table

    def _per_case(self, name: str) -> str:
        interval = self.case_intervals.get(PER_CASE + name)
        return "" if interval is None else _number(interval.estimate) + _range(interval)

    def _beside(self, baseline: str, metric: str, value: float | None) -> str:
        found = self.baselines[baseline]
        return NOT_MEASURED if found is None else _number(value) + _range(found.get(metric))

    def print(self, folder: Path, checkpoint: Path | None) -> None:
        """The table, where everything is, and the next commands."""
        console = Console(width=max(Console().width, 220))
        console.print(self.table())
        console.print(
            f"brackets: {self.coverage:.0%} bootstrap interval over cases; "
            "chance and class prior never look at the image; ↓ lower is better"
            + ("; per case: one answer per case, the mean of its images' logits" if self.case_intervals else "")
        )
        for name in PROBES:
            known = self.probes.get(name)
            about = "not measured: evaluation.probe_images=0" if known is None else known.test.meta["probe"]
            console.print(f"{name}: {about}", highlight=False)
        if self.look_alikes:
            console.print(self.look_alikes, highlight=False)
        if self.prompts is not None:
            console.print(f"{PROMPTS}: the same weights without the refit", highlight=False)
        console.print(sentence(self.tuned.test.provenance), style="bold", highlight=False)
        boards = {"TensorBoard logs": folder / "tensorboard"} if (folder / "tensorboard").is_dir() else {}
        places = {
            **boards,
            "checkpoint": checkpoint or "none",
            "resolved config": folder / ".hydra" / "config.yaml",
            "split and its report": folder / "split.csv",
            "data card": folder / DATA_CARD,
        }
        for what, where in places.items():
            console.print(f"  {what + ':':<22}{where}", soft_wrap=True, highlight=False)
        if checkpoint is not None:
            console.print("next:")
            for line in (
                *[f"tensorboard --logdir {shlex.quote(str(folder))}"] * bool(boards),
                f"{other_command('evaluate')} {setting('checkpoint', checkpoint)}",
                f"{other_command('predict')} {setting('checkpoint', checkpoint)} images=path/to/photographs",
            ):
                console.print(f"  {line}", soft_wrap=True, highlight=False)


def _number(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _range(result: Interval | PairedResult | None, form: str = ".3f") -> str:
    return "" if result is None else f" {bounds(result.low, result.high, form)}".rstrip()
