"""SigLIP at toy size: the base of the embedded default.

A real `transformers.SiglipModel` with its tokenizer and image processor, small enough to ship in the package and to
train on two CPU cores. Its tokenizer behaves as SigLIP's: lower case, no punctuation, ``</s>`` at the end and as
padding, always 64 tokens.
"""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from siglip_med.core.errors import UserError
from siglip_med.models.joint import JointTwoTower

PACKAGED = Path(__file__).parent / "siglip_tiny"
"""The folder that ``package:siglip_tiny`` names."""

IMAGE_SIZE = 64
TEXT_LENGTH = 64

_WIDTH = 128


def tiny_config(vocabulary: int) -> SiglipConfig:
    """The architecture: four vision and two text layers of width 128, 8 x 8 pixels per patch."""
    shared = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 2, "hidden_act": "relu"}
    return SiglipConfig(
        text_config={
            **shared,
            "num_hidden_layers": 2,
            "vocab_size": vocabulary,
            "max_position_embeddings": TEXT_LENGTH,
            "projection_size": _WIDTH,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**shared, "num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 8},
    )


def write_untrained(folder: Path, seed: int, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write the model folder with random weights, from which pretraining starts.

    Logit scale and bias start at log 10 and -10 (Zhai et al. 2023, arXiv 2303.15343, section 3.2).

    Raises:
        UserError: the folder holds something other than a model.
    """
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(PACKAGED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SiglipModel(tiny_config(len(tokenizer)))
    with torch.no_grad():
        model.logit_scale.fill_(float(torch.log(torch.tensor(10.0))))
        model.logit_bias.fill_(-10.0)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    processor = SiglipImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    _write(folder, model, tokenizer, processor)


def write_pretrained(model: JointTwoTower, folder: Path) -> None:
    """Write a trained model as a folder that transformers and `siglip_med.models.siglip` load.

    Weights are saved as float16: half the size, and far finer than what training leaves undecided.

    Raises:
        UserError: the folder holds something other than a model, or a weight is not finite in float16.
    """
    _write(folder, model.pretrained_with_logits(), model.tokenizer, model.image_processor)


def _write(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, processor: SiglipImageProcessor
) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise UserError(f"{folder}: is not empty and holds no model; give a new folder, or one that holds a model")
    weights = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("position_ids")
    }
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{folder}: not written, since {broken[0]} is not finite in float16; train with a lower rate")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        partial = Path(name)
        model.config.save_pretrained(partial)
        _forget_last_call(tokenizer)
        tokenizer.save_pretrained(partial)
        processor.save_pretrained(partial)
        save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
        # safetensors writes for the owner alone
        (partial / "model.safetensors").chmod(0o644)
        # config.json last: it marks a folder as a model.
        for file in sorted(partial.iterdir(), key=lambda item: item.name == "config.json"):
            file.replace(folder / file.name)


def _forget_last_call(tokenizer: PreTrainedTokenizerBase) -> None:
    """A fast tokenizer keeps the padding and truncation of its last call, and would save them as its own."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_padding()
        backend.no_truncation()
