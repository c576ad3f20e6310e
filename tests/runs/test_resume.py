"""A run that was stopped and resumed is the run that was never stopped."""

import json
import shutil

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.launch.command_line import check_words, make_exclusively, plain_settings
from siglip_med.launch.entry import run_folder_words
from siglip_med.models import read_checkpoint
from siglip_med.runs.folder import claim, locked, newest_checkpoint
from siglip_med.runs.resume import find_run, find_same, own_settings
from siglip_med.training.checkpointing import POSITION
from siglip_med.training.module import FineTuneModule, TwoTowerModule
from tests.short_runs import CONF, SMALL, compose_config, small_settings

WORDS = [
    "experiment=published",
    "data.batch_size=32",
    "trainer.max_steps=9",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "callbacks=early_stopping",
    "callbacks.early_stopping.patience=50",
    "callbacks.loss_diagnostics.every_n_steps=2",
    "callbacks.checkpoint.every_n_steps=1",
    "callbacks.progress=null",
    "model.adaptation.dropout=0.2",
]


class Killed(BaseException):
    """Stands for the end of a process: nothing of the program may catch it."""


def scalars(folder):
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    found = {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
        if not tag.startswith("perf/")
    }
    # beside the hyper-parameters, at step 0, stand the numbers of a run's end: of each end, and the last one counts
    return {tag: values[-1:] if tag.startswith("hp") else values for tag, values in found.items()}


def weights(folder, name="last.ckpt"):
    return read_checkpoint(folder / "checkpoints" / name)


def assert_same_run(folder, whole):
    """Weights, optimizer, best step, metrics and logs, bit for bit; but for the time that it took."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = weights(folder, name), weights(whole, name)
        assert ours[POSITION] == theirs[POSITION]
        for key, tensor in theirs["state_dict"].items():
            assert torch.equal(ours["state_dict"][key], tensor), (name, key)
        assert str(ours["optimizer_states"]) == str(theirs["optimizer_states"])
        assert ours["siglip_med"]["metrics"] == theirs["siglip_med"]["metrics"]
    assert (folder / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    ours, theirs = scalars(folder), scalars(whole)
    assert ours.keys() == theirs.keys()
    for tag, values in theirs.items():
        assert str(ours[tag]) == str(values), tag


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """The folder of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train.run(small_settings(cache, folder, *WORDS))
    return folder


