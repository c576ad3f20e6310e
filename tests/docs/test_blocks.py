"""Every block of the documentation is executed, or checked up to where data would be read, or says why not."""

import ast
import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib

import pytest
from omegaconf import OmegaConf, open_dict

from siglip_med import launch
from siglip_med.core.config import config_dir, validate_config
from siglip_med.launch.command_line import check_words, own_configs_first
from tests.docs.blocks import PAGES, READ_ONLY, ROOT, Block, blocks, commands, every_block

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCRIPTS = PROJECT["scripts"]
SMALL = [
    "data.source.n_images=260",
    "data.num_workers=0",
    "data.batch_size=16",
    "trainer.max_steps=2",
    "evaluation.bootstrap=20",
]
"""What is added to a training command of a block that runs."""
LAUNCHERS = {"srun", "torchrun"}
HARMLESS = {"[", "}", "scontrol", "tensorboard", "source"}
"""Commands of the shell and of other software, which are shown and not checked."""
PATHS = re.compile(r"<\w+>|…")

BLOCKS = every_block()


def of(language):
    chosen = [block for block in BLOCKS if block.language == language and not block.mark.startswith(("skip", "file"))]
    return pytest.mark.parametrize("block", chosen, ids=[block.where for block in chosen])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder that holds the files which a block's page writes."""

    def write(block: Block):
        for other in blocks(block.page):
            if other.mark.startswith("file "):
                path = tmp_path / other.mark.removeprefix("file ")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(other.body, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        return tmp_path

    return write


def test_every_block_is_accounted_for():
    assert len(PAGES) > 10
    for block in BLOCKS:
        assert block.language in {"bash", "python"} | READ_ONLY, f"{block.where}: a block names its language"
        assert re.fullmatch(r"|run|file \S+|skip: \S.*", block.mark), f"{block.where}: unknown mark {block.mark!r}"
        if block.language in READ_ONLY:
            hidden = re.search(r"^(python|siglip-med-\w+|make|pip) ", block.body, flags=re.MULTILINE)
            assert not hidden, f"{block.where}: commands stand in a bash block, where they are checked"


@of("bash")
def test_commands_compose(block, project):
    project(block)
    done = subprocess.run(["bash", "-n"], input=block.body, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    for words in commands(block.body):
        check_command(words)


@of("python")
def test_python_imports_and_calls_what_there_is(block):
    tree = ast.parse(block.body)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), names)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = resolved(node.func, names)
        if function is not None and not any(isinstance(argument, ast.Starred) for argument in node.args):
            inspect.signature(function).bind(*node.args, **{word.arg: word.value for word in node.keywords})


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.mark == "run"], ids=lambda block: block.where)
def test_blocks_that_run(block, project, cache):
    folder = project(block)
    scripts = {
        name: f'{sys.executable} -c "from {place.replace(":", " import ")} as main; main()"'
        for name, place in SCRIPTS.items()
    }
    body = block.body.replace("\\\n", " ")
    for name, call in scripts.items():
        body = re.sub(
            rf"{name}( .*)", lambda m, call=call: f"{call}{m[1]} {' '.join(SMALL)} paths.cache_dir={cache}", body
        )
    body = body.replace("PYTHONPATH=.", f"PYTHONPATH=.:{ROOT}")
    done = subprocess.run(
        ["bash", "-e", "-c", body],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (config,) = folder.glob("logs/finetune/runs/*/.hydra/config.yaml")
    assert OmegaConf.load(config).loss.terms.spread.term._target_ == "my_losses.Spread"


def resolved(node, names):
    """The imported function or class that a call names, if it is one with a signature."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolved(node.value, names)
        return None if owner is None else getattr(owner, node.attr)
    return None


def check_command(words):
    """Fails if a command names what there is not."""
    program, *rest = words
    if program in HARMLESS:
        return
    if program in LAUNCHERS:
        check_command(rest[next(i for i, word in enumerate(rest) if word in ("python", "train.py")) :])
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert set(rest) <= set(targets), words
    elif program in SCRIPTS:
        check_settings(SCRIPTS[program].partition(":")[2], rest)
    elif program == "train.py":
        check_settings("train", rest)
    elif program == "python" and rest[0] == "-m":
        spec = importlib.util.find_spec(rest[1])
        assert spec is not None, words
        assert spec.origin is not None
    elif program == "python" and rest[0] in ("train.py", "evaluate.py", "predict.py"):
        check_settings(rest[0].removesuffix(".py"), rest[1:])
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), words
        if rest[0] == "experiments/study.py":
            assert (ROOT / "experiments" / rest[1] / "study.yaml").is_file(), words
    else:
        assert (ROOT / program).is_file(), f"{program}: the runner does not know how to check this command"


def check_settings(command, words):
    """Composes and validates a command line as the command itself does before it reads data."""
    assert hasattr(launch, command)
    folder = config_dir()
    words = [PATHS.sub("x", word) for word in words if word != "…"]
    if "--cfg" in words:
        del words[words.index("--cfg") : words.index("--cfg") + 2]
    words = own_configs_first(folder, words)
    config = check_words(folder, command, words)
    config = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    with open_dict(config):
        node = config.paths if "paths" in config else config
        if "output_dir" in node:
            node.output_dir = "x"  # Hydra's own, which only a job has
        for key in OmegaConf.missing_keys(config):
            OmegaConf.update(config, key, "x")
    validate_config(config, importlib.import_module(f"siglip_med.commands.{command}").Settings)
