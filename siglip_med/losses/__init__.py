"""Loss terms, one file each, and the layered sum of them; all pure functions of a `PairBatch`."""

from siglip_med.losses.adjustment import adjusted_logits
from siglip_med.losses.distributed import gather_pair_batch
from siglip_med.losses.eye_sigmoid import EyeSigmoid, eye_sigmoid
from siglip_med.losses.hard_negatives import HardNegatives, hard_negatives
from siglip_med.losses.icd import IcdGeometric, icd_geometric
from siglip_med.losses.info_nce import InfoNCE, info_nce
from siglip_med.losses.layered import LayeredLoss, LossOutput, Term, WeightedTerm
from siglip_med.losses.pair_batch import PairBatch
from siglip_med.losses.sigmoid import MultiPositiveSigmoid, multi_positive_sigmoid
from siglip_med.losses.soft_label_softmax import SoftLabelSoftmax, soft_label_softmax
from siglip_med.losses.tree_softmax import TreeSoftmax, tree_softmax
from siglip_med.losses.wasserstein import Wasserstein, wasserstein

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
    "eye_sigmoid",
    "gather_pair_batch",
    "hard_negatives",
    "icd_geometric",
    "info_nce",
    "multi_positive_sigmoid",
    "soft_label_softmax",
    "tree_softmax",
    "wasserstein",
]
