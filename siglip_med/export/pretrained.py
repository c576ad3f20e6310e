"""Folders that transformers and PEFT load without any code of this project."""

import copy
from pathlib import Path
from typing import Any

from peft import PeftModel
from PIL.Image import Resampling
from safetensors.torch import save_file
from tokenizers import normalizers
from torch import Tensor
from transformers import CLIPProcessor, Siglip2Processor, SiglipProcessor, VisionTextDualEncoderProcessor

from siglip_med.core.errors import UserError
from siglip_med.models import JointTwoTower, TwoTower, VitBertTwoTower
from siglip_med.models.exported import HEADS_FILE
from siglip_med.models.joint import MODEL
from siglip_med.models.pairs import VitBertConfig

_PROCESSORS: dict[str, Any] = {"siglip": SiglipProcessor, "siglip2": Siglip2Processor, "clip": CLIPProcessor}
_PROCESSORS[VitBertConfig.model_type] = VisionTextDualEncoderProcessor


def merged_copy(model: TwoTower) -> TwoTower:
    """A copy with the same embeddings whose adapters have become part of its weights; the model itself is unchanged."""
    merged = copy.deepcopy(model).eval()
    for name, backbone in merged.backbones.items():
        if isinstance(backbone, PeftModel):
            merged.backbones[name] = backbone.merge_and_unload()
    return merged


def write_merged(model: TwoTower, folder: Path) -> None:
    """Writes the adapted model as if it had always been so.

    A joint model becomes one folder for ``AutoModel``, ``AutoProcessor`` and the pipeline
    "zero-shot-image-classification"; a ViT beside a BERT, one for this project alone. A dual encoder becomes two
    folders, ``vision`` and ``text``, and a file with the projections: transformers' own VisionTextDualEncoderModel has
    neither a bias nor mean pooling, and would give other numbers. The model given is not changed.
    """
    merged = merged_copy(model)
    if isinstance(merged, JointTwoTower):
        merged.pretrained_with_logits().save_pretrained(folder)
        write_processor(merged, folder)
        return
    for name in merged.backbones:
        merged.pretrained(name).save_pretrained(folder / name)
    square_processor(merged).save_pretrained(folder / "vision")
    own_tokenizer(merged).save_pretrained(folder / "text")
    save_weights(_own_weights(merged), folder / HEADS_FILE)


def write_adapter(model: TwoTower, folder: Path) -> None:
    """Writes PEFT adapters, and beside them every other trained weight, which PEFT leaves out.

    ``heads.safetensors`` holds the scale, the bias and trained heads: under the names of the transformers model for a
    joint model (``load_state_dict(…, strict=False)``), under this project's names for a dual encoder.

    Raises:
        UserError: the model was not trained with LoRA, or transformers has no class for its base.
    """
    if isinstance(model, VitBertTwoTower):
        raise UserError("format=peft: no library has a class for its base, a ViT beside a BERT: use format=merged")
    adapted = {name: backbone for name, backbone in model.backbones.items() if isinstance(backbone, PeftModel)}
    if not adapted:
        raise UserError(
            f"format=peft needs adapters, but this run trained with {type(model.adaptation).__name__}: "
            "use format=merged"
        )
    for name, backbone in adapted.items():
        for settings in backbone.peft_config.values():
            settings.base_model_name_or_path = _base_of(model, name)
            settings.revision = None if " + " in model.base.name else model.base.revision
        place = folder if isinstance(model, JointTwoTower) else folder / name
        backbone.save_pretrained(str(place), save_embedding_layers=False)
        (place / "README.md").unlink(missing_ok=True)  # PEFT's own card, with nothing filled in
    if isinstance(model, JointTwoTower):
        weights = model.pretrained_with_logits().state_dict()
        own = {name: weights[name] for name in ("logit_scale", "logit_bias") if name in weights}
        save_weights(own | model.trained_base_weights(MODEL), folder / HEADS_FILE)
        write_processor(model, folder)
    else:
        save_weights(_own_weights(model), folder / HEADS_FILE)
        square_processor(model).save_pretrained(folder)
        own_tokenizer(model).save_pretrained(folder)


def write_processor(model: TwoTower, folder: Path) -> None:
    """Writes tokenizer and image processor of a joint model, so that ``AutoProcessor`` finds both."""
    processor = _PROCESSORS[model.pretrained(MODEL).config.model_type]
    processor(image_processor=square_processor(model), tokenizer=own_tokenizer(model)).save_pretrained(folder)


def own_tokenizer(model: TwoTower) -> Any:
    """The tokenizer with what the run does to texts beside it: the length that it pads and truncates to, lower case."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.model_max_length = model.max_text_length
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if model.lowercase_text and backend is not None:
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer


def square_processor(model: TwoTower) -> Any:
    """The image processor, set to what the model was trained on: the whole image resized to a square, bicubic.

    The processor of a NaFlex model keeps the shape of the image and stays as it is: the same for square images alone.
    """
    processor = copy.deepcopy(model.image_processor)
    if hasattr(processor, "max_num_patches"):
        return processor
    side = model.image_spec.size
    processor.size = {"height": side, "width": side}
    processor.resample = int(Resampling.BICUBIC)
    if hasattr(processor, "do_center_crop"):
        processor.do_center_crop = False
    return processor


def _own_weights(model: TwoTower) -> dict[str, Tensor]:
    """Weights of a dual encoder outside of its two towers."""
    return {name: value.detach() for name, value in model.state_dict().items() if not name.startswith("backbones.")}


def _base_of(model: TwoTower, backbone: str) -> str:
    names = model.base.name.split(" + ")
    return names[0] if len(names) == 1 else dict(zip(model.backbones, names, strict=True))[backbone]


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Writes tensors by name as safetensors."""
    save_file({name: value.detach().contiguous().cpu() for name, value in weights.items()}, path)
