"""How each format of an exported model is loaded: the lines that its card shows, and that the tests run."""

from typing import Literal

from siglip_med.models import ClipTwoTower, DualEncoder, TwoTower, VitBertTwoTower
from siglip_med.models.adaptation import Tower
from siglip_med.models.dual import TEXT, VISION

Format = Literal["peft", "merged", "onnx", "open_clip"]

_MERGED = """from transformers import AutoModel, AutoProcessor, pipeline

model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
output = model.eval()(**pixels, **tokens)
logits = output.logits_per_image{bias}
classify = pipeline("zero-shot-image-classification", model=folder)
"""

_PEFT = """import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel

model = AutoModel.from_pretrained(base, dtype=torch.float32)
model.load_state_dict(load_file(f"{{folder}}/heads.safetensors"), strict=False)
model = PeftModel.from_pretrained(model, folder).eval()
output = model(**pixels, **tokens)
logits = output.logits_per_image{bias}
"""

_ONNX = """import json
from pathlib import Path

import numpy as np
import onnxruntime

vision, text = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("vision", "text"))
image_embeds = vision.run(None, {"pixel_values": np.asarray(pixel_values)})[0]
text_embeds = text.run(None, {name: np.asarray(value) for name, value in tokens.items()})[0]
about = json.loads(Path(folder, "conditions.json").read_text(encoding="utf-8"))
logits = about["logit_scale"] * image_embeds @ text_embeds.T + about["logit_bias"]
"""

_OPEN_CLIP = """import open_clip

model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
image, text = model.encode_image(pixel_values, normalize=True), model.encode_text(tokens["input_ids"], normalize=True)
logits = model.logit_scale.exp() * image @ text.T + model.logit_bias
"""

_VIT_BERT = """from siglip_med.models import clip  # no other library has a class for such a pair

model = clip(folder).eval()
image, text = model.encode_images(pixel_values), model.encode_texts(tokens["input_ids"], tokens["attention_mask"])
logits = model.logits(image, text)
"""

_DUAL = """import torch
{imports}from safetensors.torch import load_file
from torch.nn.functional import layer_norm, linear, normalize
from transformers import AutoModel

{towers}
heads = load_file(f"{{folder}}/heads.safetensors")
output = vision.eval()(pixel_values=pixel_values)
image = pooled = {image_pool}
output, mask = text.eval()(**tokens), tokens["attention_mask"].unsqueeze(-1)
sentence = {text_pool}
image = layer_norm(image, image.shape[-1:])
{hidden}image = linear(image, heads["image_head.linear.weight"])
sentence = linear(layer_norm(sentence, sentence.shape[-1:]), heads["text_head.linear.weight"])
cosine = normalize(image, dim=-1) @ normalize(sentence, dim=-1).T
logits = heads["logit_scale"].exp() * cosine + heads["logit_bias"]
"""

_POOLS = {
    "cls": "output.last_hidden_state[:, 0]",
    "mean": "output.last_hidden_state.mean(dim=1)",
    "pooler": "output.pooler_output.flatten(1)",
}
_HIDDEN = (
    'image = linear(image, heads["image_head.hidden.weight"], heads["image_head.hidden.bias"])\n'
    "image = torch.nn.functional.gelu(image)\n"
)
_MASKED_MEAN = "(output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)"


_REFIT = """
# what this run answers by: the logits of its refit, whose sigmoid is a calibrated confidence
import torch
from safetensors.torch import load_file

{features}
refit = {{name: value.double() for name, value in load_file(f"{{folder}}/refit.safetensors").items()}}
x = (features.double() - refit["mean"]) / refit["scale"]
squared = torch.cdist(x, refit["centers"]) ** 2 / x.shape[1]
logits = torch.exp(-refit["width"] * squared) @ refit["weights"] + refit["offset"]
distances = squared.min(dim=1).values.sqrt()
"""
_REFIT_ONNX = """
# what this run answers by: the logits of its refit, whose sigmoid is a calibrated confidence
logits, distances = vision.run(["refit_logits", "refit_distances"], {"pixel_values": np.asarray(pixel_values)})
"""
_FAMILIARITY = """
# how familiar each photograph is, a p-value against validation; below 0.05, or for a blank picture, show no confidences
known = about["familiarity"]
energies = -np.log(np.exp(np.asarray(logits, dtype=float)).sum(axis=1))
strange = (np.asarray(distances, dtype=float) - known["distance"]["median"]) / known["distance"]["spread"]
strange += 0.25 * (energies - known["energy"]["median"]) / known["energy"]["spread"]
ranks = (np.array(known["scores"]) >= strange[:, None]).sum(axis=1)
familiarity = (1 + known["faulty"] + ranks) / (1 + known["faulty"] + len(known["scores"]))
"""


