"""The recipes of others: their own losses and optimizers, on one sentence an image."""

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, logsigmoid

from benchmarks.peers import open_clip
from experiments import recipes
from experiments.heads import Bench
from experiments.libraries import OneAnImage, OpenClip, Theirs, Trainer, choose_trained, train_by_library
from experiments.recipes import Recipe, chosen, run
from siglip_med.losses import EyeSigmoid, PairBatch
from tests.short_runs import small_settings

STEPS = ["trainer.max_steps=2", "experiment=baseline"]


@pytest.fixture(scope="module")
def bench(cache, tmp_path_factory):
    words = ["features=cached", "model.adaptation.first_block=1", f"paths.cache_dir={cache}", *STEPS]
    return Bench.build(small_settings(cache, tmp_path_factory.mktemp("bench"), *words))


@pytest.fixture(scope="module")
def drawn(cache, tmp_path_factory):
    return Bench.build(small_settings(cache, tmp_path_factory.mktemp("drawn"), *STEPS))


@pytest.fixture
def pairs():
    torch.manual_seed(0)
    image, text = torch.randn(2, 5, 8)
    labels = torch.eye(5)
    return PairBatch.build(image, text, torch.tensor(2.0), torch.tensor(-3.0), labels, torch.arange(5))


def test_a_sentence_an_image_is_one_of_a_condition_of_its_own(bench):
    pool = bench.module.texts
    labels = torch.zeros(40, len(bench.components.conditions.names))
    labels[torch.arange(40), torch.arange(40) % 4] = 1.0
    labels[::2, 5] = 0.5
    ours = OneAnImage(pool)
    texts = ours.sample(labels, 3)
    assert (labels[torch.arange(40), texts.condition] > 0).all()
    assert set(texts.condition[::2].tolist()) == {0, 2, 5}
    offsets, counts = pool._offsets[texts.condition], torch.tensor(pool._counts)[texts.condition]
    assert ((texts.row >= offsets) & (texts.row < offsets + counts)).all()
    assert torch.equal(ours.sample(labels, 3).row, texts.row)
    assert not torch.equal(ours.sample(labels, 4).row, texts.row)


def test_the_losses_are_those_of_the_papers_and_reach_both_towers(pairs):
    logits = pairs.logit_scale.exp() * pairs.cosine
    right = torch.arange(5)
    expected = {"clip": (cross_entropy(logits, right) + cross_entropy(logits.T, right)) / 2}
    signed = (2 * torch.eye(5) - 1) * (logits + pairs.logit_bias)
    expected["siglip"] = -logsigmoid(signed).sum() / 5
    torch.testing.assert_close(EyeSigmoid("sum_over_n")(pairs), expected["siglip"])
    for kind, value in expected.items():
        if kind == "siglip" and open_clip.missing():
            pytest.skip(open_clip.missing())
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(Theirs(kind)(pairs, None).total, value)


def test_whole_blocks_are_trained_in_place_of_adapters_and_put_back(bench):
    model = bench.model
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    choose_trained(model, whole=True)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    blocks = {name for name in trained if ".layers." in name}
    assert {model.component_of(name) for name in blocks} == {"vision", "text"}
    assert all(".layers.0." not in name and ".lora_" not in name for name in blocks)
    assert any(name.endswith("layer_norm1.weight") for name in blocks)
    choose_trained(model, whole=False)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == set(bench.start)
    row = run(bench, Recipe((0.01,), whole=True), 0.01)
    assert 0 <= row["refit"]["test"]["mrr"] <= 1
    for name, value in model.state_dict().items():
        if ".layers." in name and ".lora_" not in name:
            assert torch.equal(value, before[name]), name
    assert set(model.trainable_state()) == set(bench.start)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe((0.01,), loss="clip", optimizer=Trainer),
        Recipe((0.01,), whole=True, loss="siglip", optimizer=OpenClip),
    ],
)
def test_a_recipe_moves_what_it_says(bench, recipe, monkeypatch):
    if recipe.loss == "siglip" and open_clip.missing():
        pytest.skip(open_clip.missing())
    moved = []

    def judge(bench):
        state, start = bench.model.trainable_state(), bench.start
        moved.extend(name for name, value in state.items() if not torch.equal(value, start[name]))
        return {}

    monkeypatch.setattr(recipes, "judge", judge)
    run(bench, recipe, 0.01)
    assert any(".lora_B." in name for name in moved) != recipe.whole
    assert any("base_layer" in name for name in moved) == recipe.whole
    assert ("logit_bias" in moved) == (recipe.loss == "siglip")
    assert not isinstance(bench.module.texts, OneAnImage)


def test_adapters_of_the_librarys_own_loop_end_in_our_model(drawn):
    drawn.model.load_trainable_state(drawn.start)
    before = drawn.predict("test").logits
    train_by_library(drawn, 0.01)
    changed = [
        name for name, value in drawn.model.trainable_state().items() if not torch.equal(value, drawn.start[name])
    ]
    assert changed
    assert all(".lora_" in name for name in changed)
    assert not np.allclose(drawn.predict("test").logits, before)


def test_the_rate_is_chosen_on_validation_and_never_by_test(monkeypatch):
    monkeypatch.setattr(recipes, "TUNED_ON", 2)

    def row(rate, seed, val, test):
        scores = {"val": {"mrr": val}, "test": {"mrr": test}}
        return {"variant": "a", "rate": rate, "seed": seed, "refit": scores}

    rows = [row(0.1, 0, 0.5, 0.1), row(0.1, 1, 0.5, 0.1), row(0.2, 0, 0.9, 0.9), row(0.2, 1, 0.0, 0.9)]
    assert chosen([*rows, row(0.2, 2, 1.0, 1.0)], "a") == 0.1


def test_runs_are_logged_resumed_and_tabled(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(recipes.RECIPES, "drawings", {"ours": Recipe((0.001, 0.01), ("experiment=baseline",))})
    monkeypatch.setattr(recipes, "composed", lambda words: small_settings(cache, tmp_path, *words))
    monkeypatch.setattr(recipes, "SEEDS", 2)
    monkeypatch.setattr(recipes, "TUNED_ON", 1)
    recipes.main(["drawings", "trainer.max_steps=2"])
    log = tmp_path / "logs/studies/recipes_drawings.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["variant"], row["seed"]) for row in rows].count(("ours", 0)) == 2
    assert [(row["variant"], row["seed"]) for row in rows].count(("ours", 1)) == 1
    assert "ours, refit" in capsys.readouterr().out
    recipes.main(["drawings", "trainer.max_steps=2"])
    assert len(log.read_text().splitlines()) == len(rows)
