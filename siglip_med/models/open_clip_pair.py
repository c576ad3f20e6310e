"""A vision tower of another library beside a BERT as open_clip keeps them.

A plain ViT of timm (BiomedCLIP, Zhang et al. 2023, arXiv 2303.00915), or PanDerm's tower (DermLIP, Yan et al. 2025,
arXiv 2503.14911; see `siglip_med.models.open_clip_panderm`). Here both towers are of transformers, with open_clip's
heads between them, so neither timm nor open_clip is needed.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import (
    BeitModel,
    BertConfig,
    BertModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.models.hub import load_config
from siglip_med.models.open_clip_folder import damaged, fill, preprocess_of, read_processor, refuse_others
from siglip_med.models.open_clip_panderm import PATH_KEY, is_panderm, panderm_names, panderm_tower
from siglip_med.models.timm_vit import beit_config, vit_config, vit_names

TEXT_CONFIG_FILE = "text_config.json"
"""BERT's own config.json under another name: with it, a folder needs nothing of the hub."""

_PLAIN_BERT = {
    f"microsoft/BiomedNLP-{name}-base-uncased-{texts}"
    for name in ("BiomedBERT", "PubMedBERT")
    for texts in ("abstract", "abstract-fulltext")
} | {
    "bert-base-uncased",
    "google-bert/bert-base-uncased",
    "neuml/pubmedbert-base-embeddings",
    "NeuML/pubmedbert-base-embeddings",
}
"""Their configs are that of BERT base (Devlin et al. 2018, arXiv 1810.04805), transformers' default."""

_OLD_KEYS = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
"""Keys of ``text_cfg`` in the first revisions of BiomedCLIP, and what open_clip calls them now."""

_READ: dict[str, dict[str, tuple[Any, ...]]] = {
    "vision_cfg": {"timm_pool": ("", "token"), "timm_proj": ("linear",)},
    "text_cfg": {
        "hf_proj_type": ("mlp", "linear"),
        "hf_pooler_type": ("cls_last_hidden_state_pooler", "mean_pooler"),
    },
}
_DEFAULTS = {
    "timm_pool": "avg",
    "timm_proj": "linear",
    "hf_proj_type": "mlp",
    "hf_pooler_type": "mean_pooler",
    "image_size": 224,
    "context_length": 77,
}
"""open_clip's own."""
_KNOWN = {
    "vision_cfg": {*_READ["vision_cfg"], "timm_model_name", "image_size"},
    "text_cfg": {*_READ["text_cfg"], "hf_model_name", "hf_tokenizer_name", "context_length"},
}
_HARMLESS = {
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
    "patch_dropout",
    "hf_model_pretrained",
    "output_tokens",
}
"""Settings of the start and of the regularization of open_clip's own training."""


class VitBertModel(VisionTextDualEncoderModel):
    """transformers' pair of towers without their poolers, and the heads that open_clip's config asks for."""

    supports_gradient_checkpointing = True

    def __init__(self, config: Any) -> None:
        """Draws the weights.

        Args:
            config: a `VisionTextDualEncoderConfig`; its ``open_clip`` is the ``model_cfg`` that it was made from.
        """
        panderm = is_panderm(config.open_clip)
        vision = (BeitModel if panderm else ViTModel)(config.vision_config, add_pooling_layer=False)
        super().__init__(config, vision, BertModel(config.text_config, add_pooling_layer=False))
        if panderm:
            self.register_module("visual_projection", nn.Linear(vision.config.hidden_size, config.projection_dim))
        if setting(config.open_clip, "text_cfg", "hf_proj_type") == "mlp":
            width, shared = config.text_config.hidden_size, config.projection_dim
            hidden = (width + shared) // 2
            layers = (nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, shared, bias=False))
            self.register_module("text_projection", nn.Sequential(*layers))


def is_pair(model_cfg: Mapping[str, Any]) -> bool:
    """Whether both towers of a config come from other libraries."""
    vision = model_cfg["vision_cfg"].get("timm_model_name") or is_panderm(model_cfg)
    return bool(vision and model_cfg["text_cfg"].get("hf_model_name"))


def setting(model_cfg: Mapping[str, Any], part: str, key: str) -> Any:
    """A setting of a config, or open_clip's default of it."""
    value = model_cfg[part].get(key)
    return _DEFAULTS[key] if value is None else value


