"""A model whose adapters have become part of its weights."""

import copy

from peft import PeftModel

from siglip_med.models import TwoTower


def merged_copy(model: TwoTower) -> TwoTower:
    """Returns a copy without adapters with the same embeddings; the model itself is unchanged."""
    merged = copy.deepcopy(model).eval()
    for name, backbone in merged.backbones.items():
        if isinstance(backbone, PeftModel):
            merged.backbones[name] = backbone.merge_and_unload()
    return merged
