"""siglip-med: fine-tune SigLIP with LoRA on long-tailed, multi-label dermatology photographs."""

from typing import TYPE_CHECKING

from siglip_med.core.lazy import lazy_names

if TYPE_CHECKING:
    from siglip_med.conditions import dissimilarity, load_conditions
    from siglip_med.core.errors import UserError
    from siglip_med.inference import Classifier, load
    from siglip_med.metrics import Predictions, headline_metrics
    from siglip_med.runs.ensembles import load_ensemble

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
    "load_ensemble",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Classifier": "siglip_med.inference",
        "Predictions": "siglip_med.metrics",
        "UserError": "siglip_med.core.errors",
        "dissimilarity": "siglip_med.conditions",
        "headline_metrics": "siglip_med.metrics",
        "load": "siglip_med.inference",
        "load_conditions": "siglip_med.conditions",
        "load_ensemble": "siglip_med.runs.ensembles",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
