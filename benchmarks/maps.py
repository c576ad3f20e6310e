"""Whether maps point at the lesion, on drawings whose lesions' place is known: a table of hit rates.

    python benchmarks/maps.py                                 # the embedded base, 100 drawings: about a minute
    python benchmarks/maps.py --checkpoint logs/…/best.ckpt   # a trained model

The pointing game (Zhang et al. 2016, arXiv 1608.00507): a hit is a map whose highest point lies in a lesion. Chance is
a point thrown anywhere: the mean share of the drawing that is lesion. A map that hits as often with random weights
(Adebayo et al. 2018, arXiv 1810.03292) shows the drawing, not the model.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize as unit

from siglip_med.conditions import evaluation_prompts, load_conditions
from siglip_med.data.dataset import normalize
from siglip_med.inference import occlusion_map, relevance_map, shifted_relevance_map
from siglip_med.launch.entry import _quiet_libraries
from siglip_med.models import Frozen, PromptEnsemble, TwoTower, load_model, siglip
from siglip_med.synthetic import SyntheticSource
from siglip_med.synthetic.renderer import render_with_lesions

SEED = 1000
"""Of the drawings that are judged; choices about the maps were made on others."""


@dataclass(frozen=True)
class Drawings:
    """N drawings: ``pixels`` ``[N, 3, S, S]``, ``lesions`` ``[N, S, S]`` bool, ``texts`` ``[N, E]`` of conditions."""

    pixels: Tensor
    lesions: np.ndarray
    texts: Tensor

    def chance(self, reach: int) -> float:
        """Mean share of a drawing that lies in a lesion, or within ``reach`` pixels of one."""
        return float(np.mean([widened(lesion, reach).mean() for lesion in self.lesions]))


def draw(model: TwoTower, count: int, seed: int = SEED, against: bool = True) -> Drawings:
    """One view of each of ``count`` cases, with the text of the case's first condition.

    Args:
        model: encodes the prompts.
        count: at most 198.
        seed: of the drawings.
        against: whether what all conditions' texts share is taken off each.
    """
    source = SyntheticSource(root="unused", n_images=198, seed=seed, size=model.image_spec.size)
    names = source.conditions()
    texts = PromptEnsemble(evaluation_prompts(load_conditions(list(names))), model.tokenize).encode(model)
    if against:
        texts = unit(texts - texts.mean(dim=0), dim=-1)
    pictures, lesions, first = [], [], []
    cases = list(source.draw_cases())
    for number in np.random.default_rng(seed).permutation(len(cases))[:count]:
        rng = np.random.default_rng([seed, 2, number])
        picture, lesion = render_with_lesions(cases[number].appearance, source.size, rng)
        pictures.append(picture)
        lesions.append(lesion > 0.5)
        first.append(names.index(cases[number].columns["condition"].split("|")[0]))
    return Drawings(normalize(np.stack(pictures), model.image_spec), np.stack(lesions), texts[first])


def hits(drawings: Drawings, draw_map: Callable[[Tensor, Tensor], np.ndarray], reach: int) -> tuple[float, float]:
    """Shares of the drawings where the map's highest point is in a lesion, and within ``reach`` pixels of one."""
    found = []
    for pixels, lesion, text in zip(drawings.pixels, drawings.lesions, drawings.texts, strict=True):
        values = cv2.resize(draw_map(pixels, text), lesion.shape[::-1], interpolation=cv2.INTER_CUBIC)
        peak = values.argmax()
        found.append((lesion.flat[peak], widened(lesion, reach).flat[peak]))
    inside, near = np.mean(found, axis=0)
    return float(inside), float(near)


def widened(lesion: np.ndarray, reach: int) -> np.ndarray:
    """A mask with ``reach`` pixels around it."""
    return cv2.dilate(lesion.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool)


@torch.no_grad()
def randomize(model: TwoTower, seed: int = 0) -> None:
    """Draws every weight of the vision tower anew, with the spread that each matrix has; vectors stay."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.vision_tower().parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.std() + parameter.mean())


def rows(model: TwoTower, count: int) -> Iterator[tuple[str, float, float]]:
    """Name, hit rate, and hit rate within a quarter of a patch (2 of 64 pixels)."""
    near = max(1, model.image_spec.size // 32)
    drawings = draw(model, count)
    maps = {
        "relevance, one map": lambda pixels, text: relevance_map(model, pixels, text),
        "relevance": lambda pixels, text: shifted_relevance_map(model, pixels, text),
        "occlusion": lambda pixels, text: occlusion_map(model, pixels, text),
    }
    for name, draw_map in maps.items():
        yield name, *hits(drawings, draw_map, near)
    others = Drawings(drawings.pixels, drawings.lesions, drawings.texts.roll(count // 2, dims=0))
    yield "relevance, another drawing's text", *hits(others, maps["relevance"], near)
    plain = draw(model, count, against=False)
    yield "relevance, text as it is", *hits(plain, maps["relevance"], near)
    randomize(model)
    for name, draw_map in maps.items():
        yield f"{name}, random weights", *hits(drawings, draw_map, near)
    center = np.zeros((3, 3))
    center[1, 1] = 1
    yield "the center of every drawing", *hits(drawings, lambda *_: center, near)
    yield "chance", drawings.chance(0), drawings.chance(near)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--drawings", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    _quiet_libraries()
    if arguments.checkpoint:
        model, _ = load_model(arguments.checkpoint, None)
    else:
        model = siglip(path="package:siglip_tiny", adaptation=Frozen())
    table = Table("map", "peak in a lesion", "or 2 of 64 pixels beside", title=f"{arguments.drawings} drawings")
    for name, inside, near in rows(model.eval(), arguments.drawings):
        table.add_row(name, f"{inside:.0%}", f"{near:.0%}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
