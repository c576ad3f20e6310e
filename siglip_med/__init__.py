"""siglip-med: fine-tune SigLIP with LoRA on long-tailed, multi-label dermatology photographs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siglip_med.conditions import dissimilarity, load_conditions
    from siglip_med.errors import UserError
    from siglip_med.inference import Classifier, load
    from siglip_med.metrics import Predictions, headline_metrics

__version__ = "0.1.0"

__all__ = [
    "Classifier",
    "Predictions",
    "UserError",
    "__version__",
    "dissimilarity",
    "headline_metrics",
    "load",
    "load_conditions",
]

_HOMES = {
    "Classifier": "siglip_med.inference",
    "Predictions": "siglip_med.metrics",
    "UserError": "siglip_med.errors",
    "dissimilarity": "siglip_med.conditions",
    "headline_metrics": "siglip_med.metrics",
    "load": "siglip_med.inference",
    "load_conditions": "siglip_med.conditions",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for: torch and its friends take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