def test_a_run_killed_in_a_step_a_validation_and_its_end_is_the_whole_run(whole, cache, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def go_on(*words, at=None):
        with monkeypatch.context() as patch:
            if at is not None:
                patch.setattr(*at)
            resume = [f"resume={folder}"] if folder.exists() else []
            train.run(small_settings(cache, folder, *WORDS, *words, *resume))

    def killed_in(owner, name, step, times=1):
        """Kills the process in a method of the module, when so many steps are done."""
        original = getattr(owner, name)

        def method(self, *args, **kwargs):
            if self.trainer.global_step >= step:
                raise Killed
            return original(self, *args, **kwargs)

        return owner, name, method

    for at in (
        killed_in(TwoTowerModule, "on_train_batch_end", 1),  # before the first checkpoint
        killed_in(TwoTowerModule, "on_train_batch_end", 4),  # inside an epoch
        killed_in(FineTuneModule, "validation_step", 6),
        (train, "load_best", lambda *_: (_ for _ in ()).throw(Killed)),
    ):
        with pytest.raises(Killed):
            go_on(at=at)
    assert json.loads((folder / "run.json").read_text())["finished"] is False
    go_on("data.num_workers=2")  # how many make the batches decides nothing
    assert_same_run(folder, whole)
    assert json.loads((folder / "run.json").read_text())["finished"] is True


@pytest.fixture
def copy(whole, tmp_path):
    """A finished run in another place."""
    return shutil.copytree(whole, tmp_path / "copy")


def plain(cache, folder, *words):
    return small_settings(cache, folder, *WORDS, *words).model_dump()


def test_what_is_said_and_differs_is_named_and_what_may_change_is_taken(cache, copy):
    point, default = find_run(str(copy)), small_settings(cache, copy).model_dump()
    for word in ("optimizer.learning_rate=0.5", "loss=infonce", "text_pool=batch", "model.adaptation.alpha=7"):
        with pytest.raises(UserError) as refusal:
            own_settings(point, plain(cache, copy, word), default, [*WORDS, word])
        assert "has" in str(refusal.value)
        assert "\n" not in str(refusal.value)
    may = ["trainer.max_steps=30", "data.num_workers=1", "callbacks.checkpoint.every_n_minutes=3.0"]
    settings = own_settings(point, plain(cache, copy, *may), default, [*WORDS, *may])
    assert settings["trainer"]["max_steps"] == 30
    assert settings["data"]["num_workers"] == 1
    # what is not said is the run's own, not today's default
    assert own_settings(point, default, default, [])["model"]["adaptation"]["dropout"] == 0.2
    with pytest.raises(UserError, match="has done 9 steps already"):
        own_settings(point, plain(cache, copy, "trainer.max_steps=3"), default, ["trainer.max_steps=3"])


def test_a_moved_run_goes_on_where_it_lies_now(cache, copy):
    settings = own_settings(find_run(str(copy)), *[small_settings(cache, copy).model_dump()] * 2, [])
    assert settings["callbacks"]["checkpoint"]["dirpath"] == f"{copy}/checkpoints"
    assert settings["logger"]["tensorboard"]["save_dir"] == str(copy)


def test_a_stored_run_may_not_write_elsewhere(cache, copy, tmp_path):
    point = find_run(str(copy))
    point.settings["logger"]["tensorboard"]["save_dir"] = str(tmp_path)
    default = small_settings(cache, copy).model_dump()
    with pytest.raises(UserError, match="outside of its run folder"):
        own_settings(point, default, default, [])


def test_a_path_to_resume_is_told_with_its_step(copy, capsys):
    word = f"resume={copy}"
    run_folder_words("train", [word], check_words(CONF, "train", [word]))
    assert capsys.readouterr().err == f"resume: {copy} is finished, at step 9\n"


def test_a_finished_run_is_extended_and_only_scored_again_without_more_steps(cache, copy, whole):
    train.run(small_settings(cache, copy, *WORDS, f"resume={copy}"))
    assert_same_run(copy, whole)
    train.run(small_settings(cache, copy, *WORDS, f"resume={copy}", "trainer.max_steps=11"))
    assert weights(copy)[POSITION]["step"] == 11
    steps = [step for step, _ in scalars(copy)["loss/total"]]
    assert steps == list(range(11))


def test_auto_finds_the_run_of_the_same_settings_alone(cache, whole):
    folder = whole.parent / "new"
    assert find_same(plain(cache, folder), folder).folder == whole
    assert find_same(plain(cache, folder, "trainer.max_steps=50"), folder).folder == whole
    assert find_same(plain(cache, folder, "seed=1"), folder) is None
    # what Hydra composes leaves out what is off, and the stored settings say so
    words = [*SMALL, *WORDS, f"paths.output_dir={folder}", f"paths.cache_dir={cache}"]
    assert find_same(plain_settings(compose_config(*words)), folder).folder == whole
    assert find_same(plain(cache, folder), folder, neighbors=False) is None


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_offered(copy, capsys):
    last = copy / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(UserError, match=r"last\.ckpt is damaged.*there is .*previous\.ckpt"):
        find_run(str(last))
    assert newest_checkpoint(copy).name == "previous.ckpt"
    assert "last.ckpt is damaged" in " ".join(capsys.readouterr().err.split())
    (copy / "checkpoints" / "previous.ckpt").write_bytes(b"")
    with pytest.raises(UserError, match=r"previous\.ckpt"):
        find_run(str(copy))


def test_a_folder_is_one_runs_alone(cache, copy, tmp_path):
    with pytest.raises(UserError, match="holds a run already"):
        train.run(small_settings(cache, copy, *WORDS))
    with locked(copy), pytest.raises(UserError, match="another process is running this run"):
        train.run(small_settings(cache, copy, *WORDS, f"resume={copy}"))
    assert [make_exclusively(tmp_path / "a").name for _ in range(3)] == ["a", "a_2", "a_3"]
    claim(tmp_path / "a", {})
    with pytest.raises(UserError, match="holds a run already"):
        claim(tmp_path / "a", {})


def test_settings_of_another_run_are_refused_in_one_line(cache, copy, tmp_path):
    with pytest.raises(UserError, match=r"^optimizer\.learning_rate=0\.5: the run in .* has 0\.00"):
        train.run(small_settings(cache, copy, *WORDS, f"resume={copy}", "optimizer.learning_rate=0.5"))
    with pytest.raises(UserError, match="is resumed in its own folder"):
        train.run(small_settings(cache, tmp_path / "other", *WORDS, f"resume={copy}"))
    assert not (tmp_path / "other").exists()


def test_a_start_whose_weights_would_mean_something_else_is_refused(cache, whole, tmp_path):
    start = f"init_from={whole}/checkpoints/best.ckpt"
    for word in ("model.adaptation.alpha=7", "model.adaptation.use_rslora=true", "model.adaptation.rank=4"):
        with pytest.raises(UserError, match=rf"^{word.replace('true', 'True')}: the weights of .* were trained with"):
            train.run(small_settings(cache, tmp_path / "run", start, word))


def test_the_words_of_a_resumed_command_need_only_name_the_run(cache, copy):
    config = compose_config(f"resume={copy}", f"paths.output_dir={copy}", f"paths.cache_dir={cache}")
    assert config.resume == str(copy)
