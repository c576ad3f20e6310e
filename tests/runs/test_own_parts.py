"""Code of one's own trains as docs/own.md says, and every command takes the run afterwards: where its owner vouches."""

import importlib
import io
import json
import re

import numpy as np
import pytest
import torch
from rich.console import Console

from siglip_med.commands import demo, evaluate, export, predict, train
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.core.trust import check_trusted, vouched
from siglip_med.inference import load
from siglip_med.report.leaderboard import columns, read_runs
from siglip_med.runs.cross_checks import check_own_metrics
from siglip_med.runs.resume import find_run, own_settings
from siglip_med.runs.stored import open_run, predict_run
from tests.short_runs import SMALL, compose_config

CODE = """
import numpy as np
import torch

from siglip_med.data.augmentation import Augmentation
from siglip_med.models import siglip
from siglip_med.synthetic import SyntheticSource


def tower(path: str, adaptation, logits, halved: bool, revision=None, gradient_checkpointing=False):
    "SigLIP, as somebody else would build it."
    return siglip(path=path, adaptation=adaptation, logits=logits, revision=revision)


class Source(SyntheticSource):
    "Drawings, as somebody else would draw them."


class Fifths:
    def __init__(self, of: int) -> None:
        self.of = of

    def parts(self, table, seed: int):
        number = np.unique(table.frame["case"].to_numpy(), return_inverse=True)[1] % self.of
        return np.array(["val", "test", *["train"] * (self.of - 2)])[number]


class Backwards:
    def indices(self, labels, primary, generator):
        return np.arange(len(labels))[::-1].copy()


class Flip(Augmentation):
    "Mirrors alone."


class Pull:
    "Images towards their own texts."

    def __call__(self, batch):
        return batch.image_cosine.pow(2).mean()


class Confident:
    "Mean of the largest score; not what anybody needs."

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, predictions) -> float:
        return self.factor * float(predictions.logits.max(axis=1).mean())


class Sgd:
    def __init__(self, learning_rate: float, momentum: float) -> None:
        self.learning_rate, self.momentum = learning_rate, momentum

    def build(self, model, total_steps: int):
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=self.learning_rate, momentum=self.momentum)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total_steps)
"""
CONFIGS = {
    "model/mine.yaml": "defaults: [siglip_tiny, _self_]\n_target_: my_parts.tower\nhalved: true\n",
    "data/mine.yaml": "defaults: [synthetic, override splitter: mine, override sampling: mine, _self_]\n"
    "source: {_target_: my_parts.Source}\n",
    "data/splitter/mine.yaml": "_target_: my_parts.Fifths\nof: 5\n",
    "data/sampling/mine.yaml": "_target_: my_parts.Backwards\n",
    "augmentation/mine.yaml": "defaults: [light]\n_target_: my_parts.Flip\n",
    "loss/mine.yaml": "defaults: [multi_positive]\n"
    "terms: {pull: {_target_: siglip_med.losses.WeightedTerm, coefficient: 0.5, term: {_target_: my_parts.Pull}}}\n",
    "optimizer/mine.yaml": "_target_: my_parts.Sgd\nmomentum: 0.9\n",
}
OF_A_MODEL = ["my_parts.tower"]
OF_A_RUN = [*OF_A_MODEL, *(f"my_parts.{name}" for name in ("Source", "Fifths", "Backwards", "Flip"))]
OF_A_RESUMED_RUN = [*OF_A_RUN, "my_parts.Pull", "my_parts.Sgd", "my_parts.Confident"]


