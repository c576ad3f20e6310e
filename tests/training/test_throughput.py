"""Images a second, waiting and MFU, by a clock that the test moves."""

import logging
from types import SimpleNamespace

import pytest
import torch

from siglip_med.commands.train import run
from siglip_med.data import Batch
from siglip_med.data.loader import TimedLoader
from siglip_med.training import progress
from siglip_med.training.throughput import Throughput, described, latest
from tests.short_runs import small_settings

IMAGES = 4


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in ("data.loader", "training.throughput"):
        monkeypatch.setattr(f"siglip_med.{module}.perf_counter", clock)
    return clock


class Slow(torch.utils.data.Dataset):
    """Batches that take a third of a second each."""

    def __init__(self, clock, batches):
        self.clock, self.batches = clock, batches

    def __len__(self):
        return self.batches

    def __getitem__(self, item):
        self.clock.now += 0.3
        return Batch(torch.ones(IMAGES, 5), torch.ones(IMAGES, 2), torch.arange(IMAGES))


class Rig:
    """A trainer's side of a training loop: a step takes 0.7 s, a validation 5 s."""

    def __init__(self, clock, callback, batches=40, world_size=1, accumulate=1):
        self.logged, self.clock = [], clock
        recorder = SimpleNamespace(log_metrics=lambda values, step: self.logged.append((step, values)))
        self.module = torch.nn.Linear(5, 3)
        self.callback = callback
        self.batches = iter(loader := TimedLoader(Slow(clock, batches), batch_size=None))
        self.done = 0
        self.trainer = SimpleNamespace(
            global_step=0,
            accumulate_grad_batches=accumulate,
            world_size=world_size,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            train_dataloader=loader,
            loggers=[recorder],
            callbacks=[callback],
        )

    def batch(self):
        batch, (trainer, module) = next(self.batches), (self.trainer, self.module)
        self.callback.on_train_batch_start(trainer, module, batch, self.done)
        module(batch.images).sum().backward()
        self.clock.now += 0.7
        self.done += 1
        trainer.global_step = self.done // trainer.accumulate_grad_batches
        self.callback.on_train_batch_end(trainer, module, None, batch, self.done - 1)

    def validate(self):
        self.callback.on_validation_start(self.trainer, self.module)
        self.clock.now += 5.0
        self.callback.on_validation_end(self.trainer, self.module)


def test_a_window_counts_the_images_of_all_processes_and_leaves_out_validations_and_the_first_batch(clock):
    rig = Rig(clock, Throughput(every_n_steps=4), world_size=2)
    clock.now += 60  # what the first batch waits for
    for _ in range(4):
        rig.batch()
    rig.validate()
    for _ in range(4):
        rig.batch()
    assert [step for step, _ in rig.logged] == [3, 7]
    for _, values in rig.logged:
        assert values == pytest.approx({"perf/images_per_second": 2 * IMAGES, "perf/input_wait": 0.3})
    assert latest(rig.trainer) == rig.logged[-1][1]


def test_accumulated_batches_count_each_and_a_window_ends_with_a_step(clock):
    rig = Rig(clock, Throughput(every_n_steps=2), accumulate=3)
    for _ in range(12):
        rig.batch()
    assert [step for step, _ in rig.logged] == [1, 3]
    assert rig.logged[-1][1]["perf/images_per_second"] == pytest.approx(IMAGES)


def test_mfu_is_what_the_steps_multiplied_over_what_the_device_could(clock):
    rig = Rig(clock, Throughput(every_n_steps=4, peak_tflops=1e-9))
    for _ in range(8):
        rig.batch()
    step = 2 * IMAGES * 5 * 3 * 2  # the product, and that of the weight's gradient; a multiplication and an addition
    assert rig.logged[-1][1]["perf/mfu"] == pytest.approx(step / 1e3)


def test_operations_of_a_compiled_block_are_counted_as_it_is_written(clock):
    rig = Rig(clock, Throughput(every_n_steps=4, peak_tflops=1e-9))
    calls = []
    rig.module._compiled_call_impl = lambda *given: calls.append(given) or rig.module._call_impl(*given)
    for _ in range(4):
        rig.batch()
    assert len(calls) == 3
    assert rig.logged[-1][1]["perf/mfu"] > 0


def test_an_error_in_the_first_batch_stops_the_counting(clock):
    rig = Rig(clock, Throughput(peak_tflops=1.0))
    rig.callback.on_train_batch_start(rig.trainer, rig.module, None, 0)
    rig.callback.on_exception(rig.trainer, rig.module, ValueError())
    rig.module(torch.ones(2, 5))
    assert rig.callback._counter.get_total_flops() == 0


def test_the_values_as_a_person_reads_them():
    values = {
        "perf/images_per_second": 1234.5,
        "perf/input_wait": 0.031,
        "perf/peak_memory_gb": 3.2149,
        "perf/mfu": 0.4,
    }
    shown = {"images/s": "1,234", "waiting for input": "3%", "peak memory": "3.21 GB", "MFU": "40.0%"}
    assert described(values) == shown
    assert described({"perf/images_per_second": 1.234}) == {"images/s": "1.23"}
    assert described({}) == {}


def test_the_log_line_the_bar_and_the_loggers_say_it(cache, tmp_path, caplog):
    words = ["trainer.max_steps=4", "callbacks.run_log.every_n_steps=2", "callbacks.throughput.every_n_steps=2"]
    with caplog.at_level(logging.INFO, logger=progress.__name__):
        result = run(small_settings(cache, tmp_path, *words, "logger=csv", "evaluation.probe_images=0"))
    lines = [record.getMessage() for record in caplog.records if "learning rate" in record.getMessage()]
    assert all(", images/s " in line and ", waiting for input " in line for line in lines)
    assert len(lines) == 2
    assert "peak memory" not in lines[0], "a CPU has none"
    bar = progress.Progress().get_metrics(result.trainer, result.module)
    assert bar["images/s"]
    (path,) = tmp_path.rglob("metrics.csv")
    assert "perf/images_per_second" in path.read_text().splitlines()[0]
