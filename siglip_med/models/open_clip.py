"""Models as open_clip keeps them, read into the layers of the transformers library and written back.

CLIP with ViT towers is the same arithmetic in both libraries under other names: open_clip holds query, key and value in
one matrix, and its projections transposed. So such a folder (the ViT of DermLIP, most of LAION's models) becomes a
`ClipTwoTower`, with its adapters, kept states and exports, and open_clip itself is not needed.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from siglip_med.errors import UserError
from siglip_med.files import write_json
from siglip_med.image_spec import ImageSpec
from siglip_med.models.hub import explained, load_image_processor, resolve_path

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"

_PLAIN = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_KNOWN = {
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"},
}
"""What of a config is read; whatever else is set makes another model."""
_HARMLESS = {
    "tokenizer_kwargs",
    "tokenizer_mode",
    "patch_dropout",
    "output_tokens",
    "timm_model_pretrained",
    "hf_model_pretrained",
}
"""Settings that change nothing where the towers are CLIP's: of other libraries' tokenizers, or of training."""


def find_folder(path: str, revision: str | None) -> Path:
    """The folder of a model, downloaded if it is an id of the hub.

    Raises:
        UserError: there is no such model, or it lacks its config or its weights.
    """
    folder = Path(resolve_path(path, CONFIG_FILE))
    if not folder.is_dir():
        with explained(path, revision):
            folder = Path(snapshot_download(path, revision=revision, allow_patterns=["*.json", "*.txt", WEIGHTS_FILE]))
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(
            f"{path}: holds no {WEIGHTS_FILE} (weights in another format are not read: they could run code)"
        )
    return folder


def read_model(folder: Path, name: str) -> tuple[CLIPModel, Any]:
    """The model in float32, and an image processor that does as its ``preprocess_cfg`` says.

    Args:
        folder: from `find_folder`.
        name: of the model, for messages.

    Raises:
        UserError: it is no CLIP with ViT towers, or its weights are not what its config says.
    """
    try:
        content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config, preprocess = _config(content["model_cfg"], name), content.get("preprocess_cfg") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG_FILE} is damaged or was written by something else: {error!r}") from error
    with explained(name, None):
        theirs = {key: value.float() for key, value in load_file(folder / WEIGHTS_FILE).items()}
    bias = theirs.pop("logit_bias", None)
    model = CLIPModel(config)
    state, left = to_transformers(theirs, config)
    expected = {key: value for key, value in model.state_dict().items() if not key.endswith("position_ids")}
    wrong = sorted({*left, *(expected.keys() ^ state.keys())})
    wrong = wrong or [key for key, value in expected.items() if value.shape != state[key].shape]
    if wrong:
        names = ", ".join(wrong[:3])
        raise UserError(f"the weights of {name} do not fit its {CONFIG_FILE}: {len(wrong)} differ ({names})")
    model.load_state_dict(state, strict=False)
    if bias is not None:
        model.register_parameter("logit_bias", torch.nn.Parameter(bias.reshape(())))
    return model.eval(), _processor(preprocess, content["model_cfg"]["vision_cfg"].get("image_size", 224))


def _config(found: Mapping[str, Any], name: str) -> CLIPConfig:
    vision, text = found["vision_cfg"], found["text_cfg"]
    for part, settings in (("vision_cfg", vision), ("text_cfg", text)):
        strange = [
            key for key, value in settings.items() if key not in _KNOWN[part] | _HARMLESS and value not in (None, False)
        ]
        if strange:
            what = f"{part}.{strange[0]}={settings[strange[0]]}"
            raise UserError(
                f"{name}: its {what} makes it another model than CLIP with ViT towers, the only one that is read from "
                "open_clip's format; give its towers in the format of the transformers library to model=dual_encoder"
            )
    act = "quick_gelu" if found.get("quick_gelu") else "gelu"
    heads = vision["width"] // vision.get("head_width", 64)
    shared = {"projection_dim": found["embed_dim"], "hidden_act": act, "layer_norm_eps": 1e-5}
    return CLIPConfig(
        projection_dim=found["embed_dim"],
        vision_config=shared
        | {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": heads,
        },
        text_config=shared
        | {
            "vocab_size": text.get("vocab_size", 49408),
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            # The end of a text is the tokenizer's last entry, as open_clip finds it: by the largest token.
            "bos_token_id": text.get("vocab_size", 49408) - 2,
            "eos_token_id": text.get("vocab_size", 49408) - 1,
            "pad_token_id": 0,
        },
    )


def _processor(preprocess: Mapping[str, Any], side: int) -> Any:
    """The library's image processor for such images; which class that is depends on what else is installed."""
    size = {"height": side, "width": side}
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": size,
        "crop_size": size,
        "do_center_crop": False,
        "image_mean": preprocess.get("mean", [0.48145466, 0.4578275, 0.40821073]),
        "image_std": preprocess.get("std", [0.26862954, 0.26130258, 0.27577711]),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "preprocessor_config.json", settings)
        return load_image_processor(folder, None)


