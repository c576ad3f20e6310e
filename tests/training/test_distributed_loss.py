"""Two gloo processes under DistributedDataParallel: the loss and every gradient of one process with the whole batch."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from siglip_med.losses import (
    EyeSigmoid,
    IcdGeometric,
    InfoNCE,
    LayeredLoss,
    PairBatch,
    SoftLabelSoftmax,
    TreeSoftmax,
    Wasserstein,
    WeightedTerm,
    gather_pair_batch,
)
from tests.processes import leave
from tools.debug_losses import example_batch, layered_terms

WORLD = 2
COEFFICIENTS = {"alpha": 0.4, "beta": 0.3, "gamma": 0.5, "delta": 0.6}
IMAGES = 7
SHARES = (slice(0, 5), slice(5, 7))  # ragged on purpose
SCENARIOS = ("pool_of_the_batch", "pool_of_all", "captions", "repeated_captions")


class Attention(nn.Module):
    """One attention head and a perceptron, small enough to read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = (self.q_proj(x) @ self.k_proj(x).mT / x.shape[-1] ** 0.5).softmax(dim=-1) @ self.v_proj(x)
        x = x + self.out_proj(mixed)
        return (x + self.fc2(torch.nn.functional.gelu(self.fc1(x)))).mean(dim=1)


class Towers(nn.Module):
    """An image and a text tower with LoRA on every projection, and the trained logit scale and bias."""

    def __init__(self) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        targets = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
        settings = LoraConfig(r=2, target_modules=targets, lora_dropout=0.0, init_lora_weights=False)
        self.image, self.text = (get_peft_model(Attention(12), settings) for _ in range(2))
        self.logit_scale, self.logit_bias = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(-2.0))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # The parameters leave through forward, or DistributedDataParallel would not see that they are used.
        return self.image(images), self.text(texts), self.logit_scale * 1.0, self.logit_bias * 1.0


@dataclass
class Data:
    """The global batch, and the texts of twelve conditions."""

    images: Tensor
    texts: Tensor
    labels: Tensor
    dissimilarity: Tensor

    @classmethod
    def make(cls) -> "Data":
        generator = torch.Generator().manual_seed(1)
        example = example_batch(images=IMAGES, seed=3)
        return cls(
            torch.randn(IMAGES, 3, 12, generator=generator),
            torch.randn(12, 4, 12, generator=generator),
            example.needed("labels"),
            example.needed("dissimilarity"),
        )

    def pool(self, rows: slice, scenario: str) -> Tensor:
        """The texts of some images: all, those of their conditions, or one caption each."""
        if scenario == "pool_of_all":
            return torch.arange(12)
        if scenario == "pool_of_the_batch":
            return self.labels[rows].any(dim=0).nonzero().squeeze(1)
        captions = torch.arange(IMAGES) if scenario == "captions" else torch.tensor([0, 1, 2, 1, 4, 0, 6])
        return captions[rows].unique()

    def pairs(self, model: nn.Module, rows: slice, scenario: str) -> PairBatch:
        pool = self.pool(rows, scenario)
        image, text, scale, bias = model(self.images[rows], self.texts[pool])
        if "captions" not in scenario:
            counts = self.labels.sum(dim=0)
            return PairBatch.build(image, text, scale, bias, self.labels[rows], pool, self.dissimilarity, counts)
        owner = torch.arange(IMAGES) if scenario == "captions" else torch.tensor([0, 1, 2, 1, 4, 0, 6])
        targets = (owner[rows][:, None] == pool).float()
        return PairBatch.from_targets(image, text, scale, bias, targets)


def losses(scenario: str) -> dict[str, LayeredLoss]:
    """Every term alone, so that one term's error cannot hide behind another; and all layers together."""
    terms = {
        "eye": WeightedTerm(EyeSigmoid()),
        "infonce": WeightedTerm(InfoNCE()),
        "wasserstein": WeightedTerm(Wasserstein()),
        "sigmoid": layered_terms()["final"],
    }
    if "captions" not in scenario:
        terms |= {
            "icd_image": WeightedTerm(IcdGeometric("image")),
            "icd_text": WeightedTerm(IcdGeometric("text", "correlation")),
            "soft": WeightedTerm(SoftLabelSoftmax()),
            "tree": WeightedTerm(TreeSoftmax(adjustment=0.5)),
            "sliced": WeightedTerm(Wasserstein("sliced", projections=16)),
            **{f"layer_{name}": term for name, term in layered_terms().items()},
        }
    single = {name: LayeredLoss({name: term}) for name, term in terms.items()}
    return single if "captions" in scenario else single | {"layered": LayeredLoss(layered_terms())}


def step(model: nn.Module, loss: LayeredLoss, data: Data, rows: slice, scenario: str) -> dict[str, Tensor]:
    model.zero_grad()
    pairs = data.pairs(model, rows, scenario)
    keys = data.pool(rows, scenario) if scenario == "repeated_captions" else None
    value = loss(gather_pair_batch(pairs, keys), COEFFICIENTS).total
    value.backward()
    trained = {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}
    assert all(parameter.grad is not None for parameter in trained.values())
    return {"value": value.detach()} | {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}


def work(rank: int, folder: str) -> None:
    """One of the processes: takes its share of the images through DistributedDataParallel."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    data, model = Data.make(), DistributedDataParallel(Towers())
    results = {
        f"{scenario}/{name}": step(model, loss, data, SHARES[rank], scenario)
        for scenario in SCENARIOS
        for name, loss in losses(scenario).items()
    }
    twice = data.pairs(model, slice(0, 1), "pool_of_all")
    repeated = PairBatch.build(
        twice.image,
        twice.text[:2],
        twice.logit_scale,
        twice.logit_bias,
        twice.needed("labels"),
        torch.tensor([3, 3]),
    )
    try:
        gather_pair_batch(repeated)
    except ValueError as error:
        results["error"] = {str(error): torch.zeros(())}
    torch.save(results, f"{folder}/rank{rank}.pt")
    leave()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize(("scenario", "name"), [(s, name) for s in SCENARIOS for name in losses(s)])
def test_two_processes_equal_one(ranks: list[dict[str, dict[str, Tensor]]], scenario: str, name: str) -> None:
    expected = step(Towers(), losses(scenario)[name], Data.make(), slice(0, IMAGES), scenario)
    assert sum("lora" in key for key in expected) == 24
    largest = max(value.abs().max() for key, value in expected.items() if key != "value")
    assert largest > 1e-3
    for results in ranks:
        found = results[f"{scenario}/{name}"]
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-6, msg=f"{scenario} {name} {key}")


def test_repeated_conditions_need_a_key(ranks: list[dict[str, dict[str, Tensor]]]) -> None:
    assert all("text_key" in next(iter(results["error"])) for results in ranks)


def test_one_process_keeps_its_batch() -> None:
    batch = example_batch()
    assert gather_pair_batch(batch) is batch
