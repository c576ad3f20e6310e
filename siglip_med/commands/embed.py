"""Embeds images and texts in a trained model's space: a file for search, clustering or a classifier of one's own."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt

from siglip_med.core.csv_reading import control_character
from siglip_med.core.errors import UserError
from siglip_med.core.extras import require
from siglip_med.core.outside import Console
from siglip_med.inference import Embeddings, find_images, load
from siglip_med.inference.embedding import NORMALIZATION, SUFFIXES
from siglip_med.models import Device


class Settings(BaseModel):
    """Top level of ``conf/embed.yaml``.

    Attributes:
        checkpoint: of a fine-tuning run, or the folder of an export with format=merged.
        images: files and folders, or None.
        texts: a file of UTF-8 with a text a line, or None.
        out: a new file, ``.npz`` or ``.parquet``.
        batch_size: images encoded at once.
        device: where the model runs.
        base: path of the base if it moved, as in `load_model`.
        trust: dotted names of code of one's own that the checkpoint may build, e.g. ``[my_towers.mine]``.
    """

    model_config = ConfigDict(extra="forbid")

    checkpoint: str
    images: str | list[str] | None
    texts: str | None
    out: str
    batch_size: PositiveInt
    device: Device
    base: str | dict[str, str] | None
    trust: list[str] = []


@dataclass(frozen=True)
class Result:
    """What was embedded, the file that holds it, and what of the texts has no row of its own."""

    embeddings: Embeddings
    path: Path
    notes: tuple[str, ...]


def run(settings: Settings) -> Result:
    """Embeds every image and text that is found, and writes the file.

    Raises:
        UserError: there is nothing to embed, no image can be read, the file is there already or of no known kind, or
            the checkpoint, its base or the device is not available.
    """
    path = Path(settings.out).expanduser()
    if path.suffix not in SUFFIXES:
        raise UserError(f"out={path}: its ending says how it is written; give one of {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        require("pyarrow", "out=….parquet", "parquet")
    if path.exists():
        raise UserError(f"out={path}: is there already; give another name, or remove it")
    images = find_images(settings.images or [])
    texts, notes = ([], ()) if settings.texts is None else read_texts(Path(settings.texts).expanduser())
    if not images and not texts:
        raise UserError("there is nothing to embed; give images=folder, texts=file.txt (a text a line), or both")
    model = load(settings.checkpoint, settings.base, settings.device, settings.trust)
    found = model.embed(images, texts, settings.batch_size)
    found.save(path)
    return Result(found, path, notes)


def read_texts(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """The lines of a file, each text once, and a sentence each on empty and repeated lines.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or a line holds a control character.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"texts={path}: cannot be read ({reason}); give a file of UTF-8 with a text a line") from error
    for number, line in enumerate(lines, start=1):
        if (odd := control_character(line)) is not None:
            raise UserError(f"texts={path}, line {number}: holds the control character {odd!r}; remove it")
    given = [line for line in lines if line]
    found = list(dict.fromkeys(given))
    empty, again = len(lines) - len(given) - (lines[-1] == ""), len(given) - len(found)
    said = [f"{empty:,} empty lines of {path} have no row"] * (empty > 0)
    said += [f"{again:,} lines of {path} are repeats of others and have no row of their own"] * (again > 0)
    return found, tuple(said)


def show(result: Result) -> None:
    """Prints what was embedded and by which model, what was not, and where the file is."""
    console, found = Console(), result.embeddings
    images = found.kinds.count("image")
    lines = [f"{images:,} images and {len(found.ids) - images:,} texts as {found.vectors.shape[1]} numbers each"]
    lines += [NORMALIZATION, f"model: {found.model['base']}, fingerprint {found.model['fingerprint']}"]
    lines += [*found.notes, *result.notes, *(f"could not read {reason}" for _, reason in found.unreadable)]
    if found.unreadable:
        lines.append(f"{len(found.unreadable):,} files could not be read and have no row")
    for line in (*lines, f"wrote {result.path}"):
        console.print(f"  {line}", soft_wrap=True, highlight=False)
