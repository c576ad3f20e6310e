"""The schedule's figures, its errors, and the callback inside a real Trainer."""

import math
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, TensorDataset

from siglip_med.core.config import validate_config
from siglip_med.core.errors import UserError
from siglip_med.training.schedule import CoefficientSchedule, ScheduleCoefficients
from tools.draw_schedule import draw

SCHEDULES = Path(__file__).parents[2] / "conf" / "schedule"

FLOW = {
    0: (0.0, 0.0, 0.0),
    500: (0.5, 0.0, 0.0),
    1000: (1.0, 0.0, 0.0),
    1001: (1.0, 0.001, 0.0),
    1500: (1.0, 0.5, 0.0),
    2000: (1.0, 1.0, 0.0),
    2001: (1.0, 1.0, 0.002),
    2250: (1.0, 1.0, 0.5),
    2500: (1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("name", ["layered", "published"])
@pytest.mark.parametrize(("step", "expected"), FLOW.items())
def test_flow_table(name: str, step: int, expected: tuple[float, ...]) -> None:
    values = instantiate(OmegaConf.load(SCHEDULES / f"{name}.yaml")).at(step, 10_000)
    assert (values["alpha"], values["beta"], values["gamma"]) == pytest.approx(expected, abs=1e-12)
    assert values["delta"] == (pytest.approx(expected[2], abs=1e-12) if name == "layered" else 0)


def test_constant_does_not_move() -> None:
    schedule = instantiate(OmegaConf.load(SCHEDULES / "constant.yaml"))
    assert schedule.at(0, 100) == schedule.at(99, 100) == schedule.at(10**6, 100)


@pytest.mark.parametrize("path", sorted(SCHEDULES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_schedule_gives_the_four_coefficients(path: Path) -> None:
    validate_config(OmegaConf.load(path))
    assert set(instantiate(OmegaConf.load(path)).names) == {"alpha", "beta", "gamma", "delta"}


@pytest.mark.parametrize("total", [7, 300, 2500, 40_000])
def test_fraction_stretches_the_same_knots_over_any_run(total: int) -> None:
    knots = OmegaConf.load(SCHEDULES / "layered.yaml").knots
    steps = CoefficientSchedule(knots, "step", 2500)
    stretched = CoefficientSchedule(knots, "fraction", 2500)
    for step in range(0, total + 1, max(total // 7, 1)):
        equivalent = step / total * 2500
        floor, ceiling = steps.at(math.floor(equivalent), 1), steps.at(math.ceil(equivalent), 1)
        for name, value in stretched.at(step, total).items():
            low, high = sorted((floor[name], ceiling[name]))
            assert low - 1e-12 <= value <= high + 1e-12
    assert set(stretched.at(total, total).values()) == {1.0}


def test_a_longer_span_leaves_the_end_at_full_strength() -> None:
    schedule = CoefficientSchedule({"gamma": {2000: 0, 2500: 1}}, "fraction", span=3000)
    assert schedule.at(250, 300) == pytest.approx({"gamma": 1.0})
    assert schedule.at(299, 300) == {"gamma": 1.0}
    assert schedule.at(225, 300)["gamma"] == pytest.approx(0.5)


def test_fractions_need_no_span() -> None:
    schedule = CoefficientSchedule({"epsilon": {0.25: 0.0, 0.75: 2.0}}, "fraction")
    assert [schedule.at(step, 8)["epsilon"] for step in (0, 2, 4, 6, 8)] == pytest.approx([0, 0, 1, 2, 2])


def test_keys_may_be_text_and_in_any_order() -> None:
    written = CoefficientSchedule({"alpha": {"1000": 1.0, "0": 0.0}})  # type: ignore[dict-item]
    assert written.at(250, 1) == CoefficientSchedule({"alpha": {0: 0.0, 1000: 1.0}}).at(250, 1) == {"alpha": 0.25}


@given(points=st.dictionaries(st.integers(0, 50), st.floats(0, 10), min_size=1, max_size=6), step=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_lines_between_knots_equal_a_naive_walk(points: dict[float, float], step: int) -> None:
    knots = sorted(points.items())
    if step <= knots[0][0]:
        expected = knots[0][1]
    elif step >= knots[-1][0]:
        expected = knots[-1][1]
    else:
        right = next(number for number, (position, _) in enumerate(knots) if position > step)
        (x0, y0), (x1, y1) = knots[right - 1], knots[right]
        expected = y0 + (y1 - y0) * (step - x0) / (x1 - x0)
    assert CoefficientSchedule({"a": points}).at(step, 1)["a"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"knots": {}}, "empty"),
        ({"knots": {"alpha": {}}}, "schedule.knots.alpha"),
        ({"knots": {"alpha": 0.5}}, "schedule.knots.alpha"),
        ({"knots": {"alpha": {0: -1}}}, "at least 0"),
        ({"knots": {"alpha": {0: math.nan}}}, "finite"),
        ({"knots": {"alpha": {math.inf: 1}}}, "finite"),
        ({"knots": {"alpha": {"soon": 1}}}, "'soon' is not a number"),
        ({"knots": {"alpha": {5: 1, "5": 0}}}, "given twice"),
        ({"knots": {"1 - alpha": {0: 1}}}, "letters"),
        ({"knots": {"alpha": {0: 0, 1.5: 1}}, "unit": "fraction"}, "span of 1, and one is 1.5"),
        ({"knots": {"alpha": {0: 0}}, "unit": "epoch"}, "unit"),
        ({"knots": {"alpha": {0: 0}}, "span": 0}, "span"),
    ],
)
def test_wrong_knots_are_named(settings_: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CoefficientSchedule(**settings_)


@pytest.mark.parametrize("total", [math.inf, -1, 0])
def test_fractions_of_an_endless_run_are_refused(total: float) -> None:
    with pytest.raises(UserError, match="max_steps"):
        CoefficientSchedule({"alpha": {0: 0}}, "fraction").at(3, total)


class Recorder(pl.LightningModule):
    """Records what the callback gave it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.coefficients: dict[str, float] = {}
        self.seen: list[tuple[int, float]] = []
        self.validated: list[tuple[int, float]] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen.append((self.trainer.global_step, self.coefficients["alpha"]))
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.validated.append((self.trainer.global_step, self.coefficients.get("alpha", -1.0)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, max_steps: int, resume: Path | None = None, accumulate: int = 1) -> Recorder:
    loader = DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=1)
    schedule = CoefficientSchedule({"alpha": {0: 0.0, 20: 1.0}})
    trainer = pl.Trainer(
        max_steps=max_steps,
        callbacks=[ScheduleCoefficients(schedule), pl.callbacks.ModelCheckpoint(folder, save_last=True)],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
    )
    module = Recorder()
    trainer.fit(module, loader, loader, ckpt_path=resume)
    assert trainer.callback_metrics["coefficient/alpha"].item() == pytest.approx(module.seen[-1][1])
    return module


def test_callback_sets_each_step_and_a_resumed_run_is_on_schedule(tmp_path: Path) -> None:
    first = fit(tmp_path, 8)
    assert first.seen == [(step, pytest.approx(step / 20)) for step in range(8)]
    assert first.validated[0] == (0, 0.0)  # the sanity check before the first step
    assert first.validated[-1] == (8, pytest.approx(0.4))
    resumed = fit(tmp_path, 16, resume=tmp_path / "last.ckpt")
    assert resumed.seen == [(step, pytest.approx(step / 20)) for step in range(8, 16)]


def test_accumulated_batches_count_as_one_step(tmp_path: Path) -> None:
    module = fit(tmp_path, 4, accumulate=2)
    assert module.seen == [(batch // 2, pytest.approx(batch // 2 / 20)) for batch in range(8)]


def test_a_validation_alone_leaves_the_coefficients(tmp_path: Path) -> None:
    loader = DataLoader(TensorDataset(torch.ones(2, 1)))
    callback = ScheduleCoefficients(CoefficientSchedule({"alpha": {0: 0.5}}, "fraction"))
    trainer = pl.Trainer(
        callbacks=[callback], logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False
    )
    module = Recorder()
    trainer.validate(module, loader, verbose=False)
    assert module.coefficients == {}


def test_a_drawing_has_a_line_for_each_coefficient_as_the_schedule_gives_it() -> None:
    schedule = instantiate(OmegaConf.load(SCHEDULES / "layered.yaml"))
    lines = draw(schedule, 3000).axes[0].lines
    assert [line.get_label() for line in lines] == list(schedule.names)
    for line in lines:
        for step, value in zip(line.get_xdata()[::250], line.get_ydata()[::250], strict=True):
            assert value == schedule.at(int(step), 3000)[line.get_label()]
