"""Two processes (gloo, CPU) train adapters on a model of SigLIP's layers at toy size."""

import subprocess
import sys
from pathlib import Path

import torch

from siglip_med.models import load_model
from tests.models import runs

REPOSITORY = Path(__file__).resolve().parents[2]

WORKER = """
import sys
from pathlib import Path
import torch
import torch.multiprocessing as multiprocessing
from torch import distributed, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel
from siglip_med.models import check_gradients
from tests.models import runs
from tests.processes import leave

class Step(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, **tokens):
        return self.model.logits(self.model.encode_images(images), self.model.encode_texts(**tokens))

def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    node = torch.load(folder / "node.pt", weights_only=True)
    model = runs.build(node).train()
    step = DistributedDataParallel(Step(model))  # a parameter without a gradient would stop the second step
    optimizer = torch.optim.AdamW(model.parameter_groups(0.01, 0.01))
    for _ in range(2):
        optimizer.zero_grad()
        share = runs.images(4)[rank::2]
        scores = step(share, **model.tokenize(runs.TEXTS[:2]))
        binary_cross_entropy_with_logits(scores, torch.eye(2)).backward()
        check_gradients(model)
        optimizer.step()
    torch.save(model.trainable_state(), folder / f"state{rank}.pt")
    if rank == 0:
        runs.save(model.eval(), node, folder / "best.ckpt")
    leave()

if __name__ == "__main__":
    multiprocessing.start_processes(work, args=(Path(sys.argv[1]),), nprocs=2, start_method="fork")
"""


def test_two_processes_agree_and_equal_one_process_with_both_shares(tmp_path):
    node = runs.model_node("siglip", tmp_path / "base", {**runs.LORA, "dropout": 0.0})
    torch.save(node, tmp_path / "node.pt")
    subprocess.run([sys.executable, "-c", WORKER, str(tmp_path)], check=True, cwd=REPOSITORY, timeout=200)
    first, second = (torch.load(tmp_path / f"state{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())

    alone = runs.build(node).train()
    optimizer = torch.optim.AdamW(alone.parameter_groups(0.01, 0.01))
    for _ in range(2):
        optimizer.zero_grad()
        tokens = alone.tokenize(runs.TEXTS[:2])
        for rank in (0, 1):
            images = runs.images(4)[rank::2]
            scores = alone.logits(alone.encode_images(images), alone.encode_texts(**tokens))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.eye(2))
            (loss / 2).backward()
        optimizer.step()
    for name, value in alone.trainable_state().items():
        assert torch.allclose(value, first[name], atol=1e-5), name
    loaded, _ = load_model(tmp_path / "best.ckpt")
    assert torch.allclose(runs.scores(loaded), runs.scores(alone.eval()), atol=1e-3)
