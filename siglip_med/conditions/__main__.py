"""Command line: ``python -m siglip_med.conditions suggest "text" | show | heatmap out.png``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from siglip_med.conditions.condition import ConditionSet
from siglip_med.conditions.curated import VOCABULARIES, known_conditions
from siglip_med.conditions.geometry import GEOMETRIES, MEASURES, dissimilarity
from siglip_med.conditions.load import load_conditions
from siglip_med.conditions.user_map import read_user_map
from siglip_med.core.errors import UserError
from siglip_med.core.outside import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status is 0, or 2 after a `UserError`, whose message is printed alone."""
    options = _parser().parse_args(arguments)
    try:
        print(_COMMANDS[options.command](options))
    except UserError as error:
        print(printable(error), file=sys.stderr)
        return 2
    return 0


def _suggest(options: argparse.Namespace) -> str:
    from siglip_med.conditions.suggest import suggest_codes

    found = suggest_codes(options.text, options.limit)
    if not found:
        raise UserError(f"{options.text!r}: no ICD-10-CM title or known name shares a word with it; try other words")
    return "\n".join(f"{code:<9} {title}   [{matched}, {score:.2f}]" for code, title, matched, score in found)


def _show(options: argparse.Namespace) -> str:
    from siglip_med.conditions.tree import tree_text

    return tree_text(_conditions(options))


def _heatmap(options: argparse.Namespace) -> str:
    from siglip_med.conditions.heatmap import draw_heatmap

    conditions = _conditions(options)
    if not options.out.parent.is_dir():
        raise UserError(f"{options.out}: its folder does not exist; make it first")
    matrix = dissimilarity(conditions, options.geometry, options.measure)
    detail = f", {options.measure}" if options.geometry in ("icd", "blend") else ""
    title = f"{len(conditions)} conditions, geometry {options.geometry}{detail}"
    draw_heatmap(matrix, conditions, title, options.out)
    return str(options.out)


_COMMANDS = {"suggest": _suggest, "show": _show, "heatmap": _heatmap}


def _conditions(options: argparse.Namespace) -> ConditionSet:
    """The conditions that the options choose: a curated table, or all rows of a user's map."""
    if options.codes is None:
        return load_conditions(known_conditions(options.vocabulary))
    names = [condition.name for condition in read_user_map(options.codes).values()]
    return load_conditions(names, options.codes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m siglip_med.conditions", description="The medical geometry.")
    commands = parser.add_subparsers(dest="command", required=True)
    suggest = commands.add_parser("suggest", help="propose ICD-10-CM codes for a text")
    suggest.add_argument("text")
    suggest.add_argument("--limit", type=int, default=8, help="how many codes")
    show = commands.add_parser("show", help="print the tree of the conditions")
    heatmap = commands.add_parser("heatmap", help="draw D, ordered by the tree")
    heatmap.add_argument("out", type=Path, help="file to write, e.g. geometry.png")
    heatmap.add_argument("--geometry", choices=[g for g in GEOMETRIES if g != "colisting"], default="icd")
    heatmap.add_argument("--measure", choices=MEASURES, default="level")
    for command in (show, heatmap):
        chosen = command.add_mutually_exclusive_group()
        chosen.add_argument("--vocabulary", choices=VOCABULARIES, default="catalog", help="a curated table")
        chosen.add_argument("--codes", type=Path, help="your own CSV with the columns condition and code")
    return parser


if __name__ == "__main__":
    sys.exit(main())
