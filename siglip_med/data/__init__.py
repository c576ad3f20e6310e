"""From files on disk to batches: source, table, split, sampling, augmentation, batch."""

from typing import TYPE_CHECKING

from siglip_med.core.lazy import lazy_names

if TYPE_CHECKING:
    from siglip_med.data.batch import Batch
    from siglip_med.data.datamodule import DataModule
    from siglip_med.data.labeled import LabeledData
    from siglip_med.data.table import ImageTable

__all__ = ["Batch", "DataModule", "ImageTable", "LabeledData"]

# Whoever reads a table needs no torch, and whoever reads a photograph neither Lightning nor an augmentation library.
__getattr__ = lazy_names(
    __name__,
    {
        "Batch": "siglip_med.data.batch",
        "DataModule": "siglip_med.data.datamodule",
        "LabeledData": "siglip_med.data.labeled",
        "ImageTable": "siglip_med.data.table",
    },
)
