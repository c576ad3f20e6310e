"""Each source reads the files of its authors and hands on one checked `ImageTable`."""

from siglip_med.sources.base import FolderSource
from siglip_med.sources.csv_file import CsvSource
from siglip_med.sources.huggingface import HuggingFaceSource
from siglip_med.sources.image_folder import ImageFolderSource
from siglip_med.sources.mixture import MixtureSource
from siglip_med.sources.published import Fitzpatrick17kSource, Ham10000Source, Isic2019Source, PadUfes20Source
from siglip_med.sources.scin import ScinSource

__all__ = [
    "CsvSource",
    "Fitzpatrick17kSource",
    "FolderSource",
    "Ham10000Source",
    "HuggingFaceSource",
    "ImageFolderSource",
    "Isic2019Source",
    "MixtureSource",
    "PadUfes20Source",
    "ScinSource",
]
