"""How a model reads: what of its tokenizer, image processor and config changes an answer, and no weight shows."""

import hashlib
import json
from collections.abc import Sequence

from siglip_med.core.errors import UserError
from siglip_med.models.two_tower import TwoTower

_COMPUTED = ("num_attention_heads", "hidden_act", "layer_norm_eps", "patch_size")


def reading(model: TwoTower, prompts: Sequence[Sequence[str]]) -> str:
    """A checksum of the tokens of prompts, of how an image is normalized, and of what the towers compute."""
    texts = [text for some in prompts for text in some]
    tokens = model.tokenize(texts)["input_ids"].tolist() if texts else []
    configs = [getattr(tower, "config", None) for tower in model.towers().values()]
    computed = [str(getattr(config, name, None)) for config in configs for name in _COMPUTED]
    spec = model.image_spec
    content = json.dumps([tokens, computed, spec.size, list(spec.mean), list(spec.std)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_reading(model: TwoTower, prompts: Sequence[Sequence[str]], stored: str | None, source: str) -> None:
    """A UserError where the same weights would answer otherwise than a file says; an early version says nothing."""
    if stored is not None and stored != reading(model, prompts):
        raise UserError(
            f"{source} was made with another tokenizer, preprocessor_config.json or config.json than its base has now: "
            "restore the base's files"
        )
