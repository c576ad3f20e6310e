"""Pretraining runs on image-caption pairs, and its base is a model folder like any other."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from siglip_med.models import siglip
from tests.short_runs import CONF
from tools.pretraining import __main__ as pretrain

HERE = Path(pretrain.__file__).parent / "conf"
SMALL = ["data.source.n_images=60", "data.batch_size=8", "callbacks.progress=null"]


def compose_config(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(HERE)):
        return compose("pretrain", overrides=[f"hydra.searchpath=[file://{CONF}]", *overrides])


def small_settings(cache, folder, *overrides):
    places = (f"paths.output_dir={folder}", f"paths.cache_dir={cache}")
    return typed(compose_config(*SMALL, *places, *overrides), pretrain.Settings)


def test_two_steps_write_a_base_that_loads_with_the_trained_weights(cache, tmp_path, capsys):
    base = tmp_path / "base"
    result = pretrain.run(small_settings(cache, tmp_path / "run", "trainer.max_steps=2", f"export_to={base}"))
    assert result.trainer.global_step == 2
    assert result.metrics["val/loss"] > 0
    pretrain.show(result)
    assert str(base) in capsys.readouterr().out.replace("\n", "")

    images = torch.randn(2, 3, result.model.image_spec.size, result.model.image_spec.size)
    loaded, untrained = siglip(str(base)).eval(), siglip(str(tmp_path / "run" / "untrained")).eval()
    expected = result.model.eval().encode_images(images)
    # A base is kept in half precision.
    torch.testing.assert_close(loaded.encode_images(images), expected, atol=4e-3, rtol=0)
    assert not torch.allclose(untrained.encode_images(images), expected, atol=4e-3, rtol=0)


def test_a_dry_run_writes_no_base(cache, tmp_path):
    base = tmp_path / "base"
    result = pretrain.run(small_settings(cache, tmp_path / "run", "debug=fdr", f"export_to={base}"))
    assert result.base is None
    assert not base.exists()


def test_a_model_without_both_towers_is_refused_in_one_line(cache, tmp_path):
    with pytest.raises(UserError) as caught:
        typed(compose_config(*SMALL, "model=dual_encoder"), pretrain.Settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", [f"loss={loss}" for loss in ("softmax", "multi_positive", "infonce", "eye_sigmoid")])
def test_every_loss_of_image_caption_pairs_fits(cache, tmp_path, word):
    small_settings(cache, tmp_path, word)


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF / "debug").glob("*.yaml")))
def test_every_way_of_debugging_fits(cache, tmp_path, choice):
    small_settings(cache, tmp_path, f"debug={choice}")
