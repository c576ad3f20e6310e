"""The drawings as a source: pictures and a label table on disk, made once."""

import csv
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import cv2
import numpy as np
from filelock import FileLock
from pydantic import Field, NonNegativeInt
from rich.progress import Progress

from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.data.table import ImageTable, TableRow, build_table
from siglip_med.synthetic.cases import MIN_CASES, plan_cases
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import Appearance, draw_appearance, render

LABELS = "labels.csv"
_COLUMNS = ("image", "case", "condition", "weight", "description", "skin_tone", "sex", "age_group", "site")
_SEPARATOR = "|"


@dataclass(frozen=True)
class DrawnCase:
    """One case ready to be rendered: its look, how many pictures, and its row of the table."""

    appearance: Appearance
    views: int
    columns: dict[str, str]


@dataclass(frozen=True)
class SyntheticSource:
    """Drawings of the 66 SCIN conditions: long tail, differentials and co-listing as SCIN's; see docs/synthetic.md.

    They are drawn on first use and kept on disk. The folder's name holds a digest of the settings and of the renderer's
    own files, so neither another setting nor another version of the drawings ever meets old pictures.

    Args:
        root: folder for rendered data sets; safe to delete.
        n_images: number of pictures, at least 198 (three cases per condition).
        seed: same seed, same pictures, to the bit on one machine.
        size: side in pixels.
        thumbnails: whether a run keeps small copies of the pictures, and pages show them; they show nobody.

    Raises:
        UserError: fewer pictures than that.
    """

    root: str
    n_images: Annotated[int, Field(gt=0, le=10_000_000)] = 3200
    seed: NonNegativeInt = 0
    size: Annotated[int, Field(ge=16, le=512)] = 64
    thumbnails: bool = True

    name: ClassVar[str] = "synthetic"
    writes: ClassVar[bool] = True
    """Whether `prepare` fills the root itself, as a cache."""
    provenance: ClassVar[Provenance] = Provenance("drawings", "siglip-med's synthetic drawings", "that of siglip-med")

    def __post_init__(self) -> None:
        least = MIN_CASES * len(self.conditions())
        if self.n_images < least:
            raise UserError(
                f"data.source.n_images={self.n_images} is too few: the rarest conditions need three cases each; "
                f"give at least {least}"
            )

    def conditions(self) -> tuple[str, ...]:
        """The 66 names, in the order of the label columns."""
        return tuple(recipe.condition for recipe in load_recipes())

    def draw_cases(self) -> Iterator[DrawnCase]:
        """The cases of the data set, in order; deterministic."""
        for case in plan_cases(load_recipes(), self.n_images, self.seed):
            rng = np.random.default_rng([self.seed, 1, case.number])
            columns = {
                "case": f"case-{case.number:05d}",
                "condition": _SEPARATOR.join(case.weights),
                "weight": _SEPARATOR.join(map(str, case.weights.values())),
                "skin_tone": case.skin_tone,
                "sex": case.sex,
                "age_group": case.age_group,
                "site": case.site,
            }
            yield DrawnCase(draw_appearance(rng, case.layers, case.tone, case.site), case.views, columns)

    @property
    def folder(self) -> Path:
        """Folder of this data set."""
        drawn = {name: value for name, value in asdict(self).items() if name not in ("root", "thumbnails")}
        digest = hashlib.sha256(repr(sorted(drawn.items())).encode())
        for file in sorted(Path(__file__).parent.iterdir()):
            if file.suffix in (".py", ".csv"):
                digest.update(file.read_bytes())
        return Path(self.root).expanduser() / f"{self.name}-{self.size}px-{self.n_images}-{digest.hexdigest()[:12]}"

    def prepare(self) -> None:
        """Render the pictures unless they are there: one process at a time, which removes what a killed one left.

        Raises:
            UserError: the folder cannot be written.
        """
        folder = self.folder
        if folder.is_dir():
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / ".lock"):
                if folder.is_dir():  # another process was faster
                    return
                partial = folder.parent / ".partial"
                shutil.rmtree(partial, ignore_errors=True)  # of a killed run
                partial.mkdir()
                self._render_into(partial)
                partial.rename(folder)
        except OSError as error:
            raise UserError(f"cannot write pictures into {folder.parent}: {error.strerror or error}") from error

    def _render_into(self, folder: Path) -> None:
        title = f"Rendering {self.n_images:,} {self.name} pictures"
        with (folder / LABELS).open("w", newline="", encoding="utf-8") as handle, Progress(transient=True) as progress:
            writer = csv.DictWriter(handle, _COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            views = ((drawn, view) for drawn in self.draw_cases() for view in range(drawn.views))
            for number, (drawn, view) in enumerate(progress.track(views, self.n_images, description=title)):
                rng = np.random.default_rng([self.seed, 2, number])
                name = f"images/{number:06d}_{view}.jpg"
                _write_jpeg(folder / name, render(drawn.appearance, self.size, rng))
                writer.writerow({"image": name, **drawn.columns})

    def load(self) -> ImageTable:
        """Read the label table; a UserError where the pictures were not rendered, or the table was damaged."""
        path = self.folder / LABELS
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; render the pictures first (prepare), or delete the folder if it exists"
            )
        with path.open(newline="", encoding="utf-8") as handle:
            records = list(csv.DictReader(handle))
        if len(records) != self.n_images or set(records[0]) != set(_COLUMNS):
            raise UserError(f"{path}: was changed after rendering; delete {self.folder} and run again")
        rows = []
        for number, record in enumerate(records, start=1):
            weights = (float(weight) for weight in record.pop("weight").split(_SEPARATOR))
            names = record.pop("condition").split(_SEPARATOR)
            rows.append(
                TableRow(
                    weights=dict(zip(names, weights, strict=True)),
                    source_row=number,
                    image_id=Path(record["image"]).stem,
                    **record,
                )
            )
        table = build_table(rows, root=self.folder, source=str(path), conditions=self.conditions())
        return replace(table, provenance=self.provenance, thumbnails=self.thumbnails)


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    encoded, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    if not encoded:
        raise OSError(f"could not encode {path.name}")
    path.write_bytes(data.tobytes())
