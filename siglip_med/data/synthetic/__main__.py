"""``python -m siglip_med.data.synthetic contact-sheet out.png``: each condition on each skin tone."""

import argparse
import textwrap
from pathlib import Path

import cv2
import numpy as np

from siglip_med.data.synthetic.recipes import load_recipes
from siglip_med.data.synthetic.renderer import draw_appearance, render
from siglip_med.data.synthetic.vocabulary import SKIN_TONES

_LABEL = 150


def contact_sheet(path: Path, seed: int = 0, size: int = 64, columns: int = 3) -> None:
    """Draw all conditions x six skin tones, ``columns`` conditions side by side, into a PNG file."""
    recipes = load_recipes()
    rows = -(-len(recipes) // columns)
    block = _LABEL + len(SKIN_TONES) * (size + 2)
    sheet = np.full((rows * (size + 2), columns * block, 3), 255, np.uint8)
    for index, recipe in enumerate(recipes):
        top, left = (index % rows) * (size + 2), (index // rows) * block
        for line, text in enumerate(textwrap.wrap(recipe.condition, 19)[:4]):
            place = (left + 4, top + 14 + 13 * line)
            cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        sites = list(recipe.sites)
        for column, tone in enumerate(SKIN_TONES):
            rng = np.random.default_rng([seed, index, column])
            appearance = draw_appearance(rng, recipe.layers, int(tone), sites[column % len(sites)])
            start = left + _LABEL + column * (size + 2)
            sheet[top : top + size, start : start + size] = render(appearance, size, rng)
    if not cv2.imwrite(str(path), sheet[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9]):
        raise OSError(f"could not write {path}")


def main() -> None:
    """Entry point of ``python -m siglip_med.data.synthetic``."""
    parser = argparse.ArgumentParser(prog="python -m siglip_med.data.synthetic", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sheet = commands.add_parser("contact-sheet", help="draw all conditions on six skin tones into a PNG file")
    sheet.add_argument("path", type=Path)
    sheet.add_argument("--seed", type=int, default=0)
    sheet.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    contact_sheet(arguments.path, arguments.seed, arguments.size)


if __name__ == "__main__":
    main()
