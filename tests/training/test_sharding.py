"""Two processes (gloo, CPU) hold a share each of a toy model's blocks; together they do what one process does."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import distributed
from torch.nn.functional import binary_cross_entropy_with_logits

from siglip_med.models import encoder_layers
from siglip_med.models.sharded import here
from siglip_med.training.optim import AdamW
from siglip_med.training.sharding import ShardedStrategy, ShardScaler, clip_shares, total_norm
from tests.models import runs
from tests.processes import REPOSITORY

WORKER = """
import sys
from pathlib import Path
import torch
from torch import distributed
from torch import distributed, multiprocessing
from tests.processes import leave
from tests.training import test_sharding

def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(test_sharding.in_process(rank, torch.load(folder / "node.pt", weights_only=True)), folder / f"{rank}.pt")
    leave()

if __name__ == "__main__":
    multiprocessing.start_processes(work, args=(Path(sys.argv[1]),), nprocs=2, start_method="fork")
"""
STEPS = 3


def blocks_of(model):
    return [block for tower in model.towers().values() for block in encoder_layers(tower)]


def loss_of(model, part):
    """Of images and of each one's sentence."""
    scores = model.logits(
        model.encode_images(runs.images(4)[part]), model.encode_texts(**model.tokenize(runs.TEXTS[:2]))
    )
    return binary_cross_entropy_with_logits(scores, torch.eye(2))


def gradients_of(model):
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def in_process(rank, node):
    """What a process sees of training with shares, and of what comes after."""
    seen = {}
    model = runs.build(node).train()
    blocks = blocks_of(model)
    classes = [type(module) for module in model.modules()]
    with torch.no_grad():
        for parameter in blocks[0].parameters():
            parameter += rank  # the first process's are everyone's
    strategy = ShardedStrategy()
    for block in blocks:
        strategy.shard(block)
    seen["elements"] = [(value.numel(), here(value).numel()) for block in blocks for value in block.parameters()]
    seen["bytes"] = sum(here(value).untyped_storage().nbytes() for block in blocks for value in block.parameters())
    optimizer, _ = AdamW(learning_rate=0.01, warmup=0, final=1, eps=1e-4).build(model, STEPS)
    scaler = ShardScaler("cpu", init_scale=1024.0)
    seen["norms"] = []

    def backward():
        optimizer.zero_grad()
        scaler.scale(loss_of(model, slice(rank, None, 2))).backward()
        for gradient in gradients_of(model):
            if here(gradient) is gradient:  # as DistributedDataParallel does
                distributed.all_reduce(gradient)
                gradient /= 2

    for _ in range(STEPS):
        backward()
        scaler.unscale_(optimizer)
        seen["norms"].append(total_norm(gradients_of(model)))
        scaler.step(optimizer)
        scaler.update()
    seen["state"] = model.trainable_state()
    backward()
    if rank == 1:  # an infinity in one share is one for all
        next(here(value) for value in gradients_of(model) if here(value) is not value)[0, 0] = float("inf")
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    seen["scale"] = scaler.get_scale()
    seen["after infinity"] = model.trainable_state()
    backward()
    clip_shares(gradients_of(model), 5.0, by_value=False)
    seen["clipped norm"] = float(total_norm(gradients_of(model)))
    clip_shares(gradients_of(model), 0.01, by_value=True)
    seen["largest"] = max(float(here(value).abs().max()) for value in gradients_of(model) if here(value).numel())
    strategy.on_validation_start()
    model.eval()
    if rank == 0:  # it has a batch more, and nobody waits for it
        with torch.no_grad():
            seen["alone"] = runs.scores(model)
    versions = [value._version for value in blocks[0].parameters()]
    strategy.on_validation_end()
    seen["bytes later"] = sum(
        here(value).untyped_storage().nbytes() for block in blocks for value in block.parameters()
    )
    strategy.on_validation_start()
    seen["versions rose"] = all(a < b._version for a, b in zip(versions, blocks[0].parameters(), strict=True))
    strategy.on_validation_end()
    strategy.make_plain()
    if rank == 0:
        seen["plain"] = model.trainable_state()
        seen["plain scores"] = runs.scores(copy.deepcopy(model)).detach()
    seen["plain classes"] = classes == [type(module) for module in model.modules()]
    seen["leftovers"] = [
        name for block in blocks for module in block.modules() for name in vars(module) if "fsdp" in name
    ]
    seen["trained"] = [name for name, value in model.named_parameters() if value.requires_grad]
    return seen


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    return runs.model_node("siglip", tmp_path_factory.mktemp("base"), {**runs.LORA, "dropout": 0.0})


@pytest.fixture(scope="module")
def seen(node, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    torch.save(node, folder / "node.pt")
    subprocess.run([sys.executable, "-c", WORKER, str(folder)], check=True, cwd=REPOSITORY, timeout=200)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(node):
    """One process with both shares: its model and the norms of its gradients."""
    model = runs.build(node).train()
    optimizer, _ = AdamW(learning_rate=0.01, warmup=0, final=1, eps=1e-4).build(model, STEPS)
    norms = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        for rank in (0, 1):
            (loss_of(model, slice(rank, None, 2)) / 2).backward()
        norms.append(total_norm(gradients_of(model)))
        optimizer.step()
    return model, norms


def test_each_process_holds_a_share_of_every_weight_and_no_more(seen):
    elements = [one["elements"] for one in seen]
    for (all_, first), (_, second) in zip(*elements, strict=True):
        assert first + second == all_
    total = sum(all_ for all_, _ in elements[0])
    for one in seen:
        # Three rows of an adapter are two and one, with the place of a second that is empty.
        assert 4 * total / 2 <= one["bytes"] < 4 * total * 0.54
        assert one["bytes later"] == one["bytes"]


def test_weights_and_norms_are_those_of_one_process(seen, alone):
    model, norms = alone
    for one in seen:
        assert one["state"].keys() == model.trainable_state().keys()
        for name, value in model.trainable_state().items():
            assert torch.allclose(one["state"][name], value, atol=1e-5), name
        assert torch.allclose(torch.stack(one["norms"]), torch.stack(norms), rtol=1e-4)


def test_gradients_are_clipped_by_the_norm_of_all_shares_or_value_by_value(seen):
    for one in seen:
        assert one["clipped norm"] == pytest.approx(5.0, rel=1e-4)
        assert one["largest"] == pytest.approx(0.01)


def test_an_infinity_in_one_share_leaves_the_step_out_everywhere(seen):
    for one in seen:
        assert one["scale"] == 512.0
        assert all(torch.equal(value, one["state"][name]) for name, value in one["after infinity"].items())


def test_validation_needs_no_other_process_and_sees_that_weights_changed(seen, alone):
    with torch.no_grad():
        assert torch.allclose(seen[0]["alone"], runs.scores(alone[0].eval()), atol=1e-4)
    assert all(one["versions rose"] for one in seen)


def test_after_training_the_model_is_as_it_was_with_what_it_learned(seen, node):
    assert all(one["plain classes"] and not one["leftovers"] for one in seen)
    model = runs.build(node)
    assert seen[0]["trained"] == [name for name, value in model.named_parameters() if value.requires_grad]
    model.load_trainable_state(seen[0]["plain"])
    assert torch.allclose(runs.scores(model.eval()), seen[0]["plain scores"], atol=1e-5)
    assert all(torch.equal(value, seen[0]["state"][name]) for name, value in seen[0]["plain"].items())
