"""Loss terms, one file each, and the layered sum of them; all pure functions of a `PairBatch`."""

from siglip_med.losses.adjustment import adjusted_logits
from siglip_med.losses.distributed import gather_pair_batch
from siglip_med.losses.eye_sigmoid import EyeSigmoid
from siglip_med.losses.hard_negatives import HardNegatives
from siglip_med.losses.icd import IcdGeometric
from siglip_med.losses.info_nce import InfoNCE
from siglip_med.losses.layered import LayeredLoss, LossOutput, Term, WeightedTerm
from siglip_med.losses.pair_batch import PairBatch
from siglip_med.losses.sigmoid import MultiPositiveSigmoid
from siglip_med.losses.soft_label_softmax import SoftLabelSoftmax
from siglip_med.losses.tree_softmax import TreeSoftmax
from siglip_med.losses.wasserstein import Wasserstein

__all__ = [
    "EyeSigmoid",
    "HardNegatives",
    "IcdGeometric",
    "InfoNCE",
    "LayeredLoss",
    "LossOutput",
    "MultiPositiveSigmoid",
    "PairBatch",
    "SoftLabelSoftmax",
    "Term",
    "TreeSoftmax",
    "Wasserstein",
    "WeightedTerm",
    "adjusted_logits",
    "gather_pair_batch",
]
