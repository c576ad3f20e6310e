"""Every default is the same for who writes Python and for who writes configs.

A file in ``conf/`` that names a ``_target_`` gives the defaults of that signature. Where it means to differ, the table
below says so, key by key: a value that drifts apart on either side fails here.
"""

import dataclasses
import inspect
from functools import cache

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from siglip_med import losses
from siglip_med.conditions import dissimilarity
from siglip_med.export import export_checkpoint
from siglip_med.inference.photographs import Classifier, load
from siglip_med.metrics import Bootstrap
from tests.test_configs import COMMANDS, CONF, GROUPS, files

LORA_SMALL = {f"model.adaptation.{key}" for key in ("dropout", "rank", "train_pooling_head", "train_projection")}
GEOMETRY = {"horizontal_flip", "vertical_flip", "crop", "crop_ratio", "rotation", "rotation_probability"}
COLOR = {"brightness", "contrast", "saturation", "hue", "color_probability"}
BLUR = {"blur", "blur_probability", "noise", "noise_probability"}

TABLES = {
    "ddi": "license table image_column condition_column aliases skin_tone_column near_duplicate_distance",
    "derm7pt": "license table image_column image_folder condition_column aliases group_column sex_column site_column",
    "fitzpatrick17k_c": "table",
    "isic2020": "license table image_column image_folder image_suffix condition_column aliases group_column sex_column "
    "age_column site_column",
    "isic2024": "license table image_column image_folder image_suffix condition_column aliases group_column sex_column "
    "age_column site_column",
    "milk10k": "license table join_table join_key image_column image_folder image_suffix condition_columns "
    "group_column image_id_column sex_column age_column site_column",
}
"""Published data sets that a general source reads -> what each says of its table."""

VARIANTS = {
    **{
        f"data/{name}": {f"data.source.{key}" for key in ("dataset_name", *keys.split())}
        for name, keys in TABLES.items()
    },
    "check": {"data.on_bad_image"},
    "augmentation/light": {f"augmentation.{key}" for key in GEOMETRY},
    "augmentation/default": {f"augmentation.{key}" for key in GEOMETRY | COLOR | BLUR},
    "augmentation/strong": {f"augmentation.{key}" for key in GEOMETRY | COLOR | BLUR | {"max_tone_shift"}},
    "data/synthetic": {"data.num_workers"},
    "loss/layered": {
        *(f"loss.terms.icd_tree.{key}" for key in ("coefficient", "scale", "term.adjustment")),
        *(f"loss.terms.icd_text.{key}" for key in ("coefficient", "scale", "term.pairs")),
        *(f"loss.terms.{term}.coefficient" for term in ("sigmoid", "wasserstein", "hardneg", "final")),
        "loss.terms.wasserstein.scale",
    },
    "loss/published": {
        *(f"loss.terms.{term}.coefficient" for term in ("sigmoid", "icd", "wasserstein", "hardneg", "final")),
        "loss.terms.icd.scale",
    },
    "loss/softmax": {"loss.terms.softmax.term.direction"},
    "model/adaptation/lora_small": LORA_SMALL,
    "model/medsiglip_448": {"model.gradient_checkpointing"},
    "model/siglip_tiny": LORA_SMALL | {"model.logits.bias"},
    "schedule/constant": {"schedule.span"},
    "schedule/layered": {"schedule.span"},
    "schedule/published": {"schedule.span"},
    "trainer/bf16": {"trainer.precision"},
    "trainer/cpu": {"trainer.accelerator"},
    "trainer/ddp": {"trainer.strategy"},
    "train": {
        "data.batch_size",
        "optimizer.learning_rate",
        "schedule.unit",
        "trainer.max_steps",
    },  # the recipe of siglip_tiny
}
"""File -> the keys in which it means to differ from the signature."""

CHOOSERS = {"experiment", "launcher"}
"""Groups that only choose among the others."""

