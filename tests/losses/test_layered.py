import textwrap
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from siglip_med.core.config import validate_config
from siglip_med.core.errors import UserError
from siglip_med.losses import InfoNCE, LayeredLoss, MultiPositiveSigmoid, PairBatch, WeightedTerm
from tools.debug_losses import example_batch, layered_terms, published_total

CONF = Path(__file__).parents[2] / "conf"
LOSSES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))
COEFFICIENTS = {"alpha": 0.25, "beta": 0.5, "gamma": 0.75, "delta": 0.125}


def composed(name: str) -> DictConfig:
    """The ``loss`` node that ``loss=name`` gives."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose("train", overrides=[f"loss={name}"]).loss


class Constant:
    """A term with a known value that counts its calls."""

    def __init__(self, value: float) -> None:
        self.value, self.calls = value, 0

    def __call__(self, batch: PairBatch) -> Tensor:
        self.calls += 1
        return batch.zero + self.value


def test_published_composition() -> None:
    assert f"{published_total():.6f}" == "7.625524"


@given(
    alpha=st.floats(0, 1),
    beta=st.floats(0, 5),
    scale=st.floats(0, 100),
    epsilon=st.floats(0, 5),
    number=st.floats(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_total_is_the_weighted_sum(alpha: float, beta: float, scale: float, epsilon: float, number: float) -> None:
    loss = LayeredLoss(
        {
            "a": WeightedTerm(Constant(2.0), "1 - alpha"),
            "b": WeightedTerm(Constant(3.0), "alpha", scale),
            "c": WeightedTerm(Constant(5.0), "beta"),
            "d": WeightedTerm(Constant(7.0), "epsilon"),
            "e": WeightedTerm(Constant(11.0), number),
        }
    )
    output = loss(example_batch(), {"alpha": alpha, "beta": beta, "epsilon": epsilon})
    expected = (1 - alpha) * 2 + alpha * scale * 3 + beta * 5 + epsilon * 7 + number * 11
    assert output.total.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert sum(value.item() for value in output.weighted.values()) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_term_at_zero_is_not_computed() -> None:
    terms = {name: Constant(1.0) for name in ("a", "b", "c", "d")}
    coefficient = {"a": "1 - alpha", "b": "alpha", "c": "beta", "d": 0.0}
    loss = LayeredLoss({name: WeightedTerm(term, coefficient[name]) for name, term in terms.items()})
    output = loss(example_batch(), {"alpha": 1.0, "beta": 0.0})
    assert {name: term.calls for name, term in terms.items()} == {"a": 0, "b": 1, "c": 0, "d": 0}
    assert set(output.raw) == set(output.weighted) == {"b"}


def test_total_has_a_live_graph_when_every_term_is_at_zero() -> None:
    image = torch.randn(2, 3, requires_grad=True)
    scale = torch.tensor(0.0, requires_grad=True)
    batch = PairBatch.from_targets(image, torch.randn(2, 3), scale, torch.tensor(0.0), torch.eye(2))
    output = LayeredLoss({"a": WeightedTerm(Constant(1.0), "alpha")})(batch, {"alpha": 0.0})
    output.total.backward()
    assert output.total.item() == 0
    assert output.raw == {}
    assert image.grad is not None
    assert (image.grad == 0).all()
    assert scale.grad == 0


@pytest.mark.parametrize("written", ["1 - alpha", "1-alpha", " 1 -alpha ", "1.0 - alpha"])
def test_the_complement_may_be_written_with_or_without_spaces(written: str) -> None:
    assert WeightedTerm(Constant(1.0), written, 2.0).weight({"alpha": 0.25}) == 1.5


@pytest.mark.parametrize("written", [0.5, "0.5", 1])
def test_a_number_needs_no_schedule(written: str | float) -> None:
    assert WeightedTerm(Constant(1.0), written).weight({}) == float(written)
    assert WeightedTerm(Constant(1.0), written, scale=3.0).weight({}) == 3 * float(written)


def test_an_unknown_coefficient_names_those_there_are() -> None:
    loss = LayeredLoss({"a": WeightedTerm(Constant(1.0), "zeta")})
    with pytest.raises(UserError, match=r"'zeta' is not in the schedule, which gives alpha, beta, delta, gamma"):
        loss(example_batch(), COEFFICIENTS)


def test_alpha_above_one_is_refused() -> None:
    with pytest.raises(UserError, match="keep alpha in"):
        WeightedTerm(Constant(1.0), "1 - alpha").weight({"alpha": 1.5})


@pytest.mark.parametrize("written", ["2 * alpha", "alpha - 1", "", "-1", "nan", -0.5, float("inf")])
def test_a_coefficient_that_cannot_be_read_is_refused(written: str | float) -> None:
    with pytest.raises(UserError, match="coefficient"):
        WeightedTerm(Constant(1.0), written)


@pytest.mark.parametrize("terms", [{}, {"a.b": WeightedTerm(Constant(1.0))}])
def test_terms_need_names(terms: dict[str, WeightedTerm]) -> None:
    with pytest.raises(UserError, match=r"loss\.terms"):
        LayeredLoss(terms)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_config_gives_a_finite_loss_and_gradient(name: str) -> None:
    config = composed(name)
    validate_config(config)
    loss = hydra.utils.instantiate(config)
    batch = example_batch()
    image = batch.image.clone().requires_grad_()
    output = loss(replace(batch, image=image), COEFFICIENTS)
    assert set(output.raw) == set(config.terms)
    output.total.backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.norm() > 0


@pytest.mark.parametrize("name", ["multi_positive", "softmax", "infonce", "eye_sigmoid"])
def test_baselines_take_image_caption_pairs(name: str) -> None:
    loss = hydra.utils.instantiate(composed(name))
    image, text = torch.randn(3, 4), torch.randn(2, 4)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    batch = PairBatch.from_targets(image, text, torch.tensor(1.0), torch.tensor(-1.0), targets)
    assert loss(batch, {}).total.item() > 0


def test_layered_config_is_the_layered_loss_of_the_debug_table() -> None:
    loss = hydra.utils.instantiate(composed("layered"))
    expected = LayeredLoss(layered_terms())(example_batch(), COEFFICIENTS)
    output = loss(example_batch(), COEFFICIENTS)
    assert {name: value.item() for name, value in output.weighted.items()} == {
        name: value.item() for name, value in expected.weighted.items()
    }


class Spread:
    """A user's own term: keeps the images of a batch apart."""

    def __init__(self, power: float = 2.0) -> None:
        self.power = power

    def __call__(self, batch: PairBatch) -> Tensor:
        return batch.image_cosine.abs().pow(self.power).mean()


