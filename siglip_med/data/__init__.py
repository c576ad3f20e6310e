"""From image files and label tables to batches; see docs/images.md."""

from siglip_med.data.batch import Batch
from siglip_med.data.datamodule import DataModule
from siglip_med.data.table import ImageTable

__all__ = ["Batch", "DataModule", "ImageTable"]
