"""The examples of docstrings give what they say."""

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch

import siglip_med

ROOMS = ("conditions", "losses", "metrics")


def modules() -> list[str]:
    """Every module of the rooms that holds an example."""
    found = []
    for room in ROOMS:
        package = importlib.import_module(f"siglip_med.{room}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            spec = importlib.util.find_spec(module.name)
            assert spec is not None
            assert spec.loader is not None
            if ">>> " in (spec.loader.get_source(module.name) or "") and not module.name.endswith("__main__"):
                found.append(module.name)
    return found


@pytest.mark.parametrize("name", modules())
def test_examples(name):
    module = importlib.import_module(name)
    names = {"np": np, "torch": torch, "siglip_med": siglip_med}
    with np.printoptions(precision=4, suppress=True), torch.random.fork_rng():
        result = doctest.testmod(module, extraglobs=names, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert result.failed == 0
