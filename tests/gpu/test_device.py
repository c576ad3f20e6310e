"""A run on a GPU from its first step to its export; the same tests on a CPU show that they can pass.

``make test-gpu`` runs those marked ``cuda``: the first thing to do on a machine with a GPU. There a run is ``16-mixed``
with a gradient scaler and a fused optimizer; on a CPU it is ``bf16-mixed``, which needs no scaler.
"""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel

from siglip_med.commands import train
from siglip_med.data import Batch
from siglip_med.export import export_checkpoint
from siglip_med.inference import load
from siglip_med.metrics import Predictions
from siglip_med.models import load_model, read_checkpoint
from siglip_med.runs.stored import open_run, predict_run
from siglip_med.training.module import TwoTowerModule
from siglip_med.training.throughput import MEMORY, Throughput, latest
from tests.gpu.watch import Watch
from tests.short_runs import small_settings

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
PLACE = {
    "cpu": ["trainer.accelerator=cpu", "trainer.precision=bf16-mixed"],
    "cuda": ["trainer.accelerator=gpu", "trainer.devices=1", "trainer.precision=auto"],
}
HALF = {"cpu": torch.bfloat16, "cuda": torch.float16}
WORDS = [
    "experiment=published_final",
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.throughput.every_n_steps=2",
    "callbacks.loss_diagnostics=null",
    "evaluation.probe_images=0",
    "evaluation.neighbours=0",
]
NEAR = {"cpu": 1e-6, "cuda": 2e-3}
"""Largest difference of a weight between two runs that should be one: kernels of a GPU sum in any order."""


def run(cache, folder, device, *words):
    watch = "+callbacks.watch={_target_: tests.gpu.watch.Watch}"
    return train.run(small_settings(cache, folder, *WORDS, *PLACE[device], watch, *words))


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def trained(device, cache, tmp_path_factory):
    """A whole run on the device."""
    return run(cache, tmp_path_factory.mktemp(device), device)


def weights(folder, name="last.ckpt"):
    return read_checkpoint(folder / "checkpoints" / name)["state_dict"]


def assert_near(ours, theirs, limit):
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() <= limit, name


def test_the_towers_compute_in_half_precision_and_the_losses_in_float32(trained, device):
    (watch,) = (one for one in trained.trainer.callbacks if isinstance(one, Watch))
    assert watch.tower >= {HALF[device]}
    assert watch.losses == {torch.float32}
    assert 0 < max(watch.gradients) < 100, "what callbacks see is unscaled"


def test_the_checkpoint_holds_float32_weights_and_the_scaler(trained, device):
    checkpoint = read_checkpoint(trained.folder / "checkpoints" / "last.ckpt")
    assert {tensor.dtype for tensor in checkpoint["state_dict"].values()} == {torch.float32}
    assert ("MixedPrecision" in checkpoint) == (device == "cuda")
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert {group["fused"] for group in groups} == {device == "cuda"}


def test_a_run_that_was_stopped_goes_on(trained, device, cache, tmp_path, monkeypatch):
    ended = TwoTowerModule.on_train_batch_end

    def stop(self, *given):
        ended(self, *given)
        if self.trainer.global_step == 4:
            raise KeyError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(TwoTowerModule, "on_train_batch_end", stop)
        with pytest.raises(KeyError, match="stopped"):
            run(cache, tmp_path / "run", device)
    run(cache, tmp_path / "run", device, f"resume={tmp_path / 'run'}")
    assert_near(weights(tmp_path / "run"), weights(trained.folder), NEAR[device])


def test_evaluation_gives_the_runs_own_scores(trained, device, cache):
    best = trained.folder / "checkpoints" / "best.ckpt"
    found = predict_run(open_run(best, cache, {}, None, device))["test"]
    assert np.allclose(found.logits, Predictions.load(trained.folder / "predictions" / "test").logits, atol=5e-3)


def test_a_photograph_gets_the_same_answer_as_on_a_cpu(trained, device, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    best = trained.folder / "checkpoints" / "best.ckpt"
    here, there = (load(best, device=place).predict(tmp_path / "photo.png").frame() for place in (device, "cpu"))
    assert here["condition"].tolist() == there["condition"].tolist()
    assert np.allclose(here["confidence"], there["confidence"], atol=1e-3)


def test_an_export_computes_what_the_checkpoint_does(trained, tmp_path):
    best = trained.folder / "checkpoints" / "best.ckpt"
    exported = AutoModel.from_pretrained(export_checkpoint(best, "merged", tmp_path / "merged")).eval()
    model, _ = load_model(best)
    size = model.image_spec.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs, ours = exported.get_image_features(pixel_values=images), model.encode_images(images)
    assert torch.allclose(getattr(theirs, "pooler_output", theirs), ours, atol=1e-4)


def test_a_compiled_run_is_the_same_run_and_gives_its_memory_back(trained, device, cache, tmp_path):
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    backend = {"cpu": "eager", "cuda": "inductor"}[device]
    result = run(cache, tmp_path, device, "trainer.compile=true", f"trainer.compile_backend={backend}")
    limit = {"cpu": 1e-6, "cuda": 2e-2}[device]  # fused kernels round half precision at other places
    assert_near(weights(tmp_path), weights(trained.folder), limit)
    model = weakref.ref(result.components.model)
    del result
    gc.collect()
    assert model() is None
    if device == "cuda":
        assert torch.cuda.memory_allocated() - before < 1e6


def test_peak_memory_is_measured_where_there_is_a_gpu(trained, device):
    assert (latest(trained.trainer).get(MEMORY, 0) > 0) == (device == "cuda")


def test_measuring_waits_for_no_kernel(device):
    callback, batch = Throughput(every_n_steps=1), Batch(torch.ones(2, 5), torch.ones(2, 1), torch.arange(2))
    trainer = SimpleNamespace(
        global_step=1,
        accumulate_grad_batches=1,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device(device)),
        train_dataloader=None,
        loggers=[],
    )
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            callback.on_train_batch_start(trainer, None, batch, step)
            callback.on_train_batch_end(trainer, None, None, batch, step)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert callback.latest
