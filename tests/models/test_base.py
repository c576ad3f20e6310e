"""The fingerprint of a base: the same wherever the base lies, another for every other base."""

import re

import torch
from transformers import AutoModel

from siglip_med.models import fingerprint, siglip
from tests.models import tiny


def test_it_survives_saving_elsewhere_and_does_not_depend_on_the_adaptation(tmp_path):
    folder = tiny.write_siglip(tmp_path / "a")
    model = AutoModel.from_pretrained(folder)
    model.save_pretrained(tmp_path / "b")
    again = AutoModel.from_pretrained(tmp_path / "b")
    assert fingerprint({"model": model}) == fingerprint({"model": again}) == siglip(str(folder)).base.fingerprint


def test_it_sees_weights_and_settings(tmp_path):
    model = AutoModel.from_pretrained(tiny.write_siglip(tmp_path))
    before = fingerprint({"model": model})
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    model.config.text_config.hidden_act = "relu"
    after_setting = fingerprint({"model": model})
    with torch.no_grad():
        model.text_model.head.bias[-1] += 1e-3
    assert len({before, after_setting, fingerprint({"model": model})}) == 3


def test_another_training_of_the_same_layers_is_another_base(tmp_path):
    one, two = (siglip(str(tiny.write_siglip(tmp_path / str(seed), seed))) for seed in (1, 2))
    assert one.base.fingerprint != two.base.fingerprint
    assert one.base.name == str(tmp_path / "1")
