"""Conditions, their ICD-10-CM codes, how far apart they are, and the sentences that describe them.

Importing this package needs NumPy and the standard library only; the list of all ICD-10-CM codes is read when a code
that is not in the curated tables turns up.
"""

from siglip_med.conditions.condition import Condition, ConditionSet
from siglip_med.conditions.curated import VOCABULARIES, known_conditions
from siglip_med.conditions.geometry import GEOMETRIES, MEASURES, Geometry, Measure, dissimilarity
from siglip_med.conditions.load import load_conditions
from siglip_med.conditions.prompts import evaluation_prompts, training_prompts, wording_notes

__all__ = [
    "GEOMETRIES",
    "MEASURES",
    "VOCABULARIES",
    "Condition",
    "ConditionSet",
    "Geometry",
    "Measure",
    "dissimilarity",
    "evaluation_prompts",
    "known_conditions",
    "load_conditions",
    "training_prompts",
    "wording_notes",
]
