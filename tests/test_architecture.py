"""The house stays as docs/architecture.md draws it: arrows run one way, no package is too large, no file too long."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "siglip_med"
NEUTRAL = {"core"}
MAY_IMPORT = {
    "conditions": set(),
    "data": {"conditions"},
    "models": {"conditions"},
    "losses": {"conditions"},
    "metrics": {"conditions"},
    "sweeps": set(),
    "synthetic": {"conditions", "data"},
    "sources": {"conditions", "data"},
    "training": {"metrics", "data", "models", "losses", "conditions"},
    "inference": {"metrics", "data", "models", "losses", "conditions"},
    "report": {"inference", "metrics", "data", "models", "losses", "conditions", "sweeps"},
    "export": {"metrics", "data", "models", "losses", "conditions"},
    "runs": {"report", "training", "inference", "metrics", "data", "models", "losses", "conditions"},
    "demo": {"inference", "metrics", "data", "models", "conditions"},
    "commands": {
        *("runs", "report", "export", "demo", "training", "inference"),
        *("metrics", "data", "models", "losses", "conditions", "sweeps"),
    },
    "__main__": {"launch"},
    "launch": {"commands", "runs", "training", "sweeps"},
}
"""Synthetic and sources are in nobody's list: only conf names them."""
LIBRARIES_THAT_STAY_OUT = {
    "conditions": {"torch", "lightning", "transformers", "peft", "torchmetrics"},
    "data": {"lightning.pytorch.LightningModule", "transformers", "peft", "torchmetrics"},
    "losses": {"lightning", "transformers", "peft"},
    "metrics": {"lightning", "transformers", "peft", "torch.nn"},
    "sweeps": {"torch", "lightning", "transformers", "peft", "optuna"},
    "demo": {"lightning", "transformers", "peft"},
    "models": {"lightning"},
}
LARGEST_PACKAGE, LONGEST_FILE, LONG_FILE = 0.20, 400, 200

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package under ``root`` by its dotted name; a package stands for its ``__init__``."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, module: str) -> Iterator[str]:
    """Dotted names that a file imports, wherever the import stands: in functions and for type checkers too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def import_graph(root: Path) -> Graph:
    """Which modules of the package each of them imports."""
    files = modules(root)
    graph: Graph = {}
    for module, path in files.items():
        graph[module] = set()
        for name in imported(path, module):
            while name and name not in files:  # siglip_med.losses.icd.icd_geometric is found in siglip_med.losses.icd
                name = name.rpartition(".")[0]
            if name and name != module:
                graph[module].add(name)
    return graph


def circles(graph: Graph) -> list[str]:
    """The modules that can reach themselves, by a depth-first walk from each."""
    found = []
    for start in graph:
        open_, seen = list(graph[start]), set()
        while open_:
            module = open_.pop()
            if module not in seen:
                seen.add(module)
                open_ += graph[module]
        if start in seen:
            found.append(start)
    return found


def package_of(module: str) -> str:
    """The subpackage of a module; '' for the package itself, which is the door and shows what is public."""
    return [*module.split("."), ""][1]


def wrong_arrows(root: Path) -> list[str]:
    """Imports against the order of the packages."""
    wrong = []
    for module, others in import_graph(root).items():
        here = package_of(module)
        for other in sorted(others):
            there = package_of(other)
            if here in {"", there} or there in NEUTRAL:
                continue
            if here in NEUTRAL or there not in MAY_IMPORT.get(here, set()):
                wrong.append(f"{module} imports {other}")
    return wrong


def strangers(root: Path) -> list[str]:
    """Imports of libraries that a package must not know."""
    wrong = []
    for module, path in modules(root).items():
        kept_out = LIBRARIES_THAT_STAY_OUT.get(package_of(module), set())
        wrong += [
            f"{module} imports {name}"
            for name in imported(path, module)
            if any(name == library or name.startswith(f"{library}.") for library in kept_out)
        ]
    return wrong


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def shares(root: Path) -> dict[str, float]:
    """Each package's share of the package's lines."""
    counts: dict[str, int] = {}
    for module, path in modules(root).items():
        counts[package_of(module)] = counts.get(package_of(module), 0) + lines(path)
    return {name: count / sum(counts.values()) for name, count in counts.items() if name in MAY_IMPORT}


def too_long(root: Path) -> str:
    """Says which files are over the limit, with those on their way to it; '' where none is over it."""
    lengths = {module: lines(path) for module, path in modules(root).items()}
    if max(lengths.values()) <= LONGEST_FILE:
        return ""
    return ", ".join(f"{module} {length}" for module, length in lengths.items() if length > LONG_FILE)


def without_a_sentence(root: Path) -> list[str]:
    """Packages whose docstring does not begin with one sentence on a line of its own."""
    files = modules(root)
    return [
        name
        for name in MAY_IMPORT
        if not re.fullmatch(
            r"[^\n]+\.",
            (ast.get_docstring(ast.parse(files[f"{PACKAGE}.{name}"].read_text())) or "").split("\n\n")[0],
        )
    ]


def test_every_package_is_known():
    assert {package_of(module) for module in modules(ROOT)} - {""} <= set(MAY_IMPORT) | NEUTRAL
    assert set(MAY_IMPORT) <= {package_of(module) for module in modules(ROOT)}


def test_no_file_imports_itself_by_way_of_others():
    assert circles(import_graph(ROOT)) == []


def test_arrows_run_one_way():
    assert wrong_arrows(ROOT) == []


def test_no_package_knows_the_libraries_of_another():
    assert strangers(ROOT) == []


def test_no_package_holds_more_than_a_fifth_of_the_lines():
    assert {name: round(share, 3) for name, share in shares(ROOT).items() if share > LARGEST_PACKAGE} == {}


def test_no_file_is_longer_than_400_lines():
    assert too_long(ROOT) == ""


def test_every_package_says_in_one_sentence_what_it_answers():
    assert without_a_sentence(ROOT) == []


def house(root: Path, **files: str) -> Path:
    """A small package: every package with its sentence, and the files given (``a__b`` is ``a/b.py``)."""
    for name in (*MAY_IMPORT, *NEUTRAL):
        folder = root / PACKAGE / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text('"""A package."""\n')
    (root / PACKAGE / "__init__.py").write_text("")
    for name, text in files.items():
        (root / PACKAGE / f"{name.replace('__', '/')}.py").write_text(text)
    return root


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("conditions__a", "from siglip_med.data import Batch"),
        ("data__a", "def f():\n    from siglip_med.models import TwoTower"),
        ("data__a", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import siglip_med.losses.b"),
        ("data__a", "import importlib\nimportlib.import_module('siglip_med.models')"),
        ("losses__a", "from ..models import TwoTower"),
        ("training__a", "from siglip_med import report"),
        ("inference__a", "from siglip_med.training.module import FineTuneModule"),
        ("commands__a", "from siglip_med.synthetic import SyntheticSource"),
        ("synthetic__a", "from siglip_med.models import TwoTower"),
        ("errors", "from siglip_med.conditions import ConditionSet"),
    ],
)
def test_an_arrow_upward_or_sideways_is_seen(tmp_path, file, text):
    root = house(tmp_path, losses__b="", **{file: text})
    assert len(wrong_arrows(root)) == 1


def test_arrows_downward_and_to_neutral_ground_are_right(tmp_path):
    text = "from siglip_med.core.errors import UserError\nfrom siglip_med.conditions import ConditionSet\n"
    root = house(tmp_path, core__errors="", data__a=text, synthetic__a="import siglip_med.data.a", commands__a=text)
    assert wrong_arrows(root) == []


def test_a_circle_is_seen_with_every_file_on_it(tmp_path):
    root = house(
        tmp_path,
        losses__a="from siglip_med.losses.b import f",
        losses__b="def f():\n    from siglip_med.losses import c",
        losses__c="import siglip_med.losses.a",
        losses__d="import siglip_med.losses.a",
    )
    assert circles(import_graph(root)) == [f"siglip_med.losses.{name}" for name in "abc"]


def test_a_library_in_the_wrong_package_is_seen(tmp_path):
    root = house(
        tmp_path,
        losses__a="def f():\n    import lightning.pytorch as pl",
        metrics__a="from torch import nn",
        conditions__a="import torch",
        models__a="import torch",
    )
    found = ["conditions.a imports torch", "losses.a imports lightning.pytorch", "metrics.a imports torch.nn"]
    assert strangers(root) == [f"siglip_med.{line}" for line in found]


def test_a_large_package_a_long_file_and_a_silent_package_are_seen(tmp_path):
    root = house(tmp_path, data__a="\n" * 401, data__b="\n" * 201, data__c="\n" * 200, models__a="\n" * 400)
    (root / PACKAGE / "report" / "__init__.py").write_text('"""No full stop"""\n')
    (root / PACKAGE / "export" / "__init__.py").write_text("")
    (root / PACKAGE / "models" / "__init__.py").write_text('"""One. Two\nlines."""\n')
    assert {name for name, share in shares(root).items() if share > LARGEST_PACKAGE} == {"data", "models"}
    assert too_long(root) == "siglip_med.data.a 401, siglip_med.data.b 201, siglip_med.models.a 400"
    assert without_a_sentence(root) == ["models", "report", "export"]
