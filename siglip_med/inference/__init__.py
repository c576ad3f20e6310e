"""A trained model at work: whole splits become predictions, photographs become differentials."""

from typing import TYPE_CHECKING

from siglip_med.core.lazy import lazy_names
from siglip_med.inference.differentials import Candidate, Differential, PredictionRun
from siglip_med.inference.embedding import Embeddings
from siglip_med.inference.files import find_images
from siglip_med.inference.photographs import Classifier, load

if TYPE_CHECKING:
    from siglip_med.inference.maps import occlusion_map, relevance_map
    from siglip_med.inference.shifted_maps import shifted_relevance_map
    from siglip_med.inference.splits import predict_split

__all__ = [
    "Candidate",
    "Classifier",
    "Differential",
    "Embeddings",
    "PredictionRun",
    "find_images",
    "load",
    "occlusion_map",
    "predict_split",
    "relevance_map",
    "shifted_relevance_map",
]

__getattr__ = lazy_names(
    __name__,
    {
        "occlusion_map": "siglip_med.inference.maps",
        "predict_split": "siglip_med.inference.splits",
        "relevance_map": "siglip_med.inference.maps",
        "shifted_relevance_map": "siglip_med.inference.shifted_maps",
    },
)
