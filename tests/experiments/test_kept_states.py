"""The table of kept states: paired differences by seed, and metrics of the validation split alone."""

import json

import pytest

from experiments import kept_states
from experiments.study import composed
from experiments.tables import corrected_interval
from siglip_med.commands import train


def test_differences_are_paired_by_seed_and_the_reference_has_none():
    runs = {
        "pixels, augmented": [0.5, 0.6, 0.7],
        "kept states": [0.4, 0.5, 0.9],
    }
    values = {name: [dict.fromkeys(kept_states.METRICS, value) for value in found] for name, found in runs.items()}
    lines = kept_states.table(values, 700, 150).splitlines()
    assert lines[2] == "| pixels, augmented |" + " 0.600 ± 0.100 |" * 4
    mean, low, high = corrected_interval([-0.1, -0.1, 0.2], 700, 150)
    assert mean == pytest.approx(0)
    cell = f" 0.600 ± 0.265 ({mean:+.3f} [{low:+.3f}, {high:+.3f}]) |"
    assert lines[3] == "| kept states |" + cell * 4


def test_the_metrics_are_those_of_validation_at_the_end(tmp_path):
    names = {f"{stage}/{split}/{name}": 0.0 for stage in ("zero_shot", "tuned") for split in ("val", "test")
             for name in kept_states.METRICS}  # fmt: skip
    names |= {f"tuned/val/{name}": number for number, name in enumerate(kept_states.METRICS, start=1)}
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": names}))
    found = kept_states.validation(tmp_path)
    assert found == {name: number for number, name in enumerate(kept_states.METRICS, start=1)}


def test_a_run_that_is_finished_is_not_run_again(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(kept_states, "ROOT", tmp_path)
    monkeypatch.setattr(kept_states.subprocess, "run", lambda words, **_: asked.append(words))
    place = kept_states.folder("kept states", 1)
    place.mkdir(parents=True)
    (place / "metrics.json").write_text("{}")
    kept_states.train("kept states", 1, [])
    assert not asked
    kept_states.train("kept states", 2, ["data.source.root=x"])
    assert asked[0][-3:] == ["data.source.root=x", "seed=2", f"hydra.run.dir={kept_states.folder('kept states', 2)}"]


@pytest.mark.parametrize("variant", kept_states.VARIANTS)
def test_every_variant_is_a_command_line_of_train(variant):
    words = (*kept_states.COMMON, *kept_states.VARIANTS[variant])
    settings = composed((*words, "data.source.root=x", "model.vision=y", "model.text=z"))
    assert isinstance(settings, train.Settings)
    assert settings.features is not None
    assert settings.features["_target_"].endswith(".FeatureDataModule") == variant.startswith("kept")
