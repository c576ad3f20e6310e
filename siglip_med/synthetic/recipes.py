"""The project's own tables: how each condition looks, how often it is seen, and which conditions occur with it."""

import csv
from dataclasses import dataclass
from pathlib import Path

from siglip_med.core.errors import UserError
from siglip_med.synthetic import vocabulary as words
from siglip_med.synthetic.surfaces import SURFACE_PAINTERS
from siglip_med.synthetic.vocabulary import Layer


@dataclass(frozen=True)
class Recipe:
    """How one condition is drawn and how often.

    Attributes:
        condition: its name.
        images: SCIN's images with this primary condition; they set the long tail.
        cases: SCIN's cases with this primary condition.
        sites: body site -> weight.
        layers: kinds of lesion, drawn in this order.
        listed_with: other condition -> SCIN cases of this primary condition that have the other too.
    """

    condition: str
    images: int
    cases: int
    sites: dict[str, float]
    layers: tuple[Layer, ...]
    listed_with: dict[str, int]


def _rows(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _span(text: str) -> tuple[float, float]:
    low, high = text.split("-")
    return float(low), float(high)


def _layer(row: dict[str, str], number: int) -> Layer:
    known = {
        "lesion": (*words.HEIGHTS, *words.LINES),
        "arrangement": words.ARRANGEMENTS,
        "shape": words.SHAPES,
        "color": (*words.COLORS, *words.COVERS),
        "border": words.BORDERS,
        "surface": SURFACE_PAINTERS,
        "halo": ("", *words.COLORS),
    }
    for column, allowed in known.items():
        if row[column] not in allowed:
            raise UserError(
                f"recipes.csv, row {number}, column '{column}': '{row[column]}' is not one of {', '.join(allowed)}"
            )
    low, high = _span(row["count"])
    return Layer(
        lesion=row["lesion"], count=(int(low), int(high)), size=_span(row["size"]),
        arrangement=row["arrangement"], shape=row["shape"], color=row["color"], border=row["border"],
        surface=row["surface"], halo=row["halo"],
    )  # fmt: skip


def _sites(text: str) -> dict[str, float]:
    parts = text.split()
    return dict(zip(parts[::2], (float(weight) for weight in parts[1::2]), strict=True))


def load_recipes() -> tuple[Recipe, ...]:
    """Read the tables of this folder.

    Returns:
        one `Recipe` per condition, in the order of conditions.csv.

    Raises:
        UserError: a word that the renderer cannot draw, with its row and column.
    """
    layers: dict[str, list[Layer]] = {}
    for number, row in enumerate(_rows("recipes.csv"), start=1):
        layers.setdefault(row["condition"], []).append(_layer(row, number))
    listed: dict[str, dict[str, int]] = {}
    for row in _rows("colisting.csv"):
        listed.setdefault(row["condition"], {})[row["listed_with"]] = int(row["cases"])
    return tuple(
        Recipe(
            condition=row["condition"], images=int(row["images"]), cases=int(row["cases"]), sites=_sites(row["sites"]),
            layers=tuple(layers[row["condition"]]), listed_with=listed.get(row["condition"], {}),
        )
        for row in _rows("conditions.csv")
    )  # fmt: skip
