"""CLIP models as open_clip keeps them, read into the layers of the transformers library and written back.

CLIP with ViT towers is the same arithmetic in both libraries under other names: open_clip holds query, key and value in
one matrix, and its projections transposed. So such a folder (the ViT of DermLIP, most of LAION's models) becomes a
`ClipTwoTower`, with its adapters, kept states and exports, and open_clip itself is not needed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CLIPConfig, CLIPModel

from siglip_med.core.image_spec import ImageSpec
from siglip_med.models.open_clip_folder import damaged, fill, preprocess_of, read_processor, refuse_others

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
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
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


def read_clip(folder: Path, content: Mapping[str, Any], name: str) -> tuple[CLIPModel, Any]:
    """The model in float32, and an image processor that does as its ``preprocess_cfg`` says.

    Args:
        folder: from `find_folder`.
        content: from `read_config`.
        name: of the model, for messages.

    Raises:
        UserError: it is no CLIP with ViT towers, or its weights are not what its config says.
    """
    try:
        config = _config(content["model_cfg"], name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, error) from error
    vision: Any = config.vision_config
    model = CLIPModel(config)
    fill(model, folder, name, clip_names(config), TRANSPOSED, dropped="text.")  # CustomTextCLIP's text tower
    return model.eval(), read_processor(content.get("preprocess_cfg"), vision.image_size, name)


def _config(found: Mapping[str, Any], name: str) -> CLIPConfig:
    vision, text = found["vision_cfg"], found["text_cfg"]
    for part, settings in (("vision_cfg", vision), ("text_cfg", text)):
        refuse_others(name, part, settings, _KNOWN[part], _HARMLESS)
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


def clip_names(config: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """open_clip's name of every weight, and its name here; three where open_clip holds them in one matrix."""
    yield from ((theirs, (ours,)) for theirs, ours in (_PLAIN | TRANSPOSED).items())
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


def clip_config(config: Any, spec: ImageSpec, logit_bias: float) -> dict[str, Any]:
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
        "preprocess_cfg": preprocess_of(spec),
    }
