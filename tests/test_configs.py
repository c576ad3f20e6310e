"""Every config of every group composes and fits the signatures that it instantiates."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from siglip_med.commands import train
from siglip_med.config import validate_config

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and folder.name != "recipe")
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("[!_]*.yaml"))]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("train", overrides=["paths.output_dir=somewhere", *overrides])
    with open_dict(config):
        for key in OmegaConf.missing_keys(config):
            OmegaConf.update(config, key, "somewhere")
    return config


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{group}={choice}" for group, choice in CHOICES])
def test_every_choice_of_every_group_fits_what_it_instantiates(group, choice):
    validate_config(composed(f"{group}={choice}"), train.Settings)


def test_every_recipe_is_a_models_and_every_model_has_one():
    recipes, models = ({path.stem for path in (CONF / group).glob("*.yaml")} for group in ("recipe", "model"))
    assert recipes == models


@pytest.mark.parametrize("name", ["siglip_tiny", "siglip_base"])
def test_the_recipe_follows_the_model_and_an_experiment_or_the_command_line_wins(name):
    expected = OmegaConf.load(CONF / "recipe" / f"{name}.yaml").trainer.max_steps
    assert composed(f"model={name}", "experiment=layered").trainer.max_steps == expected
    assert composed(f"model={name}", "experiment=layered", "trainer.max_steps=7").trainer.max_steps == 7


def test_the_names_of_experiments_are_those_of_their_files():
    for path in (CONF / "experiment").glob("*.yaml"):
        assert OmegaConf.load(path).name == path.stem