class Temperature(nn.Module):
    """A user's own term that has a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, batch: PairBatch) -> Tensor:
        return InfoNCE()(batch) * self.log_temperature.exp()


def test_a_users_own_term_needs_one_class_and_one_config_node() -> None:
    own = {"_target_": f"{__name__}.Spread", "power": 4.0}
    node = {"_target_": "siglip_med.losses.WeightedTerm", "term": own, "coefficient": "epsilon", "scale": 3.0}
    config = composed("multi_positive")
    with open_dict(config):
        config.terms.spread = node
    validate_config(config)
    output = hydra.utils.instantiate(config)(example_batch(), {"epsilon": 0.5})
    expected = example_batch().image_cosine.abs().pow(4).mean()
    torch.testing.assert_close(output.raw["spread"], expected)
    torch.testing.assert_close(output.total, output.raw["sigmoid"] + 1.5 * expected)


def test_a_users_own_config_file_composes_as_the_page_says(tmp_path: Path) -> None:
    page = (CONF.parent / "docs" / "losses.md").read_text()
    node = page.split("   ```yaml\n")[1].split("```")[0]
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        textwrap.dedent(node).replace("my_losses.Spread", f"{__name__}.Spread")
    )
    search = f"hydra: {{searchpath: ['file://{CONF.resolve()}']}}"
    (tmp_path / "job.yaml").write_text(f"defaults: [loss: mine, schedule: constant, _self_]\n{search}\n")
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(tmp_path)):
        config = hydra.compose("job", overrides=["+schedule.knots.epsilon={0: 0, 1000: 0.1}"])
    validate_config(config)
    coefficients = hydra.utils.instantiate(config.schedule).at(500, 2500)
    assert coefficients["epsilon"] == pytest.approx(0.05)
    output = hydra.utils.instantiate(config.loss)(example_batch(), coefficients)
    assert output.weighted["spread"].item() == pytest.approx(0.05 * output.raw["spread"].item())
    assert set(output.raw) == {"sigmoid", "spread"}


def test_a_users_own_term_may_learn() -> None:
    loss = LayeredLoss({"own": WeightedTerm(Temperature()), "sigmoid": WeightedTerm(MultiPositiveSigmoid())})
    loss(example_batch(), {}).total.backward()
    ((name, parameter),) = loss.named_parameters()
    assert name.endswith("log_temperature")
    assert parameter.grad is not None
    assert parameter.grad != 0
