"""Which images are train, val and test: by case, stratified, folds, or as given; and a report on it."""

from siglip_med.data.splitting.split import (
    GivenSplitter,
    GroupStratifiedSplitter,
    KFoldSplitter,
    Split,
    Splitter,
    make_split,
)

__all__ = ["GivenSplitter", "GroupStratifiedSplitter", "KFoldSplitter", "Split", "Splitter", "make_split"]
