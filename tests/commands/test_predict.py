"""Files in, differential out."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from siglip_med.commands import predict as command
from siglip_med.commands.predict import Settings
from siglip_med.core.errors import UserError
from siglip_med.core.provenance import Provenance
from siglip_med.data.images import read_image
from siglip_med.export import export_checkpoint
from siglip_med.inference import find_images, load
from siglip_med.inference.files import batches
from siglip_med.inference.views import views
from siglip_med.models import PromptEnsemble, finalize_checkpoint, load_model
from tests.models import runs

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    node = runs.model_node("siglip", root / "base")
    model = runs.train(runs.build(node))
    runs.save(model, node, root / "plain.ckpt")
    return runs.save(model, node, root / "best.ckpt", calibration={"temperature": 2.0, "bias": 0.75})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "deeper").mkdir()
    random = np.random.default_rng(0)
    for name in ("a.png", "b.PNG", "deeper/c.jpg"):
        Image.fromarray(random.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    return folder


@pytest.fixture
def predict(tmp_path):
    """The command, in a temporary folder."""

    def predicted(checkpoint, images, top_k=5, batch_size=16):
        paths = [str(path) for path in ([images] if isinstance(images, Path) else images)]
        settings = Settings(
            checkpoint=str(checkpoint),
            images=paths,
            top_k=top_k,
            batch_size=batch_size,
            device="cpu",
            output_dir=str(tmp_path / "out"),
            base=None,
        )
        return command.run(settings).predictions

    return predicted


def test_logits_and_confidences_equal_a_loop_over_images_and_prompts(predict, trained, photographs):
    run = predict(trained, photographs, top_k=3, batch_size=2)
    model, payload = load_model(trained)
    assert [Path(item.image).name for item in run.differentials] == ["a.png", "b.PNG", "c.jpg"]
    for item in run.differentials:
        pixels = read_image(Path(item.image), model.image_spec.size).astype(np.float32) / 255
        pixels = (pixels - np.array(model.image_spec.mean)) / np.array(model.image_spec.std)
        image = normalize(
            model.encode_images(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]), dim=-1
        )[0]
        expected = {}
        for name, prompts in zip(payload["conditions"], payload["prompts"], strict=True):
            rows = [normalize(model.encode_texts(**model.tokenize([text])), dim=-1)[0] for text in prompts]
            text = normalize(torch.stack(rows).mean(dim=0), dim=-1)
            expected[name] = (model.logit_scale.exp() * (image @ text) + model.logit_bias).item()
        ranked = sorted(expected, key=lambda name: -expected[name])
        assert [candidate.condition for candidate in item.candidates] == ranked
        assert [candidate.rank for candidate in item.candidates] == [1, 2, 3]
        for candidate in item.candidates:
            logit = expected[candidate.condition]
            assert candidate.logit == pytest.approx(logit, abs=1e-4)
            assert candidate.confidence == pytest.approx(1 / (1 + np.exp(-(logit / 2 + 0.75))), abs=1e-5)
            assert (
                candidate.code == dict(zip(payload["conditions"], payload["codes"], strict=True))[candidate.condition]
            )


def test_the_page_explains_as_many_photographs_as_asked_and_says_what_it_lacks(trained, photographs, tmp_path, capsys):
    settings = {"checkpoint": str(trained), "images": str(photographs), "top_k": 2, "batch_size": 4, "device": "cpu"}
    result = command.run(Settings(**settings, output_dir=str(tmp_path), base=None, explain=True, explain_most=2))
    page = result.page.read_text(encoding="utf-8")
    assert page.count("<figure>") == 2
    assert "c.jpg" not in page
    assert any("1 of 3 photographs are not on the page" in line for line in result.notes)
    assert any("no training cases" in line for line in result.notes)
    assert all(line in page for line in result.notes)
    capsys.readouterr()
    command.show(result)
    shown = capsys.readouterr().out
    assert f"where the model looks: {result.page}" in shown
    assert all(line in shown for line in result.notes)
    command.show(replace(result, page=None, notes=()))
    assert "where the model looks" not in capsys.readouterr().out


def test_the_refit_ranks_unless_the_prompts_are_asked_for(trained, photographs, tmp_path, capsys):
    model, payload = load_model(trained)
    refit, path = runs.refit(model), tmp_path / "refit.ckpt"
    shutil.copy(trained, path)
    finalize_checkpoint(path, refit)

    def ranked(checkpoint, scores):
        words = {"images": str(photographs / "a.png"), "top_k": 3, "batch_size": 4, "device": "cpu", "base": None}
        place = {"output_dir": str(tmp_path / scores), "checkpoint": str(checkpoint)}
        result = command.run(Settings(**words, **place, scores=scores))
        command.show(result)
        found = {c.condition: (c.logit, c.confidence) for c in result.predictions.differentials[0].candidates}
        assert json.loads(result.tree.read_text())["scores"] == result.predictions.scores
        return found, result.predictions

    pixels = read_image(photographs / "a.png", model.image_spec.size).astype(np.float32) / 255
    pixels = (pixels - np.array(model.image_spec.mean)) / np.array(model.image_spec.std)
    with torch.no_grad():
        expected = refit(model.pooled_features(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]))[0]
    for scores in ("auto", "refit"):
        found, run = ranked(path, scores)
        assert (run.scores, run.calibrated) == ("refit", True)
        for name, logit in zip(payload["conditions"], expected.tolist(), strict=True):
            assert found[name][0] == pytest.approx(logit, abs=1e-3)
            assert found[name][1] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-4)
    assert "ranked by the scores of the refit; scores=prompts ranks by" in capsys.readouterr().out
    by_prompts, run = ranked(path, "prompts")
    assert run.scores == "prompts"
    assert by_prompts == ranked(trained, "auto")[0] != found
    assert "ranked by the scores of the prompts\n" in capsys.readouterr().out
    merged = export_checkpoint(path, "merged", tmp_path / "merged")
    exported = ranked(merged, "auto")[0]
    assert exported == {name: pytest.approx(pair, abs=1e-3) for name, pair in found.items()}
    with pytest.raises(UserError, match=r"^scores=refit: .*best\.ckpt holds no refit; use scores=prompts"):
        ranked(trained, "refit")


def test_unreadable_files_are_named_and_the_rest_goes_on(predict, trained, photographs):
    run = predict(trained, photographs)
    assert [Path(path).name for path, _ in run.unreadable] == ["broken.jpg"]
    assert "broken.jpg" in run.unreadable[0][1]
    with pytest.raises(UserError, match="none of the 1 files could be read"):
        predict(trained, photographs / "broken.jpg")


def test_batch_size_changes_nothing(predict, trained, photographs):
    one, many = (predict(trained, photographs, batch_size=size) for size in (1, 8))
    for first, second in zip(one.differentials, many.differentials, strict=True):
        assert [c.condition for c in first.candidates] == [c.condition for c in second.candidates]
        assert [c.logit for c in first.candidates] == pytest.approx([c.logit for c in second.candidates], abs=1e-4)


def test_without_calibration_the_scores_are_called_so(predict, trained, photographs):
    run = predict(trained.parent / "plain.ckpt", photographs / "a.png", top_k=1)
    (candidate,) = run.differentials[0].candidates
    assert not run.calibrated
    assert candidate.confidence == pytest.approx(1 / (1 + np.exp(-candidate.logit)), abs=1e-6)
    assert "uncalibrated" in str(run.table().columns[-1].header)


def test_folders_are_searched_and_lists_joined_without_repeats(photographs, tmp_path):
    found = find_images([photographs / "deeper", photographs, photographs / "notes.txt"])
    assert [path.name for path in found] == ["c.jpg", "a.png", "b.PNG", "broken.jpg", "notes.txt"]
    with pytest.raises(UserError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        find_images(tmp_path / "none")


def test_the_command_prints_a_table_and_writes_csv_and_json(trained, photographs, tmp_path):
    words = [sys.executable, str(REPOSITORY / "predict.py"), f"checkpoint={trained}", f"images={photographs}"]
    done = subprocess.run(
        [*words, "top_k=2", "device=cpu"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert "could not read" in done.stdout
    assert "ICD-10-CM" in done.stdout
    (folder,) = (tmp_path / "logs" / "predict").iterdir()
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    content = json.loads((folder / "predictions.json").read_text())
    assert len(rows) == 3 * 2
    assert [row["condition"] for row in rows[:2]] == [c["condition"] for c in content["images"][0]["candidates"]]
    assert [Path(item["image"]).name for item in content["unreadable"]] == ["broken.jpg"]
    assert content["calibrated"] is True
    assert {row["trained_on"] for row in rows} == {"not known"}


def test_who_was_trained_on_drawings_says_so_on_the_screen_and_in_both_files(trained, photographs, tmp_path, capsys):
    model = replace(load(trained), payload=load_model(trained)[1] | {"provenance": Provenance("drawings").as_dict()})
    for kind, said in (("drawings", True), ("photographs", False)):
        model.payload["provenance"]["kind"] = kind
        found = model.predict(photographs / "a.png", top_k=2)
        command.show(command.Result(found, *found.save(tmp_path)))
        assert ("Made from DRAWINGS" in capsys.readouterr().out) == said
        assert ("Made from DRAWINGS" in json.loads((tmp_path / "predictions.json").read_text())["notice"]) == said
        assert set(found.frame()["trained_on"]) == {kind}


def test_a_model_is_loaded_without_a_word_of_its_libraries(trained):
    line = f"import siglip_med; siglip_med.load({str(trained)!r})"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("tta", [1, 2, 4])
def test_views_are_averaged_and_one_view_changes_nothing_to_the_last_digit(trained, photographs, tmp_path, tta, capsys):
    words = {"images": str(photographs / "a.png"), "top_k": 3, "batch_size": 4, "device": "cpu", "base": None}
    result = command.run(Settings(**words, checkpoint=str(trained), output_dir=str(tmp_path), tta=tta))
    found = {one.condition: one.logit for one in result.predictions.differentials[0].candidates}
    model, payload = load_model(trained)
    texts = PromptEnsemble(payload["prompts"], model.tokenize).encode(model)
    (pixels,) = (batch for _, batch, _ in batches([photographs / "a.png"], model.image_spec, 1, [], "reading"))
    with torch.no_grad():
        each = [model.logits(model.encode_images(view), texts)[0].numpy() for view in [*views(pixels, 4)][:tta]]
    expected = dict(zip(payload["conditions"], np.sum(each, axis=0) / tta, strict=True))
    assert found == (expected if tta == 1 else pytest.approx(expected, abs=1e-5))
    command.show(result)
    assert (f"the mean over {tta} views of each photograph" in capsys.readouterr().out) == (tta > 1)
