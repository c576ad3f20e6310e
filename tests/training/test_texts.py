"""Which sentences a step sees."""

import numpy as np
import torch

from siglip_med.models import PromptEnsemble
from siglip_med.training.texts import CaptionPool, PromptPool

PROMPTS = [["a0", "a1", "a2"], ["b0"], ["c0", "c1"], ["d0", "d1", "d2", "d3"]]
WORDS = [word for prompts in PROMPTS for word in prompts]


def tokenize(texts):
    ids = torch.tensor([[WORDS.index(text) if text in WORDS else 100 + len(text)] for text in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def words(batch):
    return [WORDS[i] for i in batch.tokens["input_ids"][:, 0].tolist()]


def test_the_batch_pool_holds_the_listed_conditions_once_and_all_holds_every_one():
    labels = torch.tensor([[0, 0.4, 0, 0.6], [0, 0, 0, 1.0]])
    batch = PromptPool(PROMPTS, tokenize, "batch", seed=0).sample(labels, step=3)
    assert batch.condition.tolist() == [1, 3]
    assert [word[0] for word in words(batch)] == ["b", "d"]
    everything = PromptPool(PROMPTS, tokenize, "all", seed=0).sample(labels, step=3)
    assert everything.condition.tolist() == [0, 1, 2, 3]
    assert [word[0] for word in words(everything)] == ["a", "b", "c", "d"]


def test_every_prompt_is_drawn_about_equally_often():
    pool = PromptPool(PROMPTS, tokenize, "all", seed=1)
    drawn = [word for step in range(600) for word in words(pool.sample(torch.ones(1, 4), step))]
    for prompts in PROMPTS:
        counts = np.array([drawn.count(word) for word in prompts])
        assert counts.sum() == 600
        assert (abs(counts - 600 / len(prompts)) < 5 * np.sqrt(600 / len(prompts))).all(), counts


def test_a_step_draws_the_same_prompts_again_whatever_the_batch_so_that_processes_and_resumed_runs_agree():
    one, other = torch.tensor([[1.0, 0, 0, 1]]), torch.tensor([[0, 0, 1.0, 1]])
    first, second = (PromptPool(PROMPTS, tokenize, "batch", seed=5) for _ in range(2))
    draws = []
    for step in range(20):
        a, b = words(first.sample(one, step)), words(second.sample(other, step))
        assert a[-1] == b[-1]
        draws.append(a[-1])
    assert len(set(draws)) > 1
    assert [words(PromptPool(PROMPTS, tokenize, "batch", seed=6).sample(one, s))[-1] for s in range(20)] != draws


def test_rows_point_at_the_sentences_whose_features_a_frozen_tower_keeps():
    class Backbone:
        logit_scale = torch.zeros(())

        def text_features(self, input_ids, attention_mask):
            return input_ids.float() * 10

    pool = PromptPool(PROMPTS, tokenize, "all", seed=2)
    kept = pool.features(Backbone(), chunk=3)
    for step in range(5):
        batch = pool.sample(torch.ones(1, 4), step)
        assert torch.equal(kept[batch.row], batch.tokens["input_ids"].float() * 10)


class Towers:
    """Encodes token i as a fixed random vector."""

    logit_scale = torch.zeros(())
    table = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))

    def encode_texts(self, input_ids, attention_mask):
        return self.table[input_ids[:, 0]] * 7


def test_the_ensemble_is_the_normalised_mean_of_normalised_embeddings():
    found = PromptEnsemble(PROMPTS, tokenize).encode(Towers(), chunk=3)
    for row, prompts in zip(found, PROMPTS, strict=True):
        rows = [Towers.table[WORDS.index(word)] for word in prompts]
        mean = sum(row / row.norm() for row in rows) / len(rows)
        torch.testing.assert_close(row, mean / mean.norm())


def test_captions_that_two_images_share_are_encoded_once_and_positive_for_both():
    captions = ["a", "bb", "a", "ccc"]
    batch = CaptionPool(captions, tokenize).sample(torch.tensor([2, 1, 0]))
    lengths = (batch.tokens["input_ids"][:, 0] - 100).tolist()
    assert sorted(lengths) == [1, 2]
    expected = torch.tensor([[float(length == len(captions[row])) for length in lengths] for row in (2, 1, 0)])
    assert torch.equal(batch.targets, expected)
