"""Every config of every group composes, and fits the signatures that it instantiates."""

import importlib

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from siglip_med.core.config import config_dir, validate_config

CONF = config_dir()
COMMANDS = sorted(path.stem for path in CONF.glob("[!_]*.yaml"))
PLACES = {"loss/term": "+loss/term@loss.terms.more"}
"""How a group is chosen, where it takes more than its name."""


def files(group):
    return sorted(path.stem for path in (CONF / group).glob("[!_]*.yaml"))


GROUPS = sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir())
CHOICES = [(group, choice) for group in GROUPS if group not in ("recipe", "external") for choice in files(group)]


SOURCES = {name: {"_target_": "siglip_med.sources.CsvSource", "root": "somewhere"} for name in ("a", "b")}


def settings_of(command):
    return importlib.import_module(f"siglip_med.commands.{command}").Settings


def composed(*overrides, command="train"):
    """A command's config, with ``somewhere`` for what a user has to give."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose(command, overrides=list(overrides))
    node = config.paths if "paths" in config else config
    with open_dict(config):
        if "output_dir" in node:
            node.output_dir = "somewhere"  # Hydra's own, which only a job has
        for key in OmegaConf.missing_keys(config):
            OmegaConf.update(config, key, SOURCES if key.endswith(".sources") else "somewhere")
    return config


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=[f"{group}={choice}" for group, choice in CHOICES])
def test_every_choice_of_every_group_fits_what_it_instantiates(group, choice):
    validate_config(composed(f"{PLACES.get(group, group)}={choice}"), settings_of("train"))


def test_every_data_set_can_be_an_external_one():
    assert files("external") == [name for name in files("data") if name != "mixture"]
    for name in files("external"):
        config = composed(f"external={name}", command="evaluate")
        validate_config(config, settings_of("evaluate"))
        assert config.external.name == name
        assert config.external.source == composed(f"data={name}").data.source


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_fits_its_settings(command):
    config = composed(command=command)
    validate_config(config, settings_of(command))
    fields = settings_of(command).model_fields
    assert {name for name, field in fields.items() if field.is_required()} <= set(config) <= set(fields)


@pytest.mark.parametrize(("name", "steps"), [("siglip_tiny", 300), ("siglip_base", 2500)])
def test_the_recipe_follows_the_model_and_an_experiment_or_the_command_line_wins(name, steps):
    assert composed(f"model={name}", "experiment=layered").trainer.max_steps == steps
    assert composed(f"model={name}", "experiment=layered", "trainer.max_steps=7").trainer.max_steps == 7


def test_the_names_of_experiments_are_those_of_their_files():
    for path in (CONF / "experiment").glob("*.yaml"):
        assert OmegaConf.load(path).name == path.stem


def test_every_recipe_is_a_models_and_every_model_has_one():
    assert files("recipe") == files("model")
