"""Builds each family of models from a folder or hub id: what ``conf/model/*.yaml`` instantiates."""

from typing import Annotated, Any, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from transformers import PreTrainedModel

from siglip_med.errors import UserError
from siglip_med.image_spec import ImageSpec
from siglip_med.models.adaptation import Adaptation, Lora
from siglip_med.models.dual import DualEncoder, Pooling
from siglip_med.models.hub import load_config, load_image_processor, load_tokenizer, load_weights, resolve_path
from siglip_med.models.joint import ClipTwoTower, JointTwoTower, NaflexTwoTower, Siglip2TwoTower, SiglipTwoTower
from siglip_med.models.logits import Logits

Model = TypeVar("Model", bound=JointTwoTower)
Dropout = Annotated[float, Field(ge=0, lt=1)]

_HINTS = {"siglip": "model=siglip_base", "siglip2": "model=siglip2_base", "clip": "model=clip_base"}


def siglip(
    path: str,
    revision: str | None = None,
    adaptation: Adaptation | None = None,
    logits: Logits | None = None,
    gradient_checkpointing: bool = False,
) -> SiglipTwoTower:
    """SigLIP or MedSigLIP.

    Args:
        path: a folder, a hub id, or ``package:siglip_tiny``.
        revision: commit, tag or branch of the hub; None is the main branch.
        adaptation: `Lora` (the default), `FullFineTune` or `Frozen`.
        logits: how logit scale and bias start and how far they go.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        UserError: the model cannot be had, or is of another family.
    """
    return _joint({"siglip": SiglipTwoTower}, path, revision, adaptation, logits, gradient_checkpointing)


def siglip2(
    path: str,
    revision: str | None = None,
    adaptation: Adaptation | None = None,
    logits: Logits | None = None,
    gradient_checkpointing: bool = False,
) -> SiglipTwoTower:
    """SigLIP 2, at fixed resolution; a NaFlex model is fed with square images.

    The fixed-resolution checkpoints of the hub are SigLIP models with another tokenizer, and say so in their
    config.json. Arguments and errors are those of `siglip`.
    """
    families: dict[str, type[SiglipTwoTower]] = {"siglip": Siglip2TwoTower, "siglip2": NaflexTwoTower}
    return _joint(families, path, revision, adaptation, logits, gradient_checkpointing)


def clip(
    path: str,
    revision: str | None = None,
    adaptation: Adaptation | None = None,
    logits: Logits | None = None,
    gradient_checkpointing: bool = False,
) -> ClipTwoTower:
    """CLIP, which has no logit bias of its own: it starts at 0. Arguments and errors are those of `siglip`."""
    return _joint({"clip": ClipTwoTower}, path, revision, adaptation, logits, gradient_checkpointing)


def dual_encoder(
    vision: str,
    text: str,
    vision_revision: str | None = None,
    text_revision: str | None = None,
    embedding_dim: PositiveInt = 256,
    image_size: PositiveInt | None = None,
    max_text_length: PositiveInt = 64,
    vision_pooling: Pooling = "cls",
    text_pooling: Pooling = "mean",
    image_hidden: NonNegativeInt = 0,
    dropout: Dropout = 0.0,
    noise: NonNegativeFloat = 0.0,
    adaptation: Adaptation | None = None,
    logits: Logits | None = None,
    gradient_checkpointing: bool = False,
) -> DualEncoder:
    """Any vision backbone and any text encoder of the transformers library, with new projection heads.

    Args:
        vision: folder or hub id of the vision backbone (of a two-tower model, its vision tower is taken).
        text: folder or hub id of the text encoder.
        vision_revision: commit, tag or branch of the hub.
        text_revision: the same for the text encoder.
        embedding_dim: E, size of the shared space.
        image_size: side length in pixels; None is what the backbone's image processor says.
        max_text_length: L, tokens that every text is padded or cut to.
        vision_pooling: ``cls``: the first token; ``mean``: mean over all positions; ``pooler``: the model's own.
        text_pooling: the same over the tokens that are not padding; sentence encoders want ``mean``.
        image_hidden: units of a hidden layer in the image head; 0: a linear head, as the text's always is.
        dropout: of the heads' input and hidden units, while training.
        noise: standard deviation of Gaussian noise on the heads' standardized input, while training.
        adaptation: `Lora` (the default), `FullFineTune` or `Frozen`; the heads are trained in any case.
        logits: how logit scale and bias start and how far they go.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.

    Raises:
        UserError: a model cannot be had, or it is of a kind that LoRA does not know.
    """
    vision_path, text_path = resolve_path(vision), resolve_path(text)
    vision_model = _tower(load_weights(vision_path, vision_revision, unused=("pooler.",)), "vision_model")
    text_model = _tower(load_weights(text_path, text_revision, unused=("pooler.",)), "text_model")
    processor = load_image_processor(vision_path, vision_revision)
    if image_size is not None:
        _resize(processor, image_size)
    longest = getattr(text_model.config, "max_position_embeddings", max_text_length)
    if max_text_length > longest:
        raise UserError(f"model.max_text_length={max_text_length}: {text} takes {longest} tokens at most")
    revisions = " + ".join(revision or "main" for revision in (vision_revision, text_revision))
    return DualEncoder(
        vision_model,
        text_model,
        name=f"{vision} + {text}",
        revision=revisions if vision_revision or text_revision else None,
        tokenizer=load_tokenizer(text_path, text_revision),
        image_processor=processor,
        image_spec=ImageSpec(_side(processor), tuple(processor.image_mean), tuple(processor.image_std)),
        embedding_dim=embedding_dim,
        max_text_length=max_text_length,
        vision_pooling=vision_pooling,
        text_pooling=text_pooling,
        image_hidden=image_hidden,
        dropout=dropout,
        noise=noise,
        adaptation=adaptation or Lora(),
        logits=logits or Logits(),
        gradient_checkpointing=gradient_checkpointing,
    )


def _joint(
    families: dict[str, type[Model]],
    path: str,
    revision: str | None,
    adaptation: Adaptation | None,
    logits: Logits | None,
    gradient_checkpointing: bool,
) -> Model:
    folder = resolve_path(path)
    config = load_config(folder, revision)
    family = families.get(config.model_type)
    if family is None:
        hint = _HINTS.get(config.model_type, "model=dual_encoder")
        raise UserError(f"{path} is a {config.model_type!r} model, not {' or '.join(families)}: use {hint}")
    return family(
        load_weights(folder, revision),
        name=path,
        revision=revision,
        tokenizer=load_tokenizer(folder, revision, mask=family.text_mask),
        image_processor=load_image_processor(folder, revision),
        adaptation=adaptation or Lora(),
        logits=logits or Logits(),
        gradient_checkpointing=gradient_checkpointing,
    )


def _tower(model: PreTrainedModel, name: str) -> PreTrainedModel:
    tower = getattr(model, name, None)
    return tower if isinstance(tower, PreTrainedModel) else model


def _side(processor: Any) -> int:
    """Side length of the square that an image processor makes."""
    cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = dict(processor.crop_size if cropped else processor.size)
    return int(size.get("height") or size["shortest_edge"])


def _resize(processor: Any, side: int) -> None:
    """Makes an image processor give another side length."""
    processor.size = {"height": side, "width": side}
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = {"height": side, "width": side}
