"""From files on disk to batches: source, table, split, sampling, augmentation, batch."""

from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.data.labeled import LabeledData
from siglip_med.data.table import ImageTable

__all__ = ["Batch", "DataModule", "ImageTable", "LabeledData"]