FILES = [f"{group}/{name}" for group in GROUPS for name in files(group) if group not in CHOOSERS]

PYTHON = [
    ("train", "evaluation.bootstrap", Bootstrap, "repetitions"),
    ("train", "evaluation.coverage", Bootstrap, "coverage"),
    ("train", "conditions.geometry", dissimilarity, "geometry"),
    ("train", "conditions.measure", dissimilarity, "measure"),
    ("train", "conditions.weights", dissimilarity, "weights"),
    ("evaluate", "report.bootstrap", Bootstrap, "repetitions"),
    ("evaluate", "report.coverage", Bootstrap, "coverage"),
    ("predict", "top_k", Classifier.predict, "top_k"),
    ("predict", "batch_size", Classifier.predict, "batch_size"),
    ("predict", "device", load, "device"),
    ("predict", "base", load, "base"),
    ("export", "license", export_checkpoint, "license"),
    ("export", "base", export_checkpoint, "base"),
]
"""Settings that a command hands to a function by itself, without a ``_target_``."""


def defaults(function):
    parameters = inspect.signature(function).parameters.values()
    return {p.name: plain(p.default) for p in parameters if p.default is not p.empty}


def plain(value):
    """As YAML would give it."""
    return list(value) if isinstance(value, tuple) else value


def judged(value):
    """Neither a node, which is compared with its own signature, nor an interpolation."""
    if isinstance(value, dict):
        return "_target_" not in value and all(map(judged, value.values()))
    return all(map(judged, value)) if isinstance(value, list) else "${" not in str(value)


def differences(node, path=""):
    """Where a node gives another value than the signature that it names: path -> value."""
    found = {}
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("siglip_med."):
            expected = defaults(get_object(node["_target_"]))
            found |= {
                f"{path}.{key}": value
                for key, value in node.items()
                if key in expected and judged(value) and value != expected[key]
            }
        for key, value in node.items():
            found |= differences(value, f"{path}.{key}" if path else str(key))
    return found


@cache
def read(name):
    """A config with its defaults list, as plain values; interpolations as they are written."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return OmegaConf.to_container(compose(name))


def chosen(command):
    """The files that a command's defaults list chooses."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        choices = compose(command, return_hydra_config=True).hydra.runtime.choices
    return [f"{group}/{name}" for group, name in choices.items() if name and not group.startswith("hydra/")]


@pytest.mark.parametrize("name", FILES)
def test_a_config_gives_the_defaults_of_what_it_names_or_is_listed_as_a_variant(name):
    group, _, file = name.partition("/")
    if group == "external":  # a data set that is read as another clinic's: the same file
        known = {
            path.replace("data.", "external.", 1)
            for path in VARIANTS.get(f"data/{file}", set())
            if path.startswith("data.source.")  # its own split, workers and batches are the run's
        }
    else:
        known = VARIANTS.get(name, set())
    assert set(differences(read(name))) == known


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_changes_only_the_listed_keys_of_what_it_chooses(command):
    known = {item for name in chosen(command) for item in map(str, differences(read(name)).items())}
    changed = {path for path, value in differences(read(command)).items() if str((path, value)) not in known}
    assert changed == VARIANTS.get(command, set())


def test_every_listed_variant_is_there():
    assert set(VARIANTS) <= {*FILES, *COMMANDS}


@pytest.mark.parametrize(("command", "key", "function", "parameter"), PYTHON)
def test_python_has_the_defaults_of_the_command_line(command, key, function, parameter):
    assert OmegaConf.select(OmegaConf.create(read(command)), key) == defaults(function)[parameter]


def test_every_term_has_a_file():
    exported = {getattr(losses, name) for name in losses.__all__}
    nodes = [read(f"loss/term/{name}")["loss"]["term"]["term"] for name in files("loss/term")]
    terms = {item for item in exported if dataclasses.is_dataclass(item)} - {losses.PairBatch}
    assert terms == {get_object(node["_target_"]) for node in nodes}