@pytest.fixture(scope="module")
def own(tmp_path_factory, cache):
    """A run of which every part is somebody's own that can be, and the words that bring them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_parts.py").write_text(CODE)
    for name, text in CONFIGS.items():
        path = folder / "my_conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    groups = ("model", "data", "augmentation", "loss", "optimizer")
    words = [f"hydra.searchpath=[file://{folder / 'my_conf'}]", *(f"{group}=mine" for group in groups)]
    words += ["recipe=siglip_tiny", "trainer.max_steps=3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        small = [word for word in SMALL if not word.startswith("data/sampling")]
        places = (f"paths.output_dir={folder / 'run'}", f"paths.cache_dir={cache}")
        words += [*small, "+evaluation.metrics.confident={_target_: my_parts.Confident, factor: 2.0}"]
        settings = typed(compose_config(*words, *places), train.Settings)
        yield train.run(settings), settings, folder, words


def settings_of(module, name: str, *words: str):
    return typed(compose_config(*words, name=name), module.Settings)


def listed(names):
    return f"trust=[{','.join(names)}]"


def test_every_part_can_be_somebodys_own(own):
    result, *_ = own
    assert type(result.components.data.source).__module__ == "my_parts"
    assert type(result.module.optimizers().optimizer) is torch.optim.SGD
    parts = result.components.data.split.parts
    assert np.mean(parts == "val") == pytest.approx(0.2, abs=0.05)
    assert "pull" in result.module.last_terms


def test_a_metric_of_ones_own_is_in_metrics_screen_and_leaderboard(own):
    result, _, folder, _ = own
    expected = 2 * result.tuned.test.logits.max(axis=1).mean()
    assert result.metrics["tuned/test/own/confident"] == pytest.approx(expected, rel=1e-6)
    written = json.loads((folder / "run" / "metrics.json").read_text())
    interval = written["test_intervals"]["own/confident"]
    assert interval["estimate"] == pytest.approx(expected, rel=1e-6)
    assert interval["low"] < interval["estimate"] < interval["high"]
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(result.summary.table())
    assert f"{expected:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]" in console.export_text()
    runs = read_runs(folder)
    assert columns(runs)["tuned/test/own/confident"] == "confident"


def test_a_metric_that_cannot_be_called_is_one_line():
    with pytest.raises(UserError, match=r"^evaluation\.metrics\.x: int cannot be called with predictions$"):
        check_own_metrics({"x": 3})


def test_predict_takes_the_run_where_its_owner_vouches_and_prints_the_line(own, tmp_path):
    result, *_ = own
    image = result.components.data.table.root / result.components.data.table.frame["image"].iloc[0]
    words = [f"checkpoint={result.best}", f"images={image}", f"output_dir={tmp_path}", "device=cpu"]
    with pytest.raises(UserError, match=r"if this is code of your own, add trust=\[my_parts\.tower\]$"):
        predict.run(settings_of(predict, "predict", *words))
    assert not list(tmp_path.iterdir())
    found = predict.run(settings_of(predict, "predict", *words, listed(OF_A_MODEL)))
    assert len(found.predictions.differentials) == 1
    again = load(result.best, device="cpu", trust=OF_A_MODEL).predict(image)
    assert again.differentials == found.predictions.differentials


def test_evaluate_predicts_again_what_the_run_predicted(own, tmp_path):
    result, settings, *_ = own
    words = [f"checkpoint={result.best}", f"output={tmp_path}", "recompute=true", "device=cpu", "report.bootstrap=20"]
    words += [f"paths.cache_dir={settings.paths.cache_dir}", f"paths.output_dir={tmp_path}"]
    every = r"add trust=\[my_parts\.Backwards,my_parts\.Fifths,my_parts\.Flip,my_parts\.Source\]$"
    with pytest.raises(UserError, match=every):
        evaluate.run(settings_of(evaluate, "evaluate", *words, listed(OF_A_MODEL)))
    page = evaluate.run(settings_of(evaluate, "evaluate", *words, listed(OF_A_RUN))).page
    expected = 2 * result.tuned.test.logits.max(axis=1).mean()
    assert re.search(rf"confident<.{{1,80}}>{expected:.3f} \[", page.read_text(), re.DOTALL)
    assert json.loads((tmp_path / "report.json").read_text())["headline"]["own_metrics"]["confident"]["low"] < expected
    again = predict_run(open_run(result.best, settings.paths.cache_dir, device="cpu", trust=OF_A_RUN))
    np.testing.assert_allclose(again["test"].logits, result.tuned.test.logits, atol=1e-5)


def test_export_and_the_page_take_it(own, tmp_path):
    result, *_ = own
    words = [f"checkpoint={result.best}", f"output={tmp_path / 'out'}", "format=merged"]
    with pytest.raises(UserError, match=r"trust=\[my_parts\.tower\]$"):
        export.run(settings_of(export, "export", *words))
    assert not list(tmp_path.iterdir())
    export.run(settings_of(export, "export", *words, listed(OF_A_MODEL)))
    assert load(tmp_path / "out", device="cpu").conditions == result.components.conditions.names
    page = [f"checkpoint={result.best}", "device=cpu"]
    with pytest.raises(UserError, match=r"trust=\[my_parts\.tower\]$"):
        demo.build_answerer(settings_of(demo, "demo", *page))
    answerer, _ = demo.build_answerer(settings_of(demo, "demo", *page, listed(OF_A_MODEL)))
    assert answerer.validation is not None


def test_another_run_starts_from_it(own, tmp_path):
    result, settings, _, words = own
    started = [*words, f"init_from={result.best}", "trainer.max_steps=1", f"paths.cache_dir={settings.paths.cache_dir}"]
    started += [f"paths.output_dir={tmp_path / 'next'}"]
    with pytest.raises(UserError, match=r"trust=\[my_parts\.tower\]$"):
        train.run(typed(compose_config(*started), train.Settings))
    train.run(typed(compose_config(*started, listed(OF_A_MODEL)), train.Settings))


def test_it_is_resumed(own):
    result, settings, folder, _ = own
    now = {**settings.model_dump(), "resume": str(folder / "run"), "trust": []}
    shipped = {**settings.model_dump(), "model": {}, "data": {}, "augmentation": None, "loss": {}, "optimizer": {}}
    point = find_run(str(folder / "run"))
    plain = {**shipped, "resume": now["resume"], "trust": []}
    with pytest.raises(UserError, match=r"would call 'my_parts\.\w+'; if this is code of your own, add"):
        own_settings(point, plain, plain, [])
    kept = own_settings(point, {**plain, "trust": OF_A_RESUMED_RUN}, plain, ["resume=x"])
    assert kept["optimizer"] == settings.optimizer
    again = train.run(settings.model_copy(update={"resume": str(folder / "run"), "trust": OF_A_RESUMED_RUN}))
    np.testing.assert_allclose(again.tuned.test.logits, result.tuned.test.logits, atol=1e-5)


def test_an_argument_that_is_missing_is_one_line_that_names_it(own):
    *_, words = own
    config = compose_config(*words, "paths.output_dir=x", "~optimizer.momentum")
    with pytest.raises(UserError, match=r"^optimizer\.momentum: the setting is missing; my_parts\.Sgd needs a value$"):
        typed(config, train.Settings)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "my_parts", "a b.c", "my_parts.x;y", ""])
def test_python_itself_is_nobodys_own(name):
    with pytest.raises(UserError, match=r"names no code of your own"):
        vouched([name])


def test_a_wrong_name_is_one_line():
    with pytest.raises(UserError, match=r"^trust: cannot import no_such_module\.x \(.*\); set PYTHONPATH$"):
        vouched(["no_such_module.x"])


def test_the_refusal_offers_nothing_for_what_no_owner_wrote():
    with pytest.raises(UserError) as caught:
        check_trusted({"_target_": "os.system", "command": "x"}, {}, "model", "a.ckpt")
    assert "trust=" not in str(caught.value)
