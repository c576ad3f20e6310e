"""Every override that a message of the package tells people to type is one that some command accepts."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tests.short_runs import CONF, compose_config
from tests.test_configs import composed

PACKAGE = Path(__file__).resolve().parents[2] / "siglip_med"
COMMANDS = ("train", "evaluate", "predict", "embed", "export", "check", "labels", "demo", "tune", "convert")
DATA = sorted(path.stem for path in (CONF / "data").glob("[a-z]*.yaml"))
TOKEN = re.compile(r"(?<![\w./${-])\+?([a-z_]+(?:[./][a-z_]+)+)=((?:\{[^}]*\}|\[[^\]]*\]|[^\s;,)\]'\"`])*)")
NONE = ("hydra.", "group.", "pretrained_cfg.", "text_cfg.", "trainer.limit_val_batches")
"""Hydra's own, a pattern of the help, settings of other libraries' files, and what a person added with a plus."""
OPEN = ("…", "\x00", "FOLDER", "path/", "logs/")


def texts(tree):
    """Every text of a file that is no docstring; what is filled in is a zero byte."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(
                    getattr(part, "value", "\x00") if isinstance(part, ast.Constant) else "\x00" for part in node.values
                ),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def remedies():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            for key, value in TOKEN.findall(text):
                if "\x00" not in key and not key.startswith(NONE):
                    found.setdefault((key, value.rstrip(".:")), f"{path.relative_to(PACKAGE)}:{line}")
    return sorted(found.items())


@cache
def config(command, *words):
    return composed(*words, command=command)


def has(node, key):
    """Whether a config has a key: looked up part by part, since what is missing or interpolated has no value yet."""
    for part in key.split("."):
        if not OmegaConf.is_dict(node) or part not in node:
            return False
        try:
            node = node._get_node(part)
        except OmegaConfBaseException:
            return False
    return True


def candidates():
    for command in COMMANDS:
        yield (command,)
    for data in DATA:
        yield ("train", f"data={data}")
        if data not in ("mixture",):
            yield ("evaluate", f"external={data}")
    yield from (("train", word) for word in ("features=cached", "model=dual_encoder", "model=siglip_base",
                "experiment=layered", "data/splitter=kfold", "data/splitter=given", "sweep=losses"))  # fmt: skip


def accepted(key, value):
    if "/" in key:
        return (CONF / key / f"{value}.yaml").is_file() or "…" in value
    typed = value and not any(part in value for part in OPEN)
    return any(has(config(*words), key) and (not typed or composes(f"{key}={value}", *words)) for words in candidates())


def composes(word, command, *words):
    try:
        compose_config(*words, word, name=command)
    except HydraException:
        return False
    return True


def test_there_are_remedies_to_type():
    assert len(remedies()) > 60


@pytest.mark.parametrize(("remedy", "where"), remedies(), ids=lambda value: None)
def test_a_printed_override_is_accepted(remedy, where):
    assert accepted(*remedy), f"{where} prints {'='.join(remedy)}, which no command takes"
