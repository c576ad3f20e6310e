"""Random changes to checkpoints, bases, exports and predictions, each sealed anew: the right answer, or one line.

``python -m tests.reliability.outside_values`` tries 500. What is tried contradicts the file, or is no such
value at all; another value of the right kind (a name, a temperature) is another model, and no reader could tell.
"""

import argparse
import copy
import json
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from siglip_med.core.errors import UserError
from siglip_med.core.seals import write_sums
from siglip_med.data.quality import FAULTS
from siglip_med.export import export_checkpoint
from siglip_med.inference import load
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.metrics import Predictions, headline_metrics
from siglip_med.models import Familiarity, finalize_checkpoint, read_checkpoint, write_checkpoint
from tests.models import runs
from tests.report.synthetic_run import synthetic_predictions

KINDS = ("payload", "weights", "base", "export", "predictions")
_WRONG: tuple[Any, ...] = (
    None, True, -1, 10**12, float("nan"), float("inf"), "", "\x1b[2J", "../outside", [], ["a", 1], {}, {"a": 1},
)  # fmt: skip
_OTHER = (
    "name",
    "revision",
    "split_hash",
    "account",
    "metrics",
    "about",
    "baselines",
    "provenance",
    "seed",
    "evaluation",
)
"""Of a payload: what no answer depends on, and what may be any text."""
_FREE = (
    "scores",
    "calibration",
    "familiarity",
    "refit",
    "conditions",
    "codes",
    "prompts",
    "groups",
    "blocks",
    "chapters",
    "adaptation",
)
"""Where another value of the same type is another right one, and none is an earlier version's, or the default."""


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of everything in nested mappings and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, value in items for place in [(*path, key), *leaves(value, (*path, key))]]


def change(content: Any, chance: random.Random) -> str:
    """Changes one thing in plain content, and says what."""
    places = [path for path in leaves(content) if not set(path) & set(_OTHER)]
    keys = sorted({tuple(map(str, path[:2])) for path in places})  # a long list is one of several things
    key = chance.choice(keys)
    path = chance.choice([path for path in places if tuple(map(str, path[:2])) == key])
    node = content
    for inner in path[:-1]:
        node = node[inner]
    old, free = node[path[-1]], set(path) & set(_FREE)
    kinds = ["value", "value", "nested", *["gone"] * (not free), *["twice"] * (isinstance(old, list) and not free)]
    kind = chance.choice(kinds)
    if kind == "gone":
        del node[path[-1]]
    elif kind == "twice" and old:
        old.append(copy.deepcopy(old[0]))
    elif kind == "nested":
        node[path[-1]] = nested(chance.choice([2, 60, 300]))
    else:
        other = [value for value in _WRONG if type(value) is not type(old)] if free else list(_WRONG)
        if free and isinstance(old, float | int):
            other = [float("nan"), "", [], {}]
        node[path[-1]] = chance.choice([value for value in other if not (free and value is None)])
    return f"{kind} at {path}: {str(node)[:60] if kind == 'value' else ''}"


def spoil(tensors: dict[str, torch.Tensor], chance: random.Random) -> str:
    """Changes one tensor, and says what."""
    name = chance.choice(sorted(tensors))
    value = tensors[name].clone()
    kind = chance.choice(["nan", "inf", "all nan", "gone", "shape", "complex", "integer", "extra", "flat"])
    if kind == "gone":
        del tensors[name]
    elif kind == "extra":
        tensors[name + "x"] = value
    elif kind == "all nan":
        tensors.update(
            {key: torch.full_like(one, float("nan")) for key, one in tensors.items() if one.is_floating_point()}
        )
    elif kind in ("nan", "inf"):
        value.view(-1)[0] = float(kind)
        tensors[name] = value
    elif kind == "shape":
        tensors[name] = torch.cat([value.reshape(-1), value.reshape(-1)[:1]])
    elif kind == "flat":
        tensors[name] = value.reshape(1, *value.shape)
    else:
        tensors[name] = value.to(torch.complex64) if kind == "complex" else (value * 100).to(torch.int64)
    return f"{kind} at {name}"


