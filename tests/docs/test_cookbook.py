"""docs/cookbook.md, typed from top to bottom on 300 files like photographs, with a table as dirty as tables are."""

import json
import multiprocessing
import os
import sys

import pytest

from siglip_med import launch
from tests.docs.blocks import ROOT, blocks, commands
from tests.short_runs import photographs

FEW = [
    "trainer.max_steps=2",
    "data.num_workers=1",
    "data.batch_size=16",
    "evaluation.bootstrap=20",
    "callbacks.progress=null",
]

SMALLER = {"model=siglip_base": "model=siglip_tiny", "seed=0,1": "seed=0"}


@pytest.fixture
def clinic(tmp_path, monkeypatch):
    rows = photographs(tmp_path / "photos", 300, 0)
    rows += ["gone.jpg,Acne,p900,2", "5.jpg,,p2,1", "7.jpg,Blorbitis,p3,1"]
    (tmp_path / "photos" / "9.jpg").write_bytes(b"no picture")
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(rows) + "\n")
    others = photographs(tmp_path / "photos_elsewhere", 60, 1)
    (tmp_path / "photos_elsewhere" / "labels.csv").write_text("\n".join(others) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["siglip_med.commands.train", "siglip_med.commands.evaluate", "siglip_med.commands.check"])


def typed(command, words, screen, folder):
    """Runs a command as a user does, in a process that has imported what commands import and done nothing else."""
    process = FRESH.Process(target=run, args=(command, words, screen, folder))
    process.start()
    process.join(400)
    return process.exitcode


def run(command, words, screen, folder):
    out = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = [f"siglip-med-{command}", *words]
    getattr(launch, command)()


@pytest.mark.timeout(900)
def test_the_cookbook_is_typed_from_top_to_bottom(clinic, cache):
    screen, page = clinic / "screen.txt", ROOT / "docs" / "cookbook.md"
    done = []
    for block in blocks(page):
        if block.mark.startswith("file "):
            path = clinic / block.mark.removeprefix("file ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body)
        for words in commands(block.body) if block.language == "bash" else ():
            command = words[0].removeprefix("siglip-med-")
            more = [f"paths.cache_dir={cache}"] if command in ("check", "train", "evaluate") else []
            more += {"train": FEW, "evaluate": ["report.bootstrap=20", "report.map_images=20"]}.get(command, [])
            words = [SMALLER.get(word, word) for word in words[1:]]
            status = typed(command, [*words, *more], screen, clinic)
            assert status == (1 if command == "check" else 0), (command, status, screen.read_text()[-3000:])
            done.append(command)
    assert done == ["check", "train", "evaluate", "train", "evaluate", "evaluate", "export", "predict", "embed"]
    removed = (clinic / "photos" / "labels_clean_removed.csv").read_text().splitlines()
    assert {line.split(",")[0] for line in removed[1:]} == {"10", "301", "302", "303"}
    assert json.loads((clinic / "logs/first/metrics.json").read_text())
    assert "elsewhere, " in (clinic / "logs/first/report/checklist.md").read_text(), "the external validation"
    assert len(list((clinic / "logs/compare").glob("*_seed*/metrics.json"))) == 2
    for path in ("first/report/report.html", "compare/leaderboard.html", "first/answers/predictions.csv"):
        assert (clinic / "logs" / path).is_file(), path
