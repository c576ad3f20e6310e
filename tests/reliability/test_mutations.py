"""Random changes to the settings end in a run or in one line that names the key, before any data is read."""

import os
import random
import re
from typing import Any

import pytest
from omegaconf import OmegaConf

from siglip_med.commands import train
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.core.shell import null_groups_removed
from tests.short_runs import CONF, SMALL, compose_config

COUNT = int(os.environ.get("SIGLIP_MED_MUTATIONS", "40"))
"""``make mutations`` tries 300."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    10**12,
    2.5,
    -0.5,
    float("nan"),
    float("inf"),
    "banana",
    "",
    "3",
    "[/b]",
    [],
    ["a", 1],
    {},
    {"a": 1},
    {"_target_": "siglip_med.losses.InfoNCE"},
    {"_target_": "siglip_med.nowhere.Nothing"},
    {"_target_": "torch.nn.Linear", "in_features": "x"},
)
SKIPPED = ("paths", "data.source.root", "name", "hydra")
"""Any text is a right one here, or it says where the test writes."""


class Reached(Exception):
    """The settings are right: the run would now read its data."""


def leaves(node, path=""):
    for key, value in node.items():
        inner = f"{path}.{key}" if path else str(key)
        yield inner
        if isinstance(value, dict):
            yield from leaves(value, inner)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutations")
    config = compose_config(*SMALL, "experiment=published", f"paths.output_dir={folder}/run", "callbacks.progress=null")
    return OmegaConf.to_container(config, resolve=True)


def mutated(plain, chance):
    """A copy with one change, and its key."""
    paths = [path for path in leaves(plain) if not path.startswith(SKIPPED)]
    path = chance.choice(paths)
    copy = OmegaConf.to_container(OmegaConf.create(plain))
    *parents, last = path.split(".")
    node = copy
    for key in parents:
        node = node[key] if key in node else node[int(key)]
    kind = chance.choice(["value", "value", "value", "key", "gone"])
    last = last if last in node else int(last)
    if kind == "gone":
        del node[last]
    elif kind == "key":
        node[f"{last}x"] = node.pop(last)
    else:
        node[last] = chance.choice(VALUES)
    return copy, path


def outcome(settings, monkeypatch):
    """ "right" or the one line that refuses the settings; anything else is raised."""

    def reached(*_, **__):
        raise Reached

    with monkeypatch.context() as patch:
        patch.setattr("siglip_med.runs.building.build_components", reached)
        try:
            train.run(typed(OmegaConf.create(settings), train.Settings))
        except Reached:
            return "right"
        except UserError as error:
            return str(error)
    raise AssertionError("the run did not build its data")


@pytest.mark.parametrize("number", range(COUNT))
def test_a_random_change_is_right_or_refused_in_one_line(number, plain, monkeypatch):
    settings, path = mutated(plain, random.Random(number))
    said = outcome(settings, monkeypatch)
    assert "\n" not in said
    assert len(said) < 2000
    if said != "right":
        parts = set(re.findall(r"\w+", path))
        assert parts & set(re.findall(r"\w+", said)), f"{path}: {said}"


NAMED = [
    ("trainer.banana=1", "trainer.banana"),
    ("trainer.max_steps=banana", "trainer.max_steps"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val"),
    ("trainer.precision=banana", "trainer.precision"),
    ("trainer.strategy=banana", "trainer.strategy"),
    ("trainer.strategy=deepspeed", "trainer.strategy"),
    ("trainer.matmul_precision=tf32", "trainer.matmul_precision"),
    ("trainer.compile=inductor", "trainer.compile"),
    ("trainer.compile_backend=banana", "trainer.compile_backend"),
    ("optimizer.eps=0", "optimizer.eps"),
    ("callbacks.throughput.peak_tflops=-1", "callbacks.throughput.peak_tflops"),
    ("trainer.devices=0", "trainer.devices"),
    ("trainer.limit_val_batches=0", "trainer.limit_val_batches"),
    ("trainer.max_steps=-1", "trainer.max_steps"),
    ("monitor=banana", "monitor=banana"),
    ("mode=banana", "mode"),
    ("optimized_metric=banana", "optimized_metric=banana"),
    ("optimized_metric=tuned/test/mrr", "the test split never chooses anything"),
    ("callbacks.checkpoint.mode=banana", "callbacks.checkpoint.mode"),
    ("callbacks.checkpoint.save_top_k=0", "callbacks.checkpoint.save_top_k"),
    ("callbacks.learning_rate.logging_interval=banana", "callbacks.learning_rate"),
    ("callbacks.early_stopping.mode=banana", "callbacks.early_stopping"),
    ("callbacks.early_stopping.patience=banana", "callbacks.early_stopping.patience"),
    ("callbacks.early_stopping.monitor=banana", "callbacks.early_stopping.monitor=banana"),
    ("callbacks.schedule=null", "callbacks.schedule"),
    ("~schedule.knots.alpha", "schedule.knots.alpha"),
    ("logger.tensorboard.banana=1", "logger.tensorboard.banana"),
    ("data.splitter.fractions=[nan,0.5,0.5]", "data.splitter.fractions"),
    ("optimizer.learning_rate=inf", "optimizer.learning_rate"),
    ("optimizer.beta2=nan", "optimizer.beta2"),
    ("model.adaptation.rank=1000000000000", "model.adaptation.rank"),
    ("data.batch_size='5'", "data.batch_size"),
    ("seed=true", "seed"),
    ("loss._target_=siglip_med.training.optim.AdamW", "loss"),
    ("loss=null", "loss"),
    ("schedule=null", "schedule"),
    ("trainer=null", "trainer"),
]


@pytest.mark.parametrize(("word", "named"), NAMED, ids=[word for word, _ in NAMED])
def test_what_is_wrong_is_named_before_data_is_read(word, named, tmp_path, monkeypatch):
    words = ["callbacks=early_stopping", "experiment=published", f"paths.output_dir={tmp_path}/run"]
    (word,) = null_groups_removed(CONF, "train", [word])
    config = compose_config(*SMALL, *words, word if word.startswith("~") or word.endswith("null") else f"++{word}")
    said = outcome(config, monkeypatch)
    assert named in said, said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "word",
    ["logger=null", "augmentation=null", "trainer.enable_progress_bar=false", "callbacks.gradient_norm=null"],
)
def test_what_can_be_switched_off_is_switched_off(word, tmp_path, monkeypatch):
    words = [word for word in SMALL if not word.startswith("callbacks.progress")]
    words += null_groups_removed(CONF, "train", [word])
    config = compose_config(*words, f"paths.output_dir={tmp_path}/run")
    assert outcome(config, monkeypatch) == "right"
