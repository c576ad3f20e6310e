"""Which sentences a step sees."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from siglip_med.models import PromptEnsemble
from siglip_med.training.text_pools import PromptPool, choose_pool
from tools.pretraining.captions import CaptionPool

PROMPTS = [["a0", "a1", "a2"], ["b0"], ["c0", "c1"], ["d0", "d1", "d2", "d3"]]
WORDS = [word for prompts in PROMPTS for word in prompts]


def tokenize(texts):
    ids = torch.tensor([[WORDS.index(text) if text in WORDS else 100 + len(text)] for text in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def words(pool, labels, step):
    return [WORDS[i] for i in pool.tokens(pool.sample(labels, step))["input_ids"][:, 0].tolist()]


def test_the_batch_pool_holds_the_listed_conditions_once_and_all_holds_every_one():
    labels = torch.tensor([[0, 0.4, 0, 0.6], [0, 0, 0, 1.0]])
    listed = PromptPool(PROMPTS, tokenize, "batch", seed=0)
    assert listed.sample(labels, step=3).condition.tolist() == [1, 3]
    assert [word[0] for word in words(listed, labels, 3)] == ["b", "d"]
    everything = PromptPool(PROMPTS, tokenize, "all", seed=0)
    assert everything.sample(labels, step=3).condition.tolist() == [0, 1, 2, 3]
    assert [word[0] for word in words(everything, labels, 3)] == ["a", "b", "c", "d"]


def test_every_prompt_is_drawn_about_equally_often():
    pool = PromptPool(PROMPTS, tokenize, "all", seed=1)
    drawn = [word for step in range(600) for word in words(pool, torch.ones(1, 4), step)]
    for prompts in PROMPTS:
        counts = np.array([drawn.count(word) for word in prompts])
        assert counts.sum() == 600
        assert (abs(counts - 600 / len(prompts)) < 5 * np.sqrt(600 / len(prompts))).all(), counts


def test_a_step_draws_the_same_prompts_again_whatever_the_batch_so_that_processes_and_resumed_runs_agree():
    one, other = torch.tensor([[1.0, 0, 0, 1]]), torch.tensor([[0, 0, 1.0, 1]])
    first, second = (PromptPool(PROMPTS, tokenize, "batch", seed=5) for _ in range(2))
    draws = []
    for step in range(20):
        a, b = words(first, one, step), words(second, other, step)
        assert a[-1] == b[-1]
        draws.append(a[-1])
    assert len(set(draws)) > 1
    another_seed = PromptPool(PROMPTS, tokenize, "batch", seed=6)
    assert [words(another_seed, one, step)[-1] for step in range(20)] != draws


def test_rows_point_at_the_sentences_whose_features_a_frozen_tower_keeps():
    class Backbone:
        logit_scale = torch.zeros(())

        def text_features(self, input_ids, attention_mask):
            return input_ids.float() * 10

    pool = PromptPool(PROMPTS, tokenize, "all", seed=2)
    kept = pool.features(Backbone())
    for step in range(5):
        batch = pool.sample(torch.ones(1, 4), step)
        assert torch.equal(kept[batch.row], pool.tokens(batch)["input_ids"].float() * 10)


class Towers(nn.Module):
    """Encodes token i as a fixed random vector, times a weight that may be trained; counts what its backbone reads."""

    def __init__(self, frozen=True):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(()))
        self.head = nn.Parameter(torch.tensor(7.0))
        self.text_is_frozen = frozen
        self.table = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
        self.read = 0

    def frozen_blocks(self, tower):
        return 0

    def encode_texts(self, input_ids, attention_mask):
        return self.project_texts(self.text_features(input_ids, attention_mask))

    def component_of(self, name):
        return "heads" if name == "head" else "logits"

    def text_features(self, input_ids, attention_mask):
        self.read += len(input_ids)
        return self.table[input_ids[:, 0]]

    def project_texts(self, features):
        return torch.nn.functional.pad(features * self.head, (0, 1), value=1.0)


def test_the_ensemble_is_the_normalized_mean_of_normalized_embeddings():
    towers = Towers()
    found = PromptEnsemble(PROMPTS, tokenize).encode(towers, chunk=3)
    for row, prompts in zip(found, PROMPTS, strict=True):
        rows = [towers.project_texts(towers.table[WORDS.index(word)]).detach() for word in prompts]
        mean = sum(row / row.norm() for row in rows) / len(rows)
        torch.testing.assert_close(row, mean / mean.norm())


def test_a_frozen_backbone_reads_the_prompts_once_and_a_changed_head_makes_other_embeddings():
    towers, ensemble = Towers().eval(), PromptEnsemble(PROMPTS, tokenize)
    first = ensemble.encode(towers, chunk=3)
    optimizer = torch.optim.AdamW([towers.head], lr=1.0)
    towers.head.grad = torch.tensor(1.0)
    optimizer.step()
    second = ensemble.encode(towers, chunk=3)
    assert towers.read == len(WORDS)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, PromptEnsemble(PROMPTS, tokenize).encode(towers))


def test_a_trained_backbone_reads_again_only_when_a_weight_was_written_to():
    towers, ensemble = Towers(frozen=False).eval(), PromptEnsemble(PROMPTS, tokenize)
    first = ensemble.encode(towers)
    towers.logit_scale.data.add_(1.0)
    assert ensemble.encode(towers) is first
    assert towers.read == len(WORDS)
    with torch.no_grad():
        towers.head.copy_(torch.tensor(3.0))
    torch.testing.assert_close(ensemble.encode(towers), PromptEnsemble(PROMPTS, tokenize).encode(towers))
    assert not torch.allclose(ensemble.encode(towers), first)


def test_embeddings_of_one_model_or_precision_are_not_taken_for_another():
    towers, other, ensemble = Towers().eval(), Towers().eval(), PromptEnsemble(PROMPTS, tokenize)
    other.table = other.table.flip(0)
    assert not torch.allclose(ensemble.encode(towers), ensemble.encode(other))
    whole = ensemble.encode(other)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ensemble.encode(other) is not whole


def test_dropout_is_drawn_anew_at_each_call_while_training():
    towers, ensemble = Towers().train(), PromptEnsemble(PROMPTS, tokenize)
    assert ensemble.encode(towers) is not ensemble.encode(towers)


def test_captions_that_two_images_share_are_encoded_once_and_positive_for_both():
    captions = ["a", "bb", "a", "ccc"]
    batch = CaptionPool(captions, tokenize).sample(torch.tensor([2, 1, 0]))
    lengths = (batch.tokens["input_ids"][:, 0] - 100).tolist()
    assert sorted(lengths) == [1, 2]
    expected = torch.tensor([[float(length == len(captions[row])) for length in lengths] for row in (2, 1, 0)])
    assert torch.equal(batch.targets, expected)


@pytest.mark.parametrize(
    ("frozen", "images", "pool", "why"),
    [
        (True, 1, "all", "all, since the text tower is frozen"),
        (False, 80, "all", "all, since 20 conditions per step would cost about 0.25 of what 80 images cost"),
        (False, 79, "batch", "batch, since 20 conditions per step would cost about 0.25 of what 79 images cost"),
    ],
)
def test_an_automatic_pool_is_every_condition_where_texts_are_frozen_or_cheap_and_says_why(
    frozen, images, pool, why, caplog
):
    model = SimpleNamespace(text_is_frozen=frozen, cost=lambda tower: 3.0)
    with caplog.at_level("INFO"):
        assert choose_pool("auto", model, 20, images) == pool
    assert f"text_pool=auto: {why}" in caplog.text


def test_a_pool_that_is_named_is_taken(caplog):
    assert choose_pool("batch", None, 20, 1) == "batch"
    assert choose_pool("all", None, 20, 1) == "all"
    assert not caplog.text
