"""A CLIP model in the format of open_clip."""

from pathlib import Path
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.core.files import write_json
from siglip_med.export.pretrained import merged_copy, save_weights
from siglip_med.models import ClipTwoTower, TwoTower
from siglip_med.models.conversion.open_clip import TRANSPOSED, clip_names
from siglip_med.models.conversion.weights import OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, renamed_back


def write_open_clip(model: TwoTower, folder: Path) -> None:
    """Writes config, weights and tokenizer as open_clip reads them, adapters merged in.

    The logit bias is saved with them, as in open_clip's models that were trained with a sigmoid loss. A UserError where
    open_clip has no such model; the model given is not changed.
    """
    if not isinstance(model, ClipTwoTower):
        raise UserError("format=open_clip is for CLIP models (model=clip_base, monet): use format=merged")
    merged = merged_copy(model)
    assert isinstance(merged, ClipTwoTower)
    pretrained: Any = merged.pretrained_with_logits()
    weights = renamed_back(pretrained.state_dict(), clip_names(pretrained.config), TRANSPOSED)
    save_weights(weights | {"logit_bias": merged.logit_bias}, folder / OPEN_CLIP_WEIGHTS)
    write_json(folder / OPEN_CLIP_CONFIG, _config(pretrained.config, merged))
    merged.tokenizer.save_pretrained(folder)


def _config(config: Any, model: ClipTwoTower) -> dict[str, Any]:
    """``open_clip_config.json`` of a CLIP model; without ``init_logit_bias``, open_clip's model would have no bias."""
    vision, text, spec = config.vision_config, config.text_config, model.image_spec
    return {
        "model_cfg": {
            "embed_dim": config.projection_dim,
            "quick_gelu": vision.hidden_act == "quick_gelu",
            "init_logit_bias": model.logit_bias.item(),
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
