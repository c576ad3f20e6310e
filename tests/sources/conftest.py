"""The same photographs as tars, as parquet, and as files with a CSV."""

import pytest

from siglip_med.sources import CsvSource
from tests.sources.streams import CONDITIONS, COUNT, Photograph, drawing, encoded, parts, write_tar


@pytest.fixture(scope="module")
def photographs() -> list[Photograph]:
    found = []
    for number in range(COUNT):
        suffix = "png" if number % 3 == 2 else "jpg"
        data = encoded(drawing(number), suffix)
        condition = CONDITIONS[number % 3]
        found.append(Photograph(f"{number:04d}.{suffix}", data, condition, f"P{number // 2}", 20 + number))
    return found


@pytest.fixture(scope="module")
def tars(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for number, part in enumerate(parts(photographs)):
        write_tar(folder / f"train-{number:03d}.tar", part)
    return folder


@pytest.fixture(scope="module")
def parquet(photographs, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("parquet")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(CONDITIONS)),
            "patient": datasets.Value("string"),
            "about": {"age": datasets.Value("int64")},
        }
    )
    for number, part in enumerate(parts(photographs)):
        rows = {
            "image": [{"bytes": item.data, "path": item.name} for item in part],
            "label": [CONDITIONS.index(item.condition) for item in part],
            "patient": [item.patient for item in part],
            "about": [{"age": item.age} for item in part],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"train-{number:03d}.parquet"))
    return folder


@pytest.fixture(scope="module")
def plain(photographs, tmp_path_factory) -> CsvSource:
    """The same photographs as files and a CSV."""
    root = tmp_path_factory.mktemp("plain")
    lines = ["image,condition,patient,age"]
    for item in photographs:
        (root / item.name).write_bytes(item.data)
        lines.append(f"{item.name},{item.condition},{item.patient},{item.age}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return CsvSource(root=str(root), group_column="patient", age_column="age")
