"""What a fine-tuning run leaves, and that what it says of itself is true."""

import json

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from siglip_med.commands.train import optimized_metric, run
from siglip_med.core.errors import UserError
from siglip_med.inference.probe import frozen_features
from siglip_med.inference.refit import refit_answers
from siglip_med.metrics import Predictions, fit_calibration, fit_kernel_ridge, headline_metrics
from siglip_med.models import load_model, read_checkpoint, read_refit, write_checkpoint
from siglip_med.runs.stored import open_run, predict_run
from tests.short_runs import small_settings


@pytest.fixture(scope="session")
def events(short_run):
    accumulator = EventAccumulator(str(short_run.folder / "tensorboard"), size_guidance={"tensors": 0})
    return accumulator.Reload()


def scalars(events, tag):
    return {event.step: event.value for event in events.Scalars(tag)}


def test_tensorboard_shows_terms_coefficients_rates_norms_and_validation(events):
    tags = set(events.Tags()["scalars"])
    for term in ("sigmoid", "icd", "wasserstein", "hardneg", "final"):
        assert {f"loss_raw/{term}", f"loss_weighted/{term}"} <= tags
    assert {f"coefficient/{name}" for name in ("alpha", "beta", "gamma", "delta")} <= tags
    assert {
        "loss/total",
        "grad_norm/total",
        "parameter_norm/total",
        "val/r_at_5",
        "val/macro_r_at_5",
        "val/loss",
    } <= tags
    assert any(tag.startswith("lr-AdamW") for tag in tags)
    assert any(tag.startswith("grad_cosine/") for tag in tags)


def test_the_logged_terms_add_up_to_the_logged_total(events):
    total = scalars(events, "loss/total")
    sums = dict.fromkeys(total, 0.0)
    for term in ("sigmoid", "icd", "wasserstein", "hardneg", "final"):
        for step, value in scalars(events, f"loss_weighted/{term}").items():
            sums[step] += value
    assert sums == pytest.approx(total, rel=1e-4)
    assert len(total) == 12


def test_the_coefficients_follow_the_stretched_schedule(events):
    alpha, delta = scalars(events, "coefficient/alpha"), scalars(events, "coefficient/delta")
    for step in alpha:
        position = step / 12 * 2500
        assert alpha[step] == pytest.approx(np.interp(position, [0, 1000], [0, 1]), abs=1e-6)
        assert delta[step] == pytest.approx(np.interp(position, [2000, 2500], [0, 1]), abs=1e-6)


