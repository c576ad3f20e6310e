"""Models as open_clip keeps them: CLIP with ViT towers, and a ViT of timm or PanDerm's beside a BERT.

CLIP with ViT towers is the same arithmetic in both libraries under other names: open_clip holds query, key and value in
one matrix, and its projections transposed. Pairs with a BERT become a `VitBertModel`.

DermLIP's config does not name its PanDerm tower. Its authors' code puts it into every model with ``PanDerm-base`` in
its name, and needs ``vision_cfg.pretrain_path`` for that, so this key is always there and nowhere else. Over PanDerm's
blocks lies one norm that is used on every token, and again on the mean over the patches; then a linear
head with a bias.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertConfig, CLIPConfig, CLIPModel

from siglip_med.core.errors import UserError
from siglip_med.models.conversion.timm import PLACELESS, check_sizes, named_sizes, vit_config, vit_names
from siglip_med.models.conversion.weights import (
    OPEN_CLIP_CONFIG,
    Converted,
    check,
    check_color,
    fill,
    log_unused,
    read_json,
    read_weights,
)
from siglip_med.models.hub import load_config, load_tokenizer
from siglip_med.models.pairs import VitBertConfig, VitBertModel

TEXT_CONFIG_FILE = "text_config.json"
"""BERT's own config.json under another name: with it, a folder needs nothing of the hub."""
PATH_KEY = "pretrain_path"
_COLORS = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
"""open_clip's defaults, in the order of `Converted`."""
_PANDERM_HEAD, _PANDERM_RATIO = 64, 4
"""Width of a head, and units of a perceptron over those of a token: no key says them, and every PanDerm has these."""

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


