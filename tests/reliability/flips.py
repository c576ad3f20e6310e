"""Flips single bits in what a run leaves: each file is then read as it was, or refused in one line. ``make flips``."""

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers import AutoModel

from siglip_med.commands import train
from siglip_med.conditions.user_map import read_user_map
from siglip_med.core.errors import UserError
from siglip_med.core.seals import write_sidecar
from siglip_med.data.cache import PixelCache
from siglip_med.data.splitting import Split
from siglip_med.export import export_checkpoint
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.models import load_model, read_checkpoint, siglip
from siglip_med.training.feature_store import FeatureStore, keys_of
from tests.short_runs import small_settings

CODES = "condition,code\nEczema,L30.9\nPsoriasis,L40.0\nUrticaria,L50.9\nMelanoma,C43.9\n"


def subjects(folder: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """What is flipped: a file, and how it is read; what reading gives can be compared as text."""
    settings = small_settings(folder / "cache", folder / "run", "trainer.max_steps=2")
    result = train.run(settings)
    best, split = result.folder / "checkpoints" / "best.ckpt", result.folder / "split.csv"
    exported = export_checkpoint(best, "merged", folder / "export")
    codes = folder / "codes.csv"
    codes.write_text(CODES)
    write_sidecar(codes)
    table = result.components.data.table
    store = next((folder / "cache" / "images").glob("pixels-*"))
    side = int(store.name.split("-")[1])
    limit = int(store.name.rpartition("-")[2])
    kept = FeatureStore(folder / "features", np.dtype("float32"))
    keys = keys_of([f"{number:032x}" for number in range(50)])
    with kept.writing() as writer:
        writer.append(keys, np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32))
    paths = [table.root / name for name in table.frame["image"]]

    def pixels() -> object:
        cache = PixelCache(folder / "cache" / "images", side, limit)
        records, reasons = cache.add(paths)
        return cache.read(records).tobytes(), reasons

    def features() -> object:
        records = kept.find(keys)
        if (records < 0).any():
            raise UserError("a run computes these again")
        return kept.values()[records].tobytes()

    def checkpoint() -> object:
        loaded = read_checkpoint(best)
        torch.set_printoptions(threshold=10**9, precision=17)
        return {name: tensor.numpy().tobytes() for name, tensor in loaded["state_dict"].items()}, str(
            loaded["siglip_med"]
        )

    def export() -> object:
        model = siglip(str(exported))
        return {name: value.detach().numpy().tobytes() for name, value in model.named_parameters()}

    assert load_model(best) is not None
    assert AutoModel.from_pretrained(exported) is not None
    return {
        "checkpoint": (best, checkpoint),
        "export: weights": (exported / "model.safetensors", export),
        "export: settings": (exported / "config.json", export),
        "image cache: pixels": (store / "pixels.bin", pixels),
        "image cache: index": (store / "index.json", pixels),
        "feature store: values": (kept.values_file, features),
        "feature store: index": (kept.folder / "index.bin", features),
        "feature store: shape": (kept.folder / "shape.json", features),
        "split": (split, lambda: Split.load(split, table).parts.tolist()),
        "codes": (codes, lambda: str(read_user_map(codes))),
    }


def main() -> None:
    """Prints, by kind of file, how many flips were refused and how many read as before; anything else is an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    _quiet_libraries()
    torch.set_num_threads(1)
    chance, console = random.Random(options.seed), Console()
    with tempfile.TemporaryDirectory() as temporary:
        kinds = subjects(Path(temporary))
        counts = {name: [0, 0] for name in kinds}
        expected = {name: read() for name, (_, read) in kinds.items()}
        for number in track(range(options.flips), console=console, description="flipping bits"):
            name = list(kinds)[number % len(kinds)]
            path, read = kinds[name]
            kept = path.with_name(f".{path.name}.kept")
            shutil.copy2(path, kept)
            with path.open("r+b") as file:
                place = chance.randrange(path.stat().st_size)
                file.seek(place)
                byte = file.read(1)[0]
                file.seek(place)
                file.write(bytes([byte ^ (1 << chance.randrange(8))]))
            try:
                got = read()
            except UserError as error:
                if "\n" in str(error):
                    raise SystemExit(f"{name}: more than a line: {error}") from error
                counts[name][0] += 1
            else:
                assert got == expected[name], f"{name}: byte {place} changes what is read, and nobody says so"
                counts[name][1] += 1
            finally:
                kept.replace(path)
    table = Table("file", "refused", "read as before", title=f"{options.flips} flipped bits")
    for name, numbers in counts.items():
        table.add_row(name, *map(str, numbers))
    console.print(table)


if __name__ == "__main__":
    main()
