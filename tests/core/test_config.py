"""A wrong key, type or range stops with one line that names it."""

import re
from typing import Annotated, Literal

import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field

from siglip_med.core.config import instantiate, validate_config
from siglip_med.core.errors import UserError


class Part:
    """A stand-in for anything that a config instantiates."""

    def __init__(
        self, size: Annotated[int, Field(ge=1)], kind: Literal["a", "b"] = "a", inner: "Part | None" = None
    ) -> None:
        self.size, self.kind, self.inner = size, kind, inner


class Settings(BaseModel):
    """A stand-in for the top level."""

    model_config = ConfigDict(extra="forbid")
    seed: Annotated[int, Field(ge=0)]
    part: object = None


@pytest.fixture(autouse=True)
def _target(monkeypatch):
    monkeypatch.setattr("siglip_med.Part", Part, raising=False)


def check(settings=None, **keys):
    validate_config(OmegaConf.create(keys), settings)


GOOD = {"_target_": "siglip_med.Part", "size": 3, "kind": "b", "inner": {"_target_": "siglip_med.Part", "size": 1}}


def test_a_right_config_passes():
    check(Settings, seed=0, part=GOOD)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"siez": 3}, r"part\.siez: no such setting of siglip_med\.Part; did you mean size\?"),
        ({"size": 0}, r"part\.size: .*greater than or equal to 1, not 0"),
        ({"size": "many"}, r"part\.size: .*integer.*, not 'many'"),
        ({"kind": "c"}, r"part\.kind: .*'a' or 'b', not 'c'"),
        ({"inner": {"_target_": "siglip_med.Part", "size": -1}}, r"part\.inner\.size: .*, not -1"),
        ({"_target_": "siglip_med.Prat"}, r"part\._target_: cannot import 'siglip_med\.Prat'"),
        ({"size": "???"}, r"part\.size has no value"),
    ],
)
def test_a_wrong_node_is_named_in_one_line(change, line):
    with pytest.raises(UserError) as caught:
        check(Settings, seed=0, part=GOOD | change)
    assert re.match(line, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"seed": -1}, r"seed: .*, not -1"),
        ({"seed": 0, "sed": 1}, r"sed: no such setting; did you mean seed\?"),
        ({"seed": 0, "part": "${nowhere}"}, r".*nowhere"),
    ],
)
def test_a_wrong_top_level_key_is_named(keys, line):
    with pytest.raises(UserError) as caught:
        check(Settings, **keys)
    assert re.match(line, str(caught.value)), str(caught.value)


def refuse():
    raise UserError("the folder is missing")


def test_a_users_error_leaves_hydra_unwrapped(monkeypatch):
    monkeypatch.setattr("siglip_med.refuse", refuse, raising=False)
    with pytest.raises(UserError, match=r"^the folder is missing$"):
        instantiate({"_target_": "siglip_med.Part", "size": 1, "inner": {"_target_": "siglip_med.refuse"}})
    with pytest.raises(InstantiationException):
        instantiate({"_target_": "siglip_med.Part"})
