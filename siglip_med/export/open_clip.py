"""A model in the format of open_clip."""

import json
from pathlib import Path
from typing import Any

from siglip_med.core.errors import UserError
from siglip_med.export.merge import merged_copy
from siglip_med.export.pretrained import save_weights
from siglip_med.models import ClipTwoTower, TwoTower, VitBertTwoTower
from siglip_med.models.open_clip import TRANSPOSED, clip_config, clip_names
from siglip_med.models.open_clip_folder import CONFIG_FILE, WEIGHTS_FILE
from siglip_med.models.open_clip_pair import TEXT_CONFIG_FILE, pair_config, pair_names
from siglip_med.models.renaming import renamed_back


def write_open_clip(model: TwoTower, folder: Path) -> None:
    """Writes config, weights and tokenizer as open_clip and ``model=open_clip`` read them, adapters merged in.

    The logit bias goes with them, as in open_clip's models that were trained with a sigmoid loss. Beside a BERT lies
    its config, so that ``model=open_clip`` needs nothing of the hub; open_clip asks the hub for it.

    Args:
        model: the trained model; it is not changed.
        folder: an existing folder.

    Raises:
        UserError: open_clip has no such model.
    """
    if not isinstance(model, ClipTwoTower | VitBertTwoTower):
        raise UserError("format=open_clip is for CLIP models (model=open_clip, clip_base, monet): use format=merged")
    merged = merged_copy(model)
    assert isinstance(merged, ClipTwoTower | VitBertTwoTower)
    pretrained: Any = merged.pretrained_with_logits()
    bias = merged.logit_bias.item()
    if isinstance(merged, VitBertTwoTower):
        weights = renamed_back(pretrained.state_dict(), pair_names(pretrained))
        config = pair_config(pretrained, merged.image_spec, bias)
        pretrained.config.text_config.to_json_file(folder / TEXT_CONFIG_FILE)
    else:
        weights = renamed_back(pretrained.state_dict(), clip_names(pretrained.config), TRANSPOSED)
        config = clip_config(pretrained.config, merged.image_spec, bias)
    save_weights(weights | {"logit_bias": merged.logit_bias.detach()}, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    merged.tokenizer.save_pretrained(folder)