_CLIP = {
    "vision_cfg": {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}
_PAIR = {"timm_model_name", "image_size", "hf_model_name", "context_length"}
_PANDERM = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
"""What is read of a config; of PanDerm's, with the sizes of the base, which are open_clip's defaults."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "timm_pool": ("", "token"),
    "timm_proj": ("linear",),
    "hf_proj_type": ("mlp", "linear"),
    "hf_pooler_type": ("cls_last_hidden_state_pooler", "mean_pooler"),
}
_HARMLESS = {
    "timm_model_pretrained",
    "timm_drop",
    "timm_drop_path",
    "patch_dropout",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "output_tokens",
}
_TOKENIZING = {"tokenizer_kwargs", "tokenizer_mode"}
"""Settings of the start and the regularization of training; of open_clip's tokenizer, which CLIP's config may name."""
_OLD_KEYS = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
"""Keys of ``text_cfg`` in the first revisions of BiomedCLIP, and what open_clip calls them now."""


def read_open_clip(folder: Path) -> Converted:
    """The model of a folder in open_clip's format, with its tokenizer.

    Raises:
        UserError: a tower or a head is of a kind that is not converted, the weights are not what the config says, or
            the tokenizer is another model's.
    """
    path = folder / OPEN_CLIP_CONFIG
    content = read_json(path)
    config, images = content["model_cfg"], content.get("preprocess_cfg") or {}
    vision, text = config["vision_cfg"], config["text_cfg"]
    weights = {key: one for key, one in read_weights(folder).items() if not key.endswith(("attn_mask", "position_ids"))}
    settings = ["model=clip_base"]
    model: Any
    if text.get("hf_model_name") and (vision.get("timm_model_name") or PATH_KEY in vision):
        model = _pair(config["embed_dim"], vision, text, path, weights)
        names = pair_names(model)
    else:
        model = CLIPModel(_clip_config(config, path))
        names = clip_names(model.config)
        weights = {key.removeprefix("text."): one for key, one in weights.items()}  # CustomTextCLIP's text tower
        bias = weights.pop("logit_bias", None)  # has no place in a CLIPModel
        settings += [] if bias is None else [f"model.logits.bias={bias.item():.7g}"]
    fill(model, weights, names, path, transposed=TRANSPOSED, placeless=PLACELESS)
    log_unused(folder, "preprocess_cfg", images, {"interpolation": "bicubic", "resize_mode": "squash"})
    tokenizer = load_tokenizer(str(folder), None)
    _check_tokenizer(tokenizer, model, folder)
    mean, std = (check_color(images.get(key) or default, f"{path}: {key}") for key, default in _COLORS.items())
    return Converted(model.eval(), mean, std, "model.path", tuple(settings), tokenizer)


def _clip_config(config: Mapping[str, Any], path: Path) -> CLIPConfig:
    vision, text = (
        check(config[part], f"{path}: {part}", read | _HARMLESS | _TOKENIZING) for part, read in _CLIP.items()
    )
    shared = {"projection_dim": config["embed_dim"], "layer_norm_eps": 1e-5}
    shared |= {"hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu"}
    tokens = text.get("vocab_size", 49408)
    return CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config=shared
        | {
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
        },
        text_config=shared
        | {
            "vocab_size": tokens,
            "max_position_embeddings": text.get("context_length", 77),
            "hidden_size": text["width"],
            "intermediate_size": int(text["width"] * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["heads"],
            # The end of a text is the tokenizer's last entry, as open_clip finds it: by the largest token.
            "bos_token_id": tokens - 2,
            "eos_token_id": tokens - 1,
            "pad_token_id": 0,
        },
    )


def clip_names(config: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """open_clip's name of every weight, and its name in a `CLIPModel`; three where open_clip holds one matrix."""
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


def _pair(
    shared: int, vision_cfg: Mapping[str, Any], text_cfg: Mapping[str, Any], path: Path, weights: Mapping[str, Tensor]
) -> VitBertModel:
    """A ViT beside a BERT, with drawn weights."""
    text = check(
        {_OLD_KEYS.get(key, key): one for key, one in text_cfg.items()}, f"{path}: text_cfg", _PAIR | _HARMLESS, _ONLY
    )
    bert, length = _bert_config(path.parent, text["hf_model_name"]), text.get("context_length", 77)
    if not 0 < length <= bert.max_position_embeddings:
        longest = bert.max_position_embeddings
        raise UserError(f"{path}: text_cfg.context_length={length}: its BERT takes 1 to {longest} tokens")
    panderm = not vision_cfg.get("timm_model_name")
    tower = f"{_starts(panderm)[0]}."
    own = {key.removeprefix(tower): one for key, one in weights.items() if key.startswith(tower)}
    where = f"{path}: vision_cfg"
    if panderm:
        given = check(vision_cfg, where, {*_PANDERM, PATH_KEY})
        sizes = _PANDERM | given
        said = {"embed_dim": sizes["width"], "depth": sizes["layers"], "patch_size": sizes["patch_size"]}
        said |= {"num_heads": sizes["width"] // _PANDERM_HEAD, "mlp_ratio": _PANDERM_RATIO, "layer_scale": True}
    else:
        given = check({"timm_pool": "avg"} | dict(vision_cfg), where, _PAIR | _HARMLESS, _ONLY)
        said = dict(named_sizes(given["timm_model_name"], f"{where}.timm_model_name"))
    vision = vit_config(own, said["num_heads"])
    check_sizes(vision, said | {"img_size": given.get("image_size", 224), "mean": False}, where)
    return VitBertModel(
        VitBertConfig(
            vision_config=vision,
            text_config=bert,
            projection_dim=shared,
            vision_pooling="patches" if panderm else "cls",
            vision_bias=panderm,
            text_pooling="mean" if text.get("hf_pooler_type", "mean_pooler") == "mean_pooler" else "cls",
            text_hidden=(bert.hidden_size + shared) // 2 if text.get("hf_proj_type", "mlp") == "mlp" else 0,
            context_length=length,
        )
    )


def _starts(panderm: bool) -> tuple[str, str]:
    """What stands before the names of the weights of the vision tower, and of its head."""
    return ("visual", "visual.head") if panderm else ("visual.trunk", "visual.head.proj")


def pair_names(model: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """open_clip's name of every weight that such a pair may have, and its names in a `VitBertModel`."""
    tower, head = _starts(model.config.vision_bias)
    for old, new in vit_names(model.config.vision_config.num_hidden_layers):
        yield f"{tower}.{old}", tuple(f"vision_model.{name}" for name in new)
    for part, theirs in (
        ("visual_projection", head),
        ("text_projection", "text.proj"),
        ("text_model", "text.transformer"),
    ):
        for name, _ in model.get_submodule(part).named_parameters():
            yield f"{theirs}.{name}", (f"{part}.{name}",)
    yield from ((name, (name,)) for name in ("logit_scale", "logit_bias"))


def _bert_config(folder: Path, model: str) -> BertConfig:
    beside = folder / TEXT_CONFIG_FILE
    try:
        config = load_config(str(beside) if beside.is_file() else model, None)
    except UserError as error:
        raise UserError(
            f"{folder}: the settings of its text tower {model} cannot be had ({error}); put that model's config.json "
            f"into the folder as {TEXT_CONFIG_FILE}"
        ) from error
    if not isinstance(config, BertConfig):
        raise UserError(f"{folder}: its text tower {model} is a {config.model_type!r} model; only BERT is converted")
    return config


def _check_tokenizer(tokenizer: Any, model: Any, folder: Path) -> None:
    """A tokenizer of another model would give wrong texts, and no error."""
    text = model.config.text_config
    if isinstance(model, CLIPModel):
        fits = tokenizer.eos_token_id == text.eos_token_id
        why = f"ends texts with token {tokenizer.eos_token_id}, its text tower reads them at token {text.eos_token_id}"
    else:
        fits = tokenizer.pad_token_id == text.pad_token_id and len(tokenizer) <= text.vocab_size
        why = (
            f"has {len(tokenizer)} tokens and pads with {tokenizer.pad_token_id}, its text tower knows "
            f"{text.vocab_size} and expects {text.pad_token_id}"
        )
    if not fits:
        raise UserError(f"{folder}: its tokenizer {why}: put the files of the text tower's own tokenizer into it")
