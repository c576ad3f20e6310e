"""The command that converts: a folder that a run reads by the settings it prints, and nothing where it cannot."""

import shlex

import pytest
import torch

from siglip_med.commands import convert
from siglip_med.core.errors import UserError
from siglip_med.models import clip
from tests.models.biomed import SIDE, WEIGHTS, write_biomed


def settings(source, output):
    return convert.Settings(source=str(source), output=str(output), revision=None)


def test_it_prints_the_settings_by_which_a_run_reads_the_folder(tmp_path, capsys):
    write_biomed(tmp_path / "their model")
    result = convert.run(settings(tmp_path / "their model", tmp_path / "a folder"))
    convert.show(result)
    printed = capsys.readouterr().out.splitlines()[-1]
    *_, path, model = shlex.split(printed)
    assert (path, model) == (f"model.path={tmp_path / 'a folder'}", "model=clip_base")
    assert clip(str(tmp_path / "a folder")).encode_images(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 20)


def test_a_damaged_source_leaves_nothing_half_written(tmp_path):
    write_biomed(tmp_path / "theirs")
    weights = tmp_path / "theirs" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="truncated or damaged"):
        convert.run(settings(tmp_path / "theirs", tmp_path / "new" / "folder"))
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_there_is_not_overwritten(tmp_path):
    write_biomed(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"output=.* exists: give a new folder"):
        convert.run(settings(tmp_path / "theirs", tmp_path))
    with pytest.raises(UserError, match="cannot be read"):
        convert.run(settings(tmp_path, tmp_path / "new"))
