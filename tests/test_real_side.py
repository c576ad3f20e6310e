"""Photographs as people have them, in every mode that the drawings' defaults switch off.

Files on disk of unequal sizes, patients with several images, augmentation, worker processes, jobs side by side: each
mode trains the weights that it trains without workers, to the last bit.
"""

import csv
import json

import pytest
import torch

from siglip_med.commands import train
from siglip_med.core.config import typed
from siglip_med.models import read_checkpoint
from tests.processes import run_command
from tests.short_runs import compose_config, photographs

WORDS = [
    "experiment=layered",
    "data=csv",
    "data.source.condition_column=diagnosis",
    "data.source.group_column=patient",
    "data.source.skin_tone_column=skin_type",
    "data.batch_size=16",
    "data.eval_batch_size=16",
    "trainer.max_steps=4",
    "evaluation.bootstrap=5",
    "callbacks.progress=null",
]
MODES = {
    "as_typed": [],
    "folds": [
        "augmentation=strong",
        "data/splitter=kfold",
        "data/sampling=class_balanced",
    ],
    "oversampled": ["augmentation=light", "data/sampling=oversample"],
    "first_blocks_kept": ["features=cached", "model.adaptation.first_block=1", "features.views=2"],
    "frozen": ["model/adaptation=frozen"],
    "frozen_and_augmented": ["model/adaptation=frozen", "~features"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """72 JPEGs of 36 patients, and the places of runs beside them."""
    place = tmp_path_factory.mktemp("clinic")
    rows = photographs(place / "photos", 72, 0)
    (place / "photos" / "labels.csv").write_text("\n".join(rows) + "\n")
    return place


def words_of(folder, *more):
    return [*WORDS, f"data.source.root={folder}/photos", f"paths.cache_dir={folder}/cache", *more]


def trained(folder, name, *more):
    """The folder of a run, its weights and its metrics."""
    run = folder / name
    train.run(typed(compose_config(*words_of(folder, f"paths.output_dir={run}", *more)), train.Settings))
    return (
        run,
        read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"],
        json.loads((run / "metrics.json").read_text()),
    )


@pytest.mark.parametrize("mode", MODES)
def test_two_workers_train_what_none_trains(folder, mode):
    alone = trained(folder, f"{mode}_0", *MODES[mode], "data.num_workers=0")
    run, weights, metrics = trained(folder, f"{mode}_2", *MODES[mode], "data.num_workers=2")
    assert weights.keys() == alone[1].keys()
    assert all(torch.equal(value, alone[1][key]) for key, value in weights.items())
    assert metrics == alone[2]
    patients = {}
    with (run / "split.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            patients.setdefault(row["case"], set()).add(row["split"])
    assert len(patients) == 36
    assert all(len(splits) == 1 for splits in patients.values())


def test_jobs_side_by_side_with_workers_are_the_runs_one_by_one(folder):
    words = words_of(folder, "seed=0,1", "data.num_workers=2", f"hydra.sweep.dir={folder}/sweep")
    run_command(folder / "cache", "train.py", "-m", "launcher=parallel", *words)
    jobs = {json.loads(path.read_text())["settings"]["seed"]: path.parent for path in folder.glob("sweep/*/run.json")}
    assert jobs.keys() == {0, 1}
    _, weights, _ = trained(folder, "seed_1", "seed=1", "data.num_workers=0")
    side = read_checkpoint(jobs[1] / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(value, weights[key]) for key, value in side.items())
    assert (folder / "sweep" / "leaderboard.md").is_file()
