"""A trained model at work: whole splits become predictions, photographs become differentials."""

from siglip_med.inference.photographs import (
    Candidate,
    Classifier,
    Differential,
    PredictionRun,
    find_images,
    load,
)
from siglip_med.inference.splits import predict_split

__all__ = ["Candidate", "Classifier", "Differential", "PredictionRun", "find_images", "load", "predict_split"]
