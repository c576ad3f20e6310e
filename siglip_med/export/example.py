"""The Python lines of a card: complete, so that they run as pasted, on a gray image in place of a photograph."""

import re

from siglip_med.export.recipes import Format, loading_recipe, needs_this_project
from siglip_med.models import DualEncoder, TwoTower

HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
"""How the hub names a model; a relative path of two parts looks the same, and is checked for a folder."""

_START = """import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import {auto}

folder = "."  # the folder of this file
{bases}about = json.loads(Path(folder, "conditions.json").read_text(encoding="utf-8"))
image = Image.new("RGB", (640, 480), "gray")  # yours: Image.open("photograph.jpg").convert("RGB")
square = image.resize((about["image"]["size"],) * 2, Image.Resampling.BICUBIC)
texts = [{text} for prompts in about["prompts"]]  # the first sentence of each condition
{pixels}tokens = tokenizer(
    texts, padding="max_length", truncation=True, max_length=about["max_text_length"], return_attention_mask={mask},
    return_tensors="pt",
)
torch.set_grad_enabled(False)

"""

_PROCESSED = """processor = AutoProcessor.from_pretrained(folder)
tokenizer, pixels = processor.tokenizer, processor.image_processor(images=[square], return_tensors="pt")
"""

_BY_HAND = """tokenizer, spec = AutoTokenizer.from_pretrained({tokenizer}), about["image"]
normal = (np.asarray(square) / 255 - np.array(spec["mean"])) / np.array(spec["std"])
pixel_values = torch.tensor(normal, dtype=torch.float32).permute(2, 0, 1)[None]
"""

_STRANGER = """
stranger = ": unlike the photographs of training, read no ranking" if familiarity[0] < 0.05 else ""
print(f"familiarity {familiarity[0]:.3f}{stranger}")
"""

_END = """
for name, logit in sorted(zip(about["conditions"], np.asarray(logits)[0].tolist()), key=lambda pair: -pair[1])[:5]:
    print(f"{logit:8.3f}  {name}")
"""


def example(model: TwoTower, format: Format, refit: bool = False, familiarity: bool = False) -> str:
    """From a folder to five ranked conditions of an image, without this project where another library can do it.

    Where the folder holds a ``refit``, it ranks, and where it knows ``familiarity``, a refit tells it.
    """
    dual = isinstance(model, DualEncoder)
    by_hand = dual or format in ("onnx", "open_clip") or needs_this_project(model, format)
    text_folder = 'Path(folder, "text")' if dual and format == "merged" else "folder"
    start = _START.format(
        auto="AutoTokenizer" if by_hand else "AutoProcessor",
        bases=_bases(model) if format == "peft" else "",
        text="prompts[0].lower()" if model.lowercase_text else "prompts[0]",
        pixels=_BY_HAND.format(tokenizer=text_folder) if by_hand else _PROCESSED,
        mask=model.text_mask or dual,
    )
    lines = loading_recipe(model, format, refit, familiarity)
    return start + lines + _STRANGER * (refit and familiarity) + _END


def _bases(model: TwoTower) -> str:
    """Lines that load the base models under the adapters."""
    names = model.base.name.split(" + ")
    towers = [""] if len(names) == 1 else [f"{tower}_" for tower in model.backbones]
    lines = ""
    for tower, name in zip(towers, names, strict=True):
        known = f'"{name}"'
        if not HUB_ID.fullmatch(name):
            place = f'"{tower.removesuffix("_")}", "adapter_config.json"' if tower else '"adapter_config.json"'
            known = f'json.loads(Path(folder, {place}).read_text())["base_model_name_or_path"]  # or its present path'
        lines += f"{tower}base = {known}\n"
    return lines
