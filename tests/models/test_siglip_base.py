"""A folder of the layout of google/siglip-base-patch16-224: its sizes and its tokenizer, random weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import SiglipConfig, SiglipModel

from siglip_med.models import TwoTower, check_gradients, load_model, read_checkpoint
from tests.models import runs, tiny
from tests.models.test_adaptation import adapted_layers

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS, FAMILIES = 12, 6
PARAMETERS = 203_155_970
MEGABYTE = 1_000_000


def write_base(folder: Path, tokenizer: Path) -> Path:
    """Sizes are the defaults of `SiglipConfig`; half precision keeps the file at 406 MB."""
    folder.mkdir()
    config = SiglipConfig(text_config={"bos_token_id": 1, "eos_token_id": 1}, dtype="float16")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in SiglipModel(config).state_dict().items()}
    # One block of random numbers, repeated: drawing 203 million would take longer than everything else here.
    block = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul_(0.02).half()
    weights = {}
    for number, (name, shape) in enumerate(shapes.items()):
        repeated = block.roll(7919 * number).repeat(-(-shape.numel() // len(block)))[: shape.numel()].view(shape)
        norm = "norm" in name and name.endswith("weight")
        weights[name] = torch.ones_like(repeated) if norm else repeated.clone()
    weights["logit_scale"].fill_(4.765)
    weights["logit_bias"].fill_(-12.93)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = ["SiglipModel"]
    config.save_pretrained(folder)
    tiny.write_image_processor(folder, "SiglipImageProcessor", size={"height": 224, "width": 224})
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def node(shared, tmp_path_factory):
    folder = write_base(tmp_path_factory.mktemp("siglip") / "base", shared / "models" / "siglip-tokenizer")
    lora = {"_target_": "siglip_med.models.Lora", "rank": 16, "alpha": 32}
    yield {"_target_": "siglip_med.models.siglip", "path": str(folder), "adaptation": lora}
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def step(node) -> tuple[TwoTower, set[str]]:
    """The model after one optimizer step, and the names of the tensors that the step changed."""
    model = runs.build(node).train()
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3, 0.01))
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    tokens = model.tokenize(runs.TEXTS[:2])
    scores = model.logits(model.encode_images(runs.images(2, 224)), model.encode_texts(**tokens))
    binary_cross_entropy_with_logits(scores, torch.eye(2)).backward()
    check_gradients(model)
    optimizer.step()
    return model, {name for name, value in model.trainable_state().items() if not torch.equal(value, before[name])}


@pytest.mark.shared
def test_one_step_on_a_cpu_reaches_every_adapter(step):
    model, changed = step
    assert len(adapted_layers(model)) == 2 * LAYERS * FAMILIES
    # In the first step B is zero, so A gets a gradient of zero: every B has moved.
    assert sum("lora_B" in name for name in changed) == 2 * LAYERS * FAMILIES
    assert {"logit_scale", "logit_bias"} <= changed


@pytest.mark.shared
def test_it_is_the_size_and_reads_texts_as_the_original(step):
    model = step[0]
    own = [value for name, value in model.named_parameters() if ".lora_" not in name and name.startswith("backbones.")]
    assert sum(value.numel() for value in own) == PARAMETERS
    assert model.max_text_length == 64
    tokens = model.tokenize(["Psoriasis, L40.0", "psoriasis l400"])["input_ids"]
    assert tokens.shape == (2, 64)
    assert torch.equal(tokens[0], tokens[1])  # the tokenizer lower-cases and drops punctuation
    assert tokens[0, -1] == 1  # padded with the end token
    assert model.embedding_dim == 768


@pytest.mark.shared
def test_its_checkpoint_is_small_and_loads(step, node, tmp_path):
    model = step[0]
    path = runs.save(model, node, tmp_path / "best.ckpt")
    assert path.stat().st_size <= 40 * MEGABYTE
    state = read_checkpoint(path)["state_dict"]
    assert len(state) == 2 * 2 * LAYERS * FAMILIES + 2
    loaded, _ = load_model(path)
    tokens = model.tokenize(runs.TEXTS[:2])
    with torch.no_grad():
        assert torch.allclose(loaded.encode_texts(**tokens), model.eval().encode_texts(**tokens), atol=1e-5)


@pytest.mark.shared
def test_two_processes_train_it_from_the_command_line(node, tmp_path):
    """A smoke test of the whole job at full size, gloo on CPU; that two processes equal one is tested at toy size."""
    rows = ["image,condition"]
    random = np.random.default_rng(0)
    for number in range(15):
        height, width = random.integers(50, 300, 2)
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{number}.jpg")
        rows.append(f"{number}.jpg,{('Eczema', 'Psoriasis', 'Urticaria')[number % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    overrides = ["experiment=layered", "model=siglip_base", f"model.path={node['path']}", "text_pool=batch"]
    overrides += ["data=csv", f"data.source.root={tmp_path}", "data.batch_size=2", "data.num_workers=1"]
    overrides += ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=1"]
    overrides += [
        f"hydra.run.dir={tmp_path / 'run'}",
        f"paths.cache_dir={tmp_path / 'cache'}",
        "evaluation.bootstrap=5",
        "evaluation.probe_images=0",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", *overrides]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(path)["global_step"] == 1
    assert path.stat().st_size < 100 * MEGABYTE  # with the optimizer's two moments
    model, _ = load_model(path)
    assert len(adapted_layers(model)) == 2 * LAYERS * FAMILIES