def read_pair(folder: Path, content: Mapping[str, Any], name: str) -> tuple[VitBertModel, Any]:
    """The model in float32, and an image processor that does as its ``preprocess_cfg`` says.

    Args:
        folder: from `find_folder`.
        content: from `read_config`.
        name: of the model, for messages.

    Raises:
        UserError: a tower or a head is of another kind, or the weights are not what the config says.
    """
    found = copy.deepcopy(content["model_cfg"])
    found["text_cfg"] = {_OLD_KEYS.get(key, key): value for key, value in found["text_cfg"].items()}
    if is_panderm(found):
        found["vision_cfg"][PATH_KEY] = None  # whoever's machine that was, the weights are in this folder
        vision: Any = beit_config(panderm_tower(found["vision_cfg"], name))
    else:
        vision = _timm_config(found, name)
    _check(found, "text_cfg", name)
    text = _bert_config(folder, found["text_cfg"]["hf_model_name"], name)
    length = setting(found, "text_cfg", "context_length")
    if not (isinstance(length, int) and 0 < length <= text.max_position_embeddings):
        raise UserError(
            f"{name}: text_cfg.context_length is {length}, but its BERT takes 1 to {text.max_position_embeddings} "
            "tokens"
        )
    try:
        shared = int(found["embed_dim"])
        towers: dict[str, Any] = {"vision_config": vision, "text_config": text, "open_clip": found}
        config = VisionTextDualEncoderConfig(projection_dim=shared, **towers)
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(folder, error) from error
    model: Any = VitBertModel(config)
    fill(model, folder, name, pair_names(model))
    return model.eval(), read_processor(content.get("preprocess_cfg"), vision.image_size, name)


def _check(found: Mapping[str, Any], part: str, name: str) -> None:
    refuse_others(name, part, found[part], _KNOWN[part], _HARMLESS)
    for key, read in _READ[part].items():
        value = setting(found, part, key)
        if value not in read:
            raise UserError(f"{name}: its {part}.{key} is {value!r}; read are {', '.join(map(repr, read))}")


def _timm_config(found: Mapping[str, Any], name: str) -> ViTConfig:
    _check(found, "vision_cfg", name)
    model, side = found["vision_cfg"]["timm_model_name"], setting(found, "vision_cfg", "image_size")
    vision = vit_config(model, name)
    if side != vision.image_size:
        raise UserError(
            f"{name}: vision_cfg.image_size is {side}, but {model} takes images of {vision.image_size} pixels"
        )
    return vision


def _bert_config(folder: Path, model: str, name: str) -> BertConfig:
    beside = folder / TEXT_CONFIG_FILE
    if not beside.is_file() and model in _PLAIN_BERT:
        return BertConfig()
    try:
        config = load_config(str(beside) if beside.is_file() else model, None)
    except UserError as error:
        raise UserError(
            f"{name}: the settings of its text tower {model} cannot be had ({error}); put that model's config.json "
            f"into the folder as {TEXT_CONFIG_FILE}"
        ) from error
    if not isinstance(config, BertConfig):
        raise UserError(f"{name}: its text tower {model} is a {config.model_type!r} model; only BERT is read there")
    return config


def pair_names(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """open_clip's name of every weight, and those of a `VitBertModel`; the texts' are BERT's own in both."""
    if is_panderm(model.config.open_clip):
        yield from panderm_names(panderm_tower(model.config.open_clip["vision_cfg"], "model"))
    else:
        for old, new in vit_names(model.config.vision_config.num_hidden_layers):
            yield f"visual.trunk.{old}", tuple(f"vision_model.{name}" for name in new)
        yield "visual.head.proj.weight", ("visual_projection.weight",)
    for name, _ in model.text_model.named_parameters():
        yield f"text.transformer.{name}", (f"text_model.{name}",)
    for name, _ in model.text_projection.named_parameters():
        yield f"text.proj.{name}", (f"text_projection.{name}",)
    yield "logit_scale", ("logit_scale",)


def pair_config(model: Any, spec: ImageSpec, logit_bias: float) -> dict[str, Any]:
    """What ``open_clip_config.json`` says of such a model: what it said of the base, and the bias.

    Args:
        model: a `VitBertModel`.
        spec: of its images.
        logit_bias: without one in the config, open_clip's model would have none.
    """
    return {
        "model_cfg": copy.deepcopy(dict(model.config.open_clip)) | {"init_logit_bias": logit_bias},
        "preprocess_cfg": preprocess_of(spec),
    }
