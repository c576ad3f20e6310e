"""A CLIP model in the format of open_clip."""

import json
from pathlib import Path

from siglip_med.errors import UserError
from siglip_med.export.merge import merged_copy
from siglip_med.export.pretrained import save_weights
from siglip_med.models import ClipTwoTower, TwoTower
from siglip_med.models.open_clip import CONFIG_FILE, WEIGHTS_FILE, config_of, from_transformers


def write_open_clip(model: TwoTower, folder: Path) -> None:
    """Writes config, weights and tokenizer as open_clip and ``model=open_clip`` read them, adapters merged in.

    The logit bias goes with them, as in open_clip's models that were trained with a sigmoid loss.

    Args:
        model: the trained model; it is not changed.
        folder: an existing folder.

    Raises:
        UserError: the model is no CLIP.
    """
    if not isinstance(model, ClipTwoTower):
        raise UserError("format=open_clip is for CLIP models (model=open_clip, clip_base, monet): use format=merged")
    merged = merged_copy(model)
    assert isinstance(merged, ClipTwoTower)
    pretrained = merged.pretrained_with_logits()
    weights = from_transformers(pretrained.state_dict(), pretrained.config)
    weights["logit_bias"] = merged.logit_bias.detach()
    save_weights(weights, folder / WEIGHTS_FILE)
    config = config_of(pretrained.config, merged.image_spec, merged.logit_bias.item())
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    merged.tokenizer.save_pretrained(folder)