class Bench:
    """A run, its base, its export and its predictions, and what each answers unchanged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        node = runs.model_node("siglip", folder / "base")
        model = runs.train(runs.build(node))
        calibration = {"temperature": 1.25, "bias": -0.5}
        self.checkpoint = runs.save(model, node, folder / "best.ckpt", calibration=calibration)
        refit = runs.refit(model)
        with torch.no_grad():
            features = model.pooled_features(runs.images(50, model.image_spec.size))
            logits, distance = refit(features).numpy(), refit.distances(features).numpy()
        finalize_checkpoint(self.checkpoint, refit, Familiarity.fit(logits, distance, [""] * 50, FAULTS))
        export_checkpoint(self.checkpoint, "merged", folder / "export", license="cc0-1.0")
        synthetic_predictions(images=30, conditions=5).save(folder / "predictions")
        pixels = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
        self.images = [folder / f"{number}.png" for number in range(2)]
        for path, image in zip(self.images, pixels, strict=True):
            Image.fromarray(image).save(path)
        self.right = {kind: self.answer(kind, self.place(kind)) for kind in KINDS}

    def place(self, kind: str) -> Path:
        names = {"payload": "best.ckpt", "weights": "best.ckpt"}
        return self.folder / names.get(kind, kind)

    def answer(self, kind: str, place: Path) -> list[Any]:
        """Numbers and texts that a reader would see."""
        if kind == "predictions":
            loaded = Predictions.load(place)
            return [loaded.conditions, loaded.codes, loaded.blocks, *loaded.cases, *headline_metrics(loaded).values()]
        with torch.no_grad():
            told = []
            for scores in ("refit", "prompts"):
                model = load(
                    self.checkpoint if kind == "base" else place,
                    str(place) if kind == "base" else None,
                    "cpu",
                    scores=scores,  # type: ignore[arg-type]
                )
                found = model.predict(self.images, top_k=3).differentials
                told += [(c.condition, c.code, c.confidence, one.familiarity) for one in found for c in one.candidates]
        return [item for row in told for item in row]

    def changed(self, kind: str, chance: random.Random, place: Path) -> str:
        """Writes a changed copy, sealed anew, and says what was changed."""
        if kind in ("payload", "weights"):
            checkpoint = copy.deepcopy(read_checkpoint(self.checkpoint))
            payload = checkpoint["siglip_med"]
            arrays = payload["refit"]["arrays"]
            if kind == "payload":
                payload["refit"]["arrays"] = None
                said = change(payload, chance)
                if isinstance(payload.get("refit"), dict) and payload["refit"].get("arrays", 1) is None:
                    payload["refit"]["arrays"] = arrays
            else:
                said = spoil(chance.choice([arrays, checkpoint["state_dict"]]), chance)
            write_checkpoint(checkpoint, place)
            return said
        shutil.copytree(self.place(kind), place)
        if kind == "predictions" and chance.random() < 0.6:
            return _spoiled_arrays(place / "arrays.npz", chance)
        files = sorted([*place.glob("*.json"), *place.glob("*.safetensors"), *place.glob("images.csv")])
        file = chance.choice(files)
        if file.suffix == ".safetensors":
            tensors = load_file(file)
            said = spoil(tensors, chance)
            save_file(tensors, file)
        elif file.suffix == ".csv":
            said = _changed_lines(file, chance)
        else:
            content = json.loads(file.read_text(encoding="utf-8"))
            said = change(content, chance)
            file.write_text(json.dumps(content), encoding="utf-8")
        if kind == "export":
            write_sums(place)
        return f"{file.name}: {said}"


def _changed_lines(file: Path, chance: random.Random) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    kind = chance.choice(["row gone", "row twice", "column gone", "field gone"])
    row = chance.randrange(1, len(lines))
    if kind == "row gone":
        del lines[row]
    elif kind == "row twice":
        lines[row] = lines[row - 1] if row > 1 else lines[row + 1]
    elif kind == "column gone":
        place = chance.randrange(lines[0].count(",") + 1)
        lines = [",".join(cell for n, cell in enumerate(line.split(",")) if n != place) for line in lines]
    else:
        lines[row] += ",x"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return kind


def _spoiled_arrays(file: Path, chance: random.Random) -> str:
    with np.load(file) as opened:
        arrays = dict(opened)
    name = chance.choice(sorted(arrays))
    value = arrays[name]
    ways: dict[str, Callable[[], np.ndarray]] = {
        "nan": lambda: np.where(np.arange(value.size).reshape(value.shape) == 0, np.nan, value),
        "inf": lambda: np.where(np.arange(value.size).reshape(value.shape) == 0, np.inf, value),
        "minus": lambda: -1.0 - np.abs(value),
        "large": lambda: np.abs(value) + 50.5,
        "complex": lambda: value.astype(complex) + 1j,
        "object": lambda: value.astype(object),
        "text": lambda: value.astype(str),
        "bool": lambda: value.astype(bool),
        "shorter": lambda: value[:-1],
        "deeper": lambda: value[None],
        "halves": lambda: value + 0.5,
    }
    # scores may be any finite number, and counts any whole one
    free = {"logits": ("minus", "large", "halves", "bool"), "train_counts": ("bool",), "labels": ("bool",)}
    way = chance.choice([way for way in (*ways, "gone") if way not in free.get(name, ())])
    if way == "gone":
        del arrays[name]
    else:
        arrays[name] = ways[way]()
    np.savez(file, **arrays)
    return f"{way} at {name}"


def same(a: list[Any], b: list[Any]) -> bool:
    """Whether two answers are one: numbers to a millionth, NaN beside NaN."""
    if len(a) != len(b):
        return False
    pairs = zip(a, b, strict=True)
    return all(
        bool(np.isclose(x, y, atol=1e-6, equal_nan=True)) if isinstance(x, float) and isinstance(y, float) else x == y
        for x, y in pairs
    )


def outcome(bench: Bench, number: int) -> tuple[str, str]:
    """What the change of a number does: "right", "refused", or "wrong" with its reason; and what was changed."""
    chance, kind = random.Random(number), KINDS[number % len(KINDS)]
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        place = Path(folder) / "changed"
        said = f"{number}, {kind}: {bench.changed(kind, chance, place)}"
        try:
            found = bench.answer(kind, place)
        except UserError as error:
            return ("refused" if "\n" not in str(error) and len(str(error)) < 2000 else f"wrong: long {error}"), said
        except Exception as error:  # what a change must never end in
            return f"wrong: {type(error).__name__}: {error}", said
    return ("right" if same(found, bench.right[kind]) else "wrong: another answer"), said


def main() -> None:
    """Tries changes, and exits with 1 where one was neither right nor refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _quiet_libraries()
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        good = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # has read each good file
        for number in range(options.first, options.first + options.count):
            result, said = outcome(bench, number)
            counts[result[:7].strip(":")] = counts.get(result[:7].strip(":"), 0) + 1
            if result.startswith("wrong"):
                print(f"{said}: {result[:300]}", flush=True)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{options.count} changes: {counts}; most memory {most / good:.2f} times that of the good files")
    raise SystemExit(any(result.startswith("wrong") for result in counts))


if __name__ == "__main__":
    main()
