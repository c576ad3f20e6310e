"""TaskRes, Tip-Adapter-F, CLAP and ProLIP are their papers' formulas, start where they should, and learn."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from experiments import few_shot_methods
from experiments.few_shot_methods import METHODS, Task, shares, train, tuned

N, C, E = 12, 3, 5


@pytest.fixture
def task():
    random = torch.Generator().manual_seed(0)
    images, text, others = (normalize(torch.randn(n, E, generator=random), dim=-1) for n in (N, C, 7))
    labels = torch.eye(C)[torch.arange(N) % C]
    return Task(images, labels, {"val": others, "test": others}, text, 10.0, {}, 0)


@pytest.mark.parametrize("name", ["TaskRes", "CLAP", "ProLIP"])
def test_they_start_at_the_text_classifier(task, name):
    method = METHODS[name][0](task)
    expected = torch.tensor([[10 * float(cosine_similarity(a, b, dim=0)) for b in task.text] for a in task.images])
    torch.testing.assert_close(method.scores(task.images).detach(), expected)
    assert float(method.penalty().detach()) == 0


def test_a_residual_moves_the_text_by_its_share(task):
    method = few_shot_methods.taskres(task, alpha=0.1)
    with torch.no_grad():
        method.trained[0].fill_(2.0)
    moved = [t + 0.1 * 2.0 for t in task.text]
    expected = torch.tensor([[10 * float(cosine_similarity(a, b, dim=0)) for b in moved] for a in task.images])
    torch.testing.assert_close(method.scores(task.images).detach(), expected)


def test_a_cache_votes_by_nearness(task):
    method = few_shot_methods.tip_adapter(task, alpha=3.0, beta=2.0)
    image = task.others["val"][:1]
    expected = [10 * float(image[0] @ t) for t in task.text]
    for key, label in zip(task.images, task.labels, strict=True):
        expected[int(label.argmax())] += 3.0 * math.exp(-2.0 * (1 - float(image[0] @ key)))
    np.testing.assert_allclose(method.scores(image).detach().numpy()[0], expected, rtol=1e-5)


def test_a_prototype_is_held_by_what_the_text_knows_of_its_condition(task):
    method = few_shot_methods.clap(task, weight=2.0)
    with torch.no_grad():
        method.trained[0].add_(0.5)
    expected = 0.0
    for c in range(C):
        known = [
            math.exp(10 * float(image @ task.text[c])) / sum(math.exp(10 * float(image @ t)) for t in task.text)
            for image, label in zip(task.images, task.labels, strict=True)
            if label[c]
        ]
        expected += 2.0 * sum(known) / len(known) * E * 0.25
    assert float(method.penalty().detach()) == pytest.approx(expected, rel=1e-5)


def test_a_projection_is_held_at_its_start(task):
    method = few_shot_methods.prolip(task, weight=0.5)
    with torch.no_grad():
        method.trained[0][0, 1] = 3.0
    assert float(method.penalty().detach()) == pytest.approx(0.5 * C / N * 9.0)
    moved = task.images.clone()
    moved[:, 1] += 3.0 * task.images[:, 0]
    expected = 10 * normalize(moved, dim=-1) @ task.text.T
    torch.testing.assert_close(method.scores(task.images).detach(), expected)


@pytest.mark.parametrize("name", METHODS)
def test_each_learns_what_the_text_does_not_know(task, name):
    method = METHODS[name][0](task, **({"alpha": 20.0} if name == "Tip-Adapter-F" else {}))
    before = method.scores(task.images).argmax(dim=1).eq(task.labels.argmax(dim=1)).float().mean()
    train(task, method, 0.03)
    after = method.scores(task.images).argmax(dim=1).eq(task.labels.argmax(dim=1)).float().mean()
    assert after > before
    assert after >= 0.75


def test_validation_chooses_the_trial_and_test_does_not(task, monkeypatch):
    seen = []

    def metrics(found):
        assert found.split == "val"
        seen.append(found)
        return {"mrr": float(len(seen) == 3)}

    monkeypatch.setattr(few_shot_methods, "headline_metrics", metrics)
    monkeypatch.setattr(few_shot_methods, "replace", lambda frame, logits: SimpleNamespace(split=frame, logits=logits))
    monkeypatch.setattr(few_shot_methods, "STEPS", 2)
    found = tuned(replace(task, frames={"val": "val", "test": "test"}), "TaskRes")
    assert len(seen) == few_shot_methods.TRIALS
    assert found["val"] is seen[2]


def test_the_labels_of_an_image_share_one():
    found = shares(np.array([[1.0, 1.0, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.0]]), np.array([0, 1, 2]))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]], rtol=1e-6)
