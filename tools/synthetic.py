"""Commands of the synthetic data.

``python -m tools.synthetic contact-sheet out.png`` draws each condition on each skin tone;
``python -m tools.synthetic corpus out.txt`` writes the sentences that the tiny model's tokenizer learns from.
"""

import argparse
import textwrap
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from siglip_med.conditions import load_conditions, training_prompts
from siglip_med.synthetic.recipes import load_recipes
from siglip_med.synthetic.renderer import draw_appearance, render
from siglip_med.synthetic.vocabulary import SKIN_TONES
from tools.pretraining.habits import draw_layers
from tools.pretraining.sentences import caption

_LABEL = 150


def contact_sheet(path: Path, seed: int = 0, size: int = 64, columns: int = 3) -> None:
    """Draw all conditions x six skin tones, ``columns`` conditions side by side, into a PNG file with a palette."""
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
    # A palette holds skin well and makes the file a third of its size.
    Image.fromarray(sheet).quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE).save(
        path, "PNG", optimize=True
    )


def corpus(n_captions: int, seed: int = 0) -> list[str]:
    """Captions, and the prompts of the 66 conditions often enough that their words become tokens of their own."""
    prompts = training_prompts(load_conditions([recipe.condition for recipe in load_recipes()]))
    sentences = [text for texts in prompts for text in texts] * 3
    for number in range(n_captions):
        rng = np.random.default_rng([seed, 4, number])
        layers, site = draw_layers(rng)
        tone = int(rng.integers(1, len(SKIN_TONES) + 1))
        sentences.append(caption(rng, draw_appearance(rng, layers, tone, site)))
    return sentences


def main() -> None:
    """Entry point of ``python -m tools.synthetic``."""
    parser = argparse.ArgumentParser(prog="python -m tools.synthetic", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sheet = commands.add_parser("contact-sheet", help="draw all conditions on six skin tones into a PNG file")
    sheet.add_argument("path", type=Path)
    sheet.add_argument("--seed", type=int, default=0)
    sheet.add_argument("--size", type=int, default=64)
    texts = commands.add_parser("corpus", help="write captions and prompts into a text file, one per line")
    texts.add_argument("path", type=Path)
    texts.add_argument("--captions", type=int, default=4000)
    arguments = parser.parse_args()
    if arguments.command == "corpus":
        arguments.path.write_text("\n".join(corpus(arguments.captions)) + "\n", encoding="utf-8")
    else:
        contact_sheet(arguments.path, arguments.seed, arguments.size)


if __name__ == "__main__":
    main()
