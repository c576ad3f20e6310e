"""The same weights under another library's names, some of them joined in one matrix there, or transposed."""

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

Names = Iterable[tuple[str, tuple[str, ...]]]
"""Another library's name of a weight, and its name here; several where that library holds them in one matrix."""


def renamed(
    theirs: Mapping[str, Tensor], names: Names, transposed: Collection[str] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under the names of the transformers library, and the names that have no place there.

    Args:
        theirs: weights by the other library's names.
        names: of both.
        transposed: which of the other library's names it holds transposed.
    """
    left = dict(theirs)
    state: dict[str, Tensor] = {}
    for old, new in names:
        if old in left:
            value = left.pop(old).T if old in transposed else left.pop(old)
            parts = value.chunk(len(new)) if len(new) > 1 else (value,)
            state |= {name: part.contiguous() for name, part in zip(new, parts, strict=True)}
    return state, sorted(left)


def renamed_back(ours: Mapping[str, Tensor], names: Names, transposed: Collection[str] = ()) -> dict[str, Tensor]:
    """The inverse of `renamed`.

    Args:
        ours: weights by the names of the transformers library.
        names: of both.
        transposed: which of the other library's names it holds transposed.
    """
    state = {}
    for old, new in names:
        value = torch.cat([ours[name] for name in new]) if len(new) > 1 else ours[new[0]]
        state[old] = value.T.contiguous() if old in transposed else value
    return state


def misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], left: Iterable[str]) -> list[str]:
    """Names of weights that are missing, have no place, or are of another shape; empty if all fit.

    Args:
        state: from `renamed`.
        expected: ``state_dict`` of the model that it is for.
        left: what `renamed` found no place for.
    """
    known = {name: value for name, value in expected.items() if not name.endswith("position_ids")}
    wrong = sorted({*left, *(known.keys() ^ state.keys())})
    return wrong or [name for name, value in known.items() if value.shape != state[name].shape]
