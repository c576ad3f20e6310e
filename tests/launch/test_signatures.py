"""Types are read from source before anything slow is imported, and say what the full check says."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from siglip_med.commands import evaluate, export, predict, train
from siglip_med.core.config import config_dir, leaves, validate_config
from siglip_med.core.errors import UserError
from siglip_med.launch.signatures import check_types

WRONG = [
    "data.batch_size=x",
    "data.batch_size=2.5",
    "data.on_bad_image=ignore",
    "data.source.n_images=-1",
    "trainer.max_steps=abc",
    "trainer.precision=17",
    "evaluation.bootstrap=0",
    "evaluation.coverage=2",
    "seed=-1",
    "mode=maxx",
    "refit=x",
    "conditions.geometry=3",
    "optimizer.learning_rate=x",
    "callbacks.checkpoint.every_n_steps=0",
    "model.adaptation.rank=-3",
    "features.precision=x",
    "paths.log_dir=[1]",
]
QUICK_WORDS = [
    ("data.batch_size=x", "data.batch_size: input should be a valid integer"),
    ("data.source.root=/nowhere data=csv", "/nowhere: no such folder; give data.source.root=FOLDER"),
    ("data.source.root=. data.source.table=none.csv data=csv", "none.csv: no such file"),
    ("data.source.root=. data.source.aliases=3 data=csv", "data.source.aliases: input should be a valid dictionary"),
]


def composed(name, *words):
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        config = compose(name, list(words))
    if "paths" in config:
        config.paths.output_dir = "out"
    elif "output_dir" in config:
        config.output_dir = "out"
    return config


@pytest.mark.parametrize("word", WRONG)
def test_a_wrong_type_is_refused_in_the_words_of_the_full_check(word):
    config = composed("train", "experiment=layered", "model/adaptation=lora", word)
    with pytest.raises(UserError) as full:
        validate_config(config, train.Settings)
    with pytest.raises(UserError) as quick:
        check_types("train", config, [word])
    assert str(quick.value) == str(full.value)


@pytest.mark.parametrize(
    ("name", "words", "settings"),
    [
        ("train", ["experiment=layered", "model=dual_encoder"], train.Settings),
        ("train", ["experiment=infonce", "data=csv", "data.source.root=x", "trainer=ddp"], train.Settings),
        ("evaluate", ["checkpoint=x"], evaluate.Settings),
        ("predict", ["checkpoint=x", "images=[a.png]"], predict.Settings),
        ("export", ["checkpoint=x", "output=y"], export.Settings),
    ],
)
def test_nothing_is_refused_that_the_full_check_accepts(name, words, settings):
    config = composed(name, *words)
    validate_config(config, settings)
    every = [f"{key}=…" for key, _ in leaves(OmegaConf.to_container(config))]
    assert len(every) > 5
    check_types(name, config, every)


def test_a_part_of_a_value_is_checked_with_the_whole(tmp_path, monkeypatch):
    config = composed("train", "experiment=layered", "schedule.knots.alpha={0: x}")
    with pytest.raises(UserError, match=r"^schedule\.knots"):
        check_types("train", config, ["schedule.knots.alpha={0: x}"])


def test_code_of_ones_own_is_read_too(tmp_path, monkeypatch):
    (tmp_path / "own_loss.py").write_text("raise RuntimeError('imported')\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").write_text("from own.term import Term\n")
    (tmp_path / "own" / "term.py").write_text(
        "import torch\n\nclass Base:\n    def __init__(self, margin: float, inner: torch.nn.Module): ...\n\n"
        "class Term(Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = OmegaConf.create({"loss": {"_target_": "own.Term", "margin": "wide", "inner": 3}})
    check_types("train", config, ["loss.inner=3"])  # only an import could tell
    with pytest.raises(UserError, match=r"^loss\.margin: input should be a valid number"):
        check_types("train", config, ["loss.margin=wide"])
    check_types("train", OmegaConf.create({"loss": {"_target_": "own_loss.Term", "a": 1}}), ["loss.a=1"])
    assert "own_loss" not in sys.modules


@pytest.mark.parametrize(("command", "status"), [("train", 2), ("check", 1)])
@pytest.mark.parametrize(("words", "said"), QUICK_WORDS)
def test_what_is_wrong_is_said_before_slow_imports(words, said, command, status, tmp_path):
    code = (
        "import sys\nfrom siglip_med.launch import launch\ntry:\n    launch('COMMAND')\nexcept SystemExit as end:\n"
        "    print(end.code, sorted({'torch', 'lightning', 'transformers'} & set(sys.modules)))"
    )
    typed = [sys.executable, "-c", code.replace("COMMAND", command), *words.split(), f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=120, check=True)
    status = status if "data=csv" in words and "aliases" not in words else 2  # a setting is no fault of the data
    assert done.stdout.strip() == f"{status} []"
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
