"""Photographs in shards, and the sources that stream them."""

import io
import json
import tarfile
from dataclasses import dataclass

import numpy as np
from PIL import Image

from siglip_med.sources import HuggingFaceSource
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import draw_appearance, render

CONDITIONS = ("Eczema", "Psoriasis", "Acne")
COUNT, SHARDS, SIDE = 66, 3, 48


@dataclass(frozen=True)
class Photograph:
    name: str
    data: bytes
    condition: str
    patient: str
    age: int


def drawing(number: int) -> np.ndarray:
    """A drawn lesion of 80 x 60 or 60 x 80 pixels, every eleventh smaller than the side that is asked for."""
    recipe = next(item for item in load_recipes() if item.condition == CONDITIONS[number % 3])
    rng = np.random.default_rng([5, number])
    picture = render(draw_appearance(rng, recipe.layers, 1 + number % 6, next(iter(recipe.sites))), 80, rng)
    picture = picture[10:70] if number % 2 else picture[:, 10:70]
    return picture[::2, ::2] if number % 11 == 10 else picture


def encoded(pixels: np.ndarray, suffix: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "JPEG", "png": "PNG"}[suffix], **settings)
    return file.getvalue()


def parts(photographs: list[Photograph]) -> list[list[Photograph]]:
    size = -(-len(photographs) // SHARDS)
    return [photographs[start : start + size] for start in range(0, len(photographs), size)]


def write_tar(path, photographs: list[Photograph]) -> None:
    with tarfile.open(path, "w") as file:
        for item in photographs:
            about = {"condition": item.condition, "patient": item.patient, "about": {"age": item.age}}
            if item.age % 5 == 0:
                about["note"] = "a key that the first samples do not have"
            stem = item.name.partition(".")[0]
            for name, data in ((item.name, item.data), (f"{stem}.json", json.dumps(about).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))


def from_tars(tars, root, **settings) -> HuggingFaceSource:
    columns = {"image_column": ["jpg", "png"], "condition_column": "json.condition", "group_column": "json.patient",
               "age_column": "json.about.age"}  # fmt: skip
    files = f"{tars}/train-{{000..{SHARDS - 1:03d}}}.tar"
    given = {"dataset": "webdataset", "data_files": files, "streaming": True, **columns}
    return HuggingFaceSource(root=str(root), **(given | settings))


def from_parquet(parquet, root, **settings) -> HuggingFaceSource:
    columns = {"group_column": "patient", "age_column": "about.age"}
    given = {"dataset": "parquet", "data_files": {"test": f"{parquet}/*.parquet"}, "streaming": True, **columns}
    return HuggingFaceSource(root=str(root), **(given | settings))


def files_of(root) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def loaded(source):
    source.prepare()
    return source.load()
