"""What our step is timed against does the same work: the benchmarks' peers."""

import hydra
import pytest
import torch
from PIL import Image
from torch.nn.functional import logsigmoid, normalize
from transformers import SiglipModel

from benchmarks.peers import bare, trainer
from benchmarks.peers import open_clip as their
from siglip_med.core.config import instantiate
from siglip_med.losses import EyeSigmoid, PairBatch
from siglip_med.runs.building import build, build_module
from tests.short_runs import small_settings
from tools.pretraining.base import PACKAGED

STEPS = 3
WORDS = (
    "loss=layered",
    "schedule=constant",
    "schedule.knots.gamma={0: 0.5}",
    "schedule.knots.delta={0: 0.5}",
    "model.adaptation.dropout=0.0",
    f"trainer.max_steps={STEPS}",
    "callbacks.checkpoint=null",
    "+trainer.limit_val_batches=0",
)


def test_the_plain_loop_takes_the_steps_of_train(cache, tmp_path):
    settings = small_settings(cache, tmp_path, *WORDS)
    losses = {}
    for way in ("ours", "bare"):
        components = build(settings, torch.device("cpu"))
        module = build_module(settings, components, instantiate(settings.loss), instantiate(settings.optimizer))
        seen = losses[way] = []
        if way == "bare":
            module.coefficients = instantiate(settings.schedule).at(0, STEPS)
            bare.fit(module, components, STEPS, lambda loss, seen=seen: seen.append(loss.item()))
        else:
            loop = hydra.utils.instantiate(settings.trainer, callbacks=None, logger=None)
            module.coefficients = instantiate(settings.schedule).at(0, STEPS)
            module.on_train_batch_end = lambda outputs, *_, seen=seen: seen.append(outputs["loss"].item())
            loop.fit(module, datamodule=components.data)
    assert len(losses["bare"]) == STEPS
    assert losses["bare"] == pytest.approx(losses["ours"], abs=1e-5)


def test_the_recipes_loss_is_ours_with_one_text_an_image(tmp_path):
    """And both are the formula of the paper, worked out here."""
    for number in range(2):
        Image.new("RGB", (40 + number, 30), (90 * number, 80, 70)).save(tmp_path / f"{number}.png")
    texts = ["a photo of eczema", "a dark mole"]
    pairs = trainer.Pairs(PACKAGED, [tmp_path / f"{number}.png" for number in range(2)], texts)
    batch = trainer.collate([pairs[0], pairs[1]])
    model = SiglipModel.from_pretrained(PACKAGED).eval()
    with torch.no_grad():
        out = model(**batch)
    image, text = normalize(out.image_embeds, dim=-1), normalize(out.text_embeds, dim=-1)
    logits = model.logit_scale.exp() * image @ text.T + model.logit_bias
    expected = -logsigmoid((2 * torch.eye(2) - 1) * logits).sum() / 2
    torch.testing.assert_close(out.loss, expected)
    labels = torch.eye(2)
    own = PairBatch.build(image, text, model.logit_scale[0], model.logit_bias[0], labels, torch.arange(2))
    torch.testing.assert_close(EyeSigmoid("sum_over_n")(own), expected)


def test_open_clips_blocks_have_as_many_weights_as_siglips():
    if their.missing():
        pytest.skip(their.missing())
    ours = SiglipModel.from_pretrained(PACKAGED)
    width = ours.config.text_config.hidden_size
    shape = their.Shape(layers=2, width=width, heads=2, image_size=64, patch_size=8, vocabulary=50)
    model = their.build(shape)
    one = sum(value.numel() for value in model.text.transformer.resblocks[0].parameters())
    assert one == 12 * width**2 + 13 * width
    assert len(model.text.transformer.resblocks) == len(model.visual.transformer.resblocks) == 2
    seen = []
    batches = [(torch.randn(3, 3, 64, 64), torch.randint(50, (3, 64)))] * 2
    their.fit(model, batches, 1.0, lambda: seen.append(model.logit_bias.item()))
    assert len(seen) == 2
    assert seen[1] != seen[0]
