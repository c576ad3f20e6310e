"""Builds each family of models from a folder or hub id: what ``conf/model/*.yaml`` instantiates."""

import inspect
import logging
import typing
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from transformers import PreTrainedModel

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.models.dual import DualEncoder, DualEncoderSettings
from siglip_med.models.hub import load_config, load_image_processor, load_tokenizer, load_weights, resolve_path
from siglip_med.models.joint import (
    ClipTwoTower,
    JointSettings,
    JointTwoTower,
    NaflexTwoTower,
    Siglip2TwoTower,
    SiglipTwoTower,
    VitBertTwoTower,
)
from siglip_med.models.pairs import VitBertConfig

Model = TypeVar("Model")
Joint = TypeVar("Joint", bound=JointTwoTower)
Settings = TypeVar("Settings")
Fields = ParamSpec("Fields")

logger = logging.getLogger(__name__)

_HINTS = {"siglip": "model=siglip_base", "siglip2": "model=siglip2_base", "clip": "model=clip_base"}
_HINTS[VitBertConfig.model_type] = _HINTS["clip"]


def takes_fields_of(
    settings: Callable[Fields, Settings],
) -> Callable[[Callable[[Settings], Model]], Callable[Fields, Model]]:
    """Lets a function of a settings object be called with the fields of that dataclass, as config nodes do.

    So a setting has one name, type and default, written in the dataclass.
    """

    def decorate(build: Callable[[Settings], Model]) -> Callable[Fields, Model]:
        @wraps(build)
        def call(*args: Fields.args, **kwargs: Fields.kwargs) -> Model:
            return build(settings(*args, **kwargs))

        del call.__wrapped__  # its signature is not the one that callers see
        call.__annotations__ = typing.get_type_hints(settings, include_extras=True)
        call.__signature__ = inspect.signature(settings)  # type: ignore[attr-defined]
        return call

    return decorate


@takes_fields_of(JointSettings)
def siglip(settings: JointSettings) -> SiglipTwoTower:
    """SigLIP or MedSigLIP.

    Raises:
        UserError: the model is not available, or is of another family.
    """
    return _joint({"siglip": SiglipTwoTower}, settings)


@takes_fields_of(JointSettings)
def siglip2(settings: JointSettings) -> SiglipTwoTower:
    """SigLIP 2, at fixed resolution; a NaFlex model is fed with square images.

    The fixed-resolution checkpoints of the hub are SigLIP models with another tokenizer, and say so in their
    config.json.

    Raises:
        UserError: as `siglip`.
    """
    families: dict[str, type[SiglipTwoTower]] = {"siglip": Siglip2TwoTower, "siglip2": NaflexTwoTower}
    return _joint(families, settings)


@takes_fields_of(JointSettings)
def clip(settings: JointSettings) -> ClipTwoTower | VitBertTwoTower:
    """CLIP, which has no logit bias of its own: it starts at 0; or a converted pair of a ViT and a BERT.

    Raises:
        UserError: as `siglip`.
    """
    families: dict[str, type[ClipTwoTower | VitBertTwoTower]] = {"clip": ClipTwoTower}
    return _joint(families | {VitBertConfig.model_type: VitBertTwoTower}, settings)


@takes_fields_of(DualEncoderSettings)
def dual_encoder(settings: DualEncoderSettings) -> DualEncoder:
    """Any vision backbone and any text encoder of the transformers library, with new projection heads.

    A vision backbone whose last norm follows its mean over the patches (``use_mean_pooling``, timm's ``fc_norm``) has
    that norm in its pooler alone: any other ``vision_pooling`` skips it, which is logged.

    Raises:
        UserError: a model is not available, or it is of a kind that LoRA does not know.
    """
    vision_path, text_path = resolve_path(settings.vision), resolve_path(settings.text)
    vision = _tower(load_weights(vision_path, settings.vision_revision, unused=("pooler.",)), "vision_model")
    if getattr(vision.config, "use_mean_pooling", False) and settings.vision_pooling != "pooler":
        logger.warning(
            "model.vision_pooling=%s skips the last norm of %s, which follows its mean over the patches: "
            "model.vision_pooling=pooler pools as it was trained",
            settings.vision_pooling,
            settings.vision,
        )
    processor = load_image_processor(vision_path, settings.vision_revision)
    if settings.image_size is not None:
        processor.size = {"height": settings.image_size, "width": settings.image_size}
        if getattr(processor, "do_center_crop", False):
            processor.crop_size = processor.size
    text = _tower(load_weights(text_path, settings.text_revision, unused=("pooler.",)), "text_model")
    longest = getattr(text.config, "max_position_embeddings", settings.max_text_length)
    if settings.max_text_length > longest:
        raise UserError(
            f"model.max_text_length={settings.max_text_length}: {settings.text} takes {longest} tokens at most"
        )
    return DualEncoder(
        vision,
        text,
        settings,
        tokenizer=load_tokenizer(text_path, settings.text_revision),
        image_processor=processor,
        image_spec=ImageSpec(_side(processor), tuple(processor.image_mean), tuple(processor.image_std)),
    )


def _joint(families: dict[str, type[Joint]], settings: JointSettings) -> Joint:
    folder = resolve_path(settings.path)
    config = load_config(folder, settings.revision)
    family = families.get(config.model_type)
    if family is None:
        hint = _HINTS.get(config.model_type, "model=dual_encoder")
        raise UserError(f"{settings.path} is a {config.model_type!r} model, not {' or '.join(families)}: use {hint}")
    return family(
        load_weights(folder, settings.revision),
        settings,
        tokenizer=load_tokenizer(folder, settings.revision, mask=family.text_mask),
        image_processor=load_image_processor(folder, settings.revision),
    )


def _tower(model: PreTrainedModel, name: str) -> PreTrainedModel:
    tower = getattr(model, name, None)
    return tower if isinstance(tower, PreTrainedModel) else model


def _side(processor: Any) -> int:
    """Side length of the square that an image processor makes."""
    cropped = getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None)
    size = dict(processor.crop_size if cropped else processor.size)
    return int(size.get("height") or size["shortest_edge"])