def test_the_hyper_parameters_tab_is_filled(short_run):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams import metadata

    found: dict[str, object] = {}
    for path in (short_run.folder / "tensorboard").glob("events*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME and "session_start" in value.tag:
                    content = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
                    found |= dict(content.hparams)
    assert {"seed", "optimizer.learning_rate", "model.adaptation.rank", "loss.terms.icd.scale"} <= set(found)


def test_the_saved_predictions_give_the_printed_metrics_again(short_run):
    saved = json.loads((short_run.folder / "metrics.json").read_text())["metrics"]
    for stage, name in (("tuned", "test"), ("zero_shot", "zero_shot_test")):
        again = headline_metrics(Predictions.load(short_run.folder / "predictions" / name))
        for metric in ("r_at_5", "macro_r_at_5", "icd_distance_all", "spearman_text_d"):
            assert again[metric] == pytest.approx(saved[f"{stage}/test/{metric}"], abs=1e-6)


def test_a_checkpoint_restores_the_model_that_made_the_predictions(short_run, cache):
    again = predict_run(open_run(short_run.folder / "checkpoints" / "best.ckpt", cache_dir=cache))
    for name in ("val", "test", "zero_shot_val", "zero_shot_test", "prompts_test"):
        saved = Predictions.load(short_run.folder / "predictions" / name)
        assert saved.frame["image_id"].tolist() == again[name].frame["image_id"].tolist()
        np.testing.assert_allclose(again[name].logits, saved.logits, atol=1e-4)
    tuned, base = again["test"].logits, again["zero_shot_test"].logits
    assert np.abs(tuned - base).max() > 1e-3, "training changed something"


def test_a_run_says_what_it_was_made_of_and_keeps_its_baselines(short_run):
    folder = short_run.folder
    probe = Predictions.load(folder / "predictions" / "probe_test")
    assert probe.meta["probe"].startswith("logistic regression on ")
    test = Predictions.load(folder / "predictions" / "test")
    assert test.provenance.kind == "drawings"
    stored = read_checkpoint(short_run.best)["siglip_med"]
    assert stored["provenance"]["kind"] == "drawings"
    kernel = Predictions.load(folder / "predictions" / "kernel_probe_test")
    assert kernel.meta["probe"].startswith("kernel ridge regression on ")
    assert "no tree by validation" in kernel.meta["probe"]
    prompts = Predictions.load(folder / "predictions" / "prompts_test")
    baselines = {"chance", "label_frequency", "zero_shot", "linear_probe", "kernel_probe", "prompts"}
    assert set(stored["baselines"]) == baselines
    for name, one in (("linear_probe", probe), ("kernel_probe", kernel), ("prompts", prompts)):
        expected = headline_metrics(one)["r_at_1"]
        assert stored["baselines"][name]["r_at_1"]["estimate"] == pytest.approx(expected)
        assert short_run.metrics[f"{name}/test/r_at_1"] == pytest.approx(expected)
    card = (folder / "DATA_CARD.md").read_text()
    assert card.startswith("**Made from DRAWINGS")
    said = json.loads((folder / "metrics.json").read_text())["look_alikes"]
    assert said["said"] in card
    assert said["said"] == stored["look_alikes"]
    assert sum(row["images"] for row in said["quarters"]) == said["test_images"] == len(kernel)
    assert (folder / "look_alikes.csv").read_text().startswith("image_a,split_a,image_b,split_b,cosine,same_label\n")
    far = kernel.take(kernel.nearest <= np.median(kernel.nearest))
    assert short_run.metrics["kernel_probe/test/far_half_r_at_1"] == headline_metrics(far)["r_at_1"]
    assert "tuned/test/far_half_mrr" in short_run.metrics


def test_the_refit_is_what_the_formula_gives_on_the_tuned_tower_and_the_checkpoint_keeps_it(short_run):
    model, data = short_run.components.model, short_run.components.data
    of_train, rows = frozen_features(model, data, "train")
    (of_val, _), (of_test, _) = (frozen_features(model, data, split) for split in ("val", "test"))
    val, test = short_run.tuned.val, short_run.tuned.test
    fitted = fit_kernel_ridge(of_train, data.table.labels[rows], of_val, val)
    calibration = fit_calibration(fitted.predict(of_val, val))
    expected = fitted.scores(of_test) / calibration.temperature + calibration.bias
    np.testing.assert_allclose(test.logits, expected, atol=1e-3)
    assert test.meta["scores"].startswith("refit: kernel ridge regression on all 170 training images")
    again = fit_calibration(val)  # so that the sigmoid of a logit is a calibrated confidence as it is
    assert (again.temperature, again.bias) == (pytest.approx(1, abs=0.01), pytest.approx(0, abs=0.02))
    payload = read_checkpoint(short_run.best)["siglip_med"]
    stored = read_refit(payload["refit"], len(val.conditions), "")
    np.testing.assert_allclose(refit_answers(stored, of_test, test).logits, test.logits, atol=1e-5)
    assert stored.centers.shape == of_train.shape
    assert short_run.tuned.test.image_embeddings.shape == (len(test), model.embedding_dim)
    prompts = Predictions.load(short_run.folder / "predictions" / "prompts_test")
    known = fit_calibration(short_run.summary.prompts.val)  # that of the checkpoint is the prompts'
    assert payload["calibration"]["temperature"] == pytest.approx(known.temperature)
    assert np.abs(prompts.logits - test.logits).max() > 0.1


def test_without_a_refit_the_prompts_answer_as_before_and_nothing_of_it_is_left(short_run, cache, tmp_path):
    words = ("experiment=published_final", "trainer.max_steps=12", "refit=null", "evaluation.probe_images=0")
    plain = run(small_settings(cache, tmp_path, *words))
    beside = Predictions.load(short_run.folder / "predictions" / "prompts_test")
    np.testing.assert_array_equal(plain.tuned.test.logits, beside.logits)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert not [name for name in content["metrics"] if name.startswith("prompts/")]
    assert "prompts" not in content["test_baselines"]
    assert not (tmp_path / "predictions" / "prompts_test").exists()
    assert read_checkpoint(plain.best)["siglip_med"]["refit"] is None


def test_frozen_features_of_some_rows_are_those_of_all(short_run):
    model, data = short_run.components.model, short_run.components.data
    every, rows = frozen_features(model, data, "train")
    chosen = rows[::7]
    found, kept = frozen_features(model, data, "train", chosen)
    assert kept.tolist() == chosen.tolist()
    np.testing.assert_allclose(found, every[::7], atol=1e-5)


def test_a_checkpoint_of_another_split_is_not_scored_on_images_that_it_trained_on(short_run, tmp_path, cache):
    checkpoint = read_checkpoint(short_run.folder / "checkpoints" / "best.ckpt")
    checkpoint["siglip_med"]["split_hash"] = "0123456789abcdef"
    write_checkpoint(checkpoint, tmp_path / "other.ckpt")
    ours = short_run.components.data.split.hash[:12]
    with pytest.raises(UserError, match=f"other.ckpt: it was trained on split 0123456789ab, but .* into {ours}"):
        predict_run(open_run(tmp_path / "other.ckpt", cache_dir=cache))


def test_the_checkpoint_leaves_the_base_out_and_says_what_the_run_was(short_run):
    path = short_run.folder / "checkpoints" / "best.ckpt"
    checkpoint = read_checkpoint(path)
    model, payload = load_model(path)
    assert set(checkpoint["state_dict"]) == {f"model.{name}" for name in model.trainable_state()}
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert sum(tensor.numel() for tensor in checkpoint["state_dict"].values()) < everything / 2
    assert payload["split_hash"] == short_run.components.data.split.hash
    assert payload["metrics"]["r_at_5"]["estimate"] == pytest.approx(short_run.metrics["tuned/test/r_at_5"])
    assert payload["calibration"]["temperature"] > 0


def test_no_case_straddles_and_the_split_is_saved_as_it_was_used(short_run):
    datamodule = short_run.components.data
    sets = [
        set(datamodule.table.cases[rows])
        for rows in (datamodule.split.train, datamodule.split.val, datamodule.split.test)
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not sets[one] & sets[other]
    lines = (short_run.folder / "split.csv").read_text().splitlines()
    assert len(lines) == len(datamodule.table) + 1


def test_a_sweep_may_not_be_steered_by_the_test_split():
    with pytest.raises(UserError, match="test split never chooses"):
        optimized_metric({"tuned/test/r_at_5": 0.5}, "tuned/test/r_at_5")
    with pytest.raises(UserError, match="no such metric"):
        optimized_metric({"tuned/val/r_at_5": 0.5}, "tuned/val/r_at_6")
    assert optimized_metric({"tuned/val/r_at_5": 0.5}, "tuned/val/r_at_5") == 0.5
    assert optimized_metric({}, None) is None
