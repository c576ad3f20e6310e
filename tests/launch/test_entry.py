"""Bad input: one clear line, an exit status that is not 0, and nothing left behind."""

import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from siglip_med.commands import train
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.core.signals import Stopped
from siglip_med.launch import entry
from siglip_med.launch.command_line import check_words
from tests.short_runs import CONF, compose_config

ROOT = CONF.parent


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["experiment=layred"], "error: experiment=layred: there is no such experiment; there is baseline, "),
        (["model=siglip_huge"], "error: model=siglip_huge: there is no such model; there is clip_base, "),
        (["-m", "experiment=layered,layred", "seed=0,1"], "error: experiment=layred: there is no such experiment"),
        (["sead=1"], "error: Could not override 'sead'"),
        (["experiment="], "error: "),
    ],
)
def test_a_wrong_name_costs_one_line_before_anything_runs(words, line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit) as stopped:
        entry.launch("train")
    printed = capsys.readouterr().err
    assert stopped.value.code == 2
    assert printed.startswith(line), printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "words", [[], ["experiment=layered", "seed=3"], ["-m", "experiment=layered,baseline"], ["--help"]]
)
def test_a_right_command_line_passes(words):
    config = check_words(CONF, "train", words)
    assert (config is None) == (words == ["--help"])


@pytest.fixture
def photographs(tmp_path):
    """A folder of four pictures and their table."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((20, 20, 3), 40 * number, dtype=np.uint8))
    rows = "".join(f"{number}.png,{'Eczema' if number % 2 else 'Psoriasis'}\n" for number in range(4))
    (folder / "labels.csv").write_text("image,condition\n" + rows)
    return folder


def settings_for(folder, output, cache, *overrides):
    words = ["data=csv", f"data.source.root={folder}", f"paths.output_dir={output}", f"paths.cache_dir={cache}"]
    return typed(compose_config(*words, *overrides), train.Settings)


@pytest.mark.parametrize(
    ("spoil", "overrides", "words"),
    [
        (lambda folder: None, ["data.source.root=/nowhere/at/all"], ["/nowhere/at/all"]),
        (lambda folder: (folder / "labels.csv").write_text("image,condition\n"), [], ["labels.csv"]),
        (lambda folder: None, ["data.source.condition_column=diagnosis"], ["diagnosis", "image, condition"]),
        (lambda folder: (folder / "2.png").write_bytes(b""), [], ["2.png", "row 3"]),
        (
            lambda folder: (folder / "labels.csv").write_text(
                "image,condition\n" + "".join(f"{n}.png,Dragon pox\n" for n in range(4))
            ),
            [],
            ["Dragon pox"],
        ),
        (lambda folder: None, ["data.batch_size=0"], ["data.batch_size", "greater than 0"]),
        (lambda folder: None, ["model.path=/no/model/here"], ["/no/model/here"]),
    ],
)
def test_bad_data_stops_with_a_line_that_names_it(spoil, overrides, words, photographs, tmp_path):
    spoil(photographs)
    with pytest.raises(UserError) as caught:
        train.run(settings_for(photographs, tmp_path / "out", tmp_path / "cache", *overrides))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_the_command_itself_prints_the_line_exits_with_2_and_leaves_no_run_folder(tmp_path):
    environment = {**os.environ, "SIGLIP_MED_CACHE": str(tmp_path / "cache")}
    command = [
        sys.executable,
        "train.py",
        "data=csv",
        "data.source.root=/nowhere",
        f"paths.log_dir={tmp_path / 'logs'}",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "/nowhere" in errors[0]
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]


def test_the_entry_points_are_thin():
    for name in ("train.py", "evaluate.py", "predict.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 10


def test_every_config_of_the_entry_points_is_yaml_with_known_groups():
    for path in Path(CONF).glob("*.yaml"):
        assert OmegaConf.load(path)


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("[!_]*.yaml")))
def test_every_command_composes_without_a_word(command):
    assert check_words(CONF, command, []) is not None


@pytest.mark.parametrize(
    ("step", "kept", "script", "said"),
    [
        (7, True, "train.py", "stopped by SIGTERM at step 7; to resume: python train.py resume="),
        (None, True, "siglip-med-train", "stopped by SIGTERM; to resume: siglip-med-train resume="),
        (None, False, "train.py", "stopped by SIGTERM before the first checkpoint: start it again"),
    ],
)
def test_a_run_that_was_stopped_says_where_and_how_to_resume(tmp_path, monkeypatch, step, kept, script, said):
    monkeypatch.setattr(entry.HydraConfig, "get", lambda: SimpleNamespace(mode=RunMode.RUN))
    monkeypatch.setattr(entry.sys, "argv", [script])
    if kept:
        (tmp_path / "checkpoints").mkdir()
    stopped = Stopped(signal.SIGTERM, step)
    line = entry._farewell("train", stopped, tmp_path)
    assert line.startswith(said)
    assert line.endswith(str(tmp_path)) == kept


def test_an_onnx_export_prints_no_log_of_its_libraries():
    root = logging.getLogger()
    before = root.level
    try:
        root.setLevel(logging.INFO)  # as Hydra sets it
        entry._quiet_libraries()
        for name, level in (("onnx_ir.passes.common", logging.INFO), ("onnxscript.optimizer._x", logging.WARNING)):
            assert not logging.getLogger(name).isEnabledFor(level)
            assert logging.getLogger(name).isEnabledFor(level + 10)
    finally:
        root.setLevel(before)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_first_process_alone_speaks(rank, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(sys, "argv", ["train.py", "--cfg", "job"])
    entry.launch("train")
    assert ("seed: " in capsys.readouterr().out) == (rank == "0")


def test_lightning_s_advice_on_several_processes_is_not_repeated_by_each():
    advice = "It is recommended to use `self.log('val/mrr', ..., sync_dist=True)` when logging on epoch level"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        entry._quiet_libraries()
        warnings.warn(advice, UserWarning, stacklevel=1)
        warnings.warn("another", UserWarning, stacklevel=1)
    assert [str(one.message) for one in heard] == ["another"]