def needs_this_project(model: TwoTower, format: Format) -> bool:
    """Whether no other library reads the folder: a ViT beside a BERT with open_clip's heads."""
    return format == "merged" and isinstance(model, VitBertTwoTower)


def loading_recipe(model: TwoTower, format: Format, refit: bool = False, familiarity: bool = False) -> str:
    """Python lines that turn ``folder``, ``pixels`` and ``tokens`` into ``logits`` without this project.

    Where no other library reads the folder (`needs_this_project`), they use it.

    ``pixels`` and ``tokens`` are what the folder's processor or tokenizer gives, ``pixel_values`` is
    ``[B, 3, H, W]`` as the card describes it; ``base`` (``vision_base`` and ``text_base`` for a dual encoder) is the
    base model that PEFT adapters are put on. With ``refit`` the ``logits`` are those of the folder's refit in the end;
    with ``familiarity`` there is ``familiarity`` too, by ``about`` (conditions.json) and NumPy as ``np``.
    """
    lines = _by_prompts(model, format)
    if not refit:
        return lines
    return lines + _by_refit(model, format) + _FAMILIARITY * familiarity


def _by_refit(model: TwoTower, format: Format) -> str:
    if format == "onnx":
        return _REFIT_ONNX
    if needs_this_project(model, format):
        features = "features = model.pooled_features(pixel_values)"
    elif format == "open_clip":
        features = "model.visual.proj = None  # features before the projection\nfeatures = model.visual(pixel_values)"
    elif isinstance(model, ClipTwoTower):  # its output holds the projected ones alone
        features = "features = model.vision_model(**pixels).pooler_output"
    elif isinstance(model, DualEncoder):
        features = "features = pooled"
    else:
        features = "features = output.vision_model_output.pooler_output"
    return _REFIT.format(features=features)


def _by_prompts(model: TwoTower, format: Format) -> str:
    if format == "onnx":
        return _ONNX
    if format == "open_clip":
        return _OPEN_CLIP
    if needs_this_project(model, format):
        return _VIT_BERT
    if isinstance(model, DualEncoder):
        return _dual_recipe(model, format)
    bias = f" {model.logit_bias.item():+.7g}" if isinstance(model, ClipTwoTower) else ""
    return (_MERGED if format == "merged" else _PEFT).format(bias=bias)


def _dual_recipe(model: DualEncoder, format: Format) -> str:
    if format == "merged":
        lines = [f'{name} = AutoModel.from_pretrained(f"{{folder}}/{name}")' for name in (VISION, TEXT)]
    else:
        lines = []
        towers: tuple[Tower, ...] = (VISION, TEXT)
        for name in towers:
            whole = model.pretrained(name).config.model_type.endswith(f"_{name}_model")
            part = f".{name}_model" if whole else ""
            lines.append(f"{name} = AutoModel.from_pretrained({name}_base, dtype=torch.float32){part}")
            if model.adaptation.trains_encoder(name):
                lines.append(f'{name} = PeftModel.from_pretrained({name}, f"{{folder}}/{name}")')
    return _DUAL.format(
        imports="from peft import PeftModel\n" if format == "peft" else "",
        towers="\n".join(lines),
        hidden="" if model.image_head.hidden is None else _HIDDEN,
        image_pool=_POOLS[model.vision_pooling],
        text_pool=_MASKED_MEAN if model.text_pooling == "mean" else _POOLS[model.text_pooling],
    )


def text_recipe(model: TwoTower) -> str:
    """One sentence on how texts become tokens."""
    case = "lower-cased, " if model.lowercase_text else ""
    mask = "with the attention mask" if model.text_mask else "without an attention mask"
    return f'{case}`padding="max_length", truncation=True, max_length={model.max_text_length}`, {mask}.'