def _names(config: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """open_clip's name of every weight, and its name here; three where open_clip holds them in one matrix."""
    yield from ((theirs, (ours,)) for theirs, ours in (_PLAIN | _TRANSPOSED).items())
    towers = {
        "visual.transformer": ("vision_model", config.vision_config),
        "transformer": ("text_model", config.text_config),
    }
    for theirs, (ours, tower) in towers.items():
        for number in range(tower.num_hidden_layers):
            there, here = f"{theirs}.resblocks.{number}", f"{ours}.encoder.layers.{number}"
            for kind in ("weight", "bias"):
                yield f"{there}.attn.in_proj_{kind}", tuple(f"{here}.self_attn.{one}_proj.{kind}" for one in "qkv")
                yield from ((f"{there}.{old}.{kind}", (f"{here}.{new}.{kind}",)) for old, new in _IN_BLOCK.items())


def to_transformers(theirs: Mapping[str, Tensor], config: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the names of `transformers.CLIPModel`, and the names that have no place there.

    Args:
        theirs: ``state_dict`` of an open_clip ``CLIP`` or ``CustomTextCLIP``, but for the bias of the logits.
        config: a `transformers.CLIPConfig`.
    """
    # CustomTextCLIP keeps the text tower in a module of its own; attn_mask is a buffer that follows from the length.
    left = {name.removeprefix("text."): value for name, value in theirs.items() if not name.endswith("attn_mask")}
    state: dict[str, Tensor] = {}
    for old, new in _names(config):
        if old in left:
            value = left.pop(old).T if old in _TRANSPOSED else left.pop(old)
            parts = value.chunk(len(new)) if len(new) > 1 else (value,)
            state |= {name: part.contiguous() for name, part in zip(new, parts, strict=True)}
    return state, sorted(left)


def from_transformers(ours: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """The inverse of `to_transformers`.

    Args:
        ours: ``state_dict`` of a `transformers.CLIPModel`.
        config: its configuration.
    """
    state = {}
    for old, new in _names(config):
        value = torch.cat([ours[name] for name in new]) if len(new) > 1 else ours[new[0]]
        state[old] = value.T.contiguous() if old in _TRANSPOSED else value
    return state


def config_of(config: Any, spec: ImageSpec, logit_bias: float) -> dict[str, Any]:
    """What ``open_clip_config.json`` says of a CLIP model.

    Args:
        config: a `transformers.CLIPConfig`.
        spec: of its images.
        logit_bias: without one in the config, open_clip's model would have none.
    """
    vision, text = config.vision_config, config.text_config
    return {
        "model_cfg": {
            "embed_dim": config.projection_dim,
            "quick_gelu": vision.hidden_act == "quick_gelu",
            "init_logit_bias": logit_bias,
            "vision_cfg": {
                "image_size": vision.image_size,
                "layers": vision.num_hidden_layers,
                "width": vision.hidden_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
                "patch_size": vision.patch_size,
                "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "width": text.hidden_size,
                "heads": text.num_attention_heads,
                "layers": text.num_hidden_layers,
                "mlp_ratio": text.intermediate_size / text.hidden_size,
            },
        },
        "preprocess_cfg": {
            "mean": list(spec.mean),
            "std": list(spec.std),
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
