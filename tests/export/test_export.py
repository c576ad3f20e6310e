"""Every format of every family, loaded in another process that cannot import this project."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import pipeline

from siglip_med.core.errors import UserError
from siglip_med.data.images import read_image
from siglip_med.data.quality import FAULTS
from siglip_med.export import export_checkpoint, model_card
from siglip_med.export.card import metric_rows
from siglip_med.export.pretrained import merged_copy
from siglip_med.export.recipes import loading_recipe
from siglip_med.models import Familiarity, Refit, TwoTower, finalize_checkpoint, load_model, read_refit
from siglip_med.models.refit import REFIT_FILE
from tests.models import runs, tiny

VARIANTS: dict[str, tuple[str, dict]] = {kind: (kind, {}) for kind in runs.KINDS}
VARIANTS["dual_encoder with a hidden layer"] = ("dual_encoder", {"image_hidden": 10})
WITHOUT_REFIT = "siglip2"
FORMATS = ("peft", "merged", "onnx")
METRICS = {"r_at_5": {"estimate": 0.75, "low": 0.7, "high": 0.8}, "icd_distance_all": 0.25}

STRANGER = """
import json, sys
sys.modules["siglip_med"] = None  # importing it from here on fails
import torch
import numpy
torch.set_num_threads(1)
torch.set_grad_enabled(False)
for job in json.load(open(sys.argv[1])):
    given = torch.load(job["inputs"], weights_only=True)
    about = json.load(open(job["folder"] + "/conditions.json"))
    names = {"folder": job["folder"], "np": numpy, "about": about, **job["bases"], **given}
    exec(job["recipe"], names)
    logits = [torch.as_tensor(names["logits"]).detach()]
    exec(job["refit"], names)
    logits.append(torch.as_tensor(names["logits"]).detach())
    exec(job["familiarity"], names)
    torch.save([*logits, torch.as_tensor(names.get("familiarity", 0))], job["output"])
"""


def inputs_of(model: TwoTower) -> dict[str, object]:
    """What a recipe is given: images and tokens as the card describes them, in the library's own names."""
    tokens = model.tokenize(runs.TEXTS)
    if not model.text_mask:
        del tokens["attention_mask"]
    pixels: dict[str, torch.Tensor] = {"pixel_values": runs.images()}
    if hasattr(model.image_processor, "max_num_patches"):
        grid, patch = tiny.IMAGE // 8, 8
        cut = runs.images().reshape(3, 3, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
        pixels = {
            "pixel_values": cut.reshape(3, grid * grid, -1),
            "pixel_attention_mask": torch.ones(3, grid * grid, dtype=torch.int32),
            "spatial_shapes": torch.tensor([[grid, grid]] * 3),
        }
    return {"pixels": pixels, "pixel_values": runs.images(), "tokens": tokens}


@torch.no_grad()
def measured(model: TwoTower, refit: Refit, pixels: torch.Tensor) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Logits of the refit, distances to the nearest training image, and no fault."""
    features = model.pooled_features(pixels)
    return refit(features).numpy(), refit.distances(features).numpy(), [""] * len(pixels)


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[tuple[str, str], dict]:
    """Trains, saves, exports in three forms, and lets one stranger load everything."""
    root = tmp_path_factory.mktemp("exports")
    jobs = {}
    for variant, (kind, settings) in VARIANTS.items():
        node = runs.model_node(kind, root / variant / "base", **settings)
        if kind == "siglip":  # trained weights that are no adapters have to come along in every format
            node["adaptation"] = {**runs.LORA, "train_projection": True, "train_pooling_head": True}
        model = runs.train(runs.build(node))
        calibration = {"temperature": 1.25, "bias": -0.5}
        checkpoint = runs.save(model, node, root / variant / "best.ckpt", metrics=METRICS, calibration=calibration)
        refit = None if variant == WITHOUT_REFIT else runs.refit(model)
        validation = runs.images(50, model.image_spec.size)
        rule = None if refit is None else Familiarity.fit(*measured(model, refit, validation), FAULTS)
        finalize_checkpoint(checkpoint, refit, rule)
        torch.save(inputs_of(model), root / variant / "inputs.pt")
        names = ("vision", "text") if kind == "dual_encoder" else ("path",)
        bases = {("base" if name == "path" else f"{name}_base"): node[name] for name in names}
        for format in FORMATS:
            folder = export_checkpoint(checkpoint, format, root / variant / format, license="cc-by-nc-4.0")
            jobs[variant, format] = {
                "folder": str(folder),
                "bases": bases,
                "inputs": str(root / variant / "inputs.pt"),
                "recipe": loading_recipe(model, format),
                "refit": loading_recipe(model, format, refit is not None)[len(loading_recipe(model, format)) :],
                "familiarity": loading_recipe(model, format, refit is not None, True).removeprefix(
                    loading_recipe(model, format, refit is not None)
                ),
                "output": str(root / variant / f"{format}.pt"),
                "expected": runs.scores(model).detach(),
                "refitted": None if refit is None else refit(model.pooled_features(runs.images())).detach(),
                "familiar": None if rule is None else rule.p_values(*measured(model, refit, runs.images())),
            }
    listing = root / "jobs.json"
    listing.write_text(
        json.dumps(
            [{k: v for k, v in job.items() if k not in ("expected", "refitted", "familiar")} for job in jobs.values()]
        )
    )
    subprocess.run([sys.executable, "-c", STRANGER, str(listing)], check=True, cwd=root, timeout=200)
    return jobs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_stranger_gets_the_same_logits_from_the_cards_own_lines(variant, format, exports):
    job = exports[variant, format]
    found, refitted, familiar = torch.load(job["output"], weights_only=True)
    assert found.shape == (3, 3)
    assert torch.allclose(found, job["expected"], atol=1e-4), (found - job["expected"]).abs().max()
    card = Path(job["folder"], "README.md").read_text(encoding="utf-8")
    assert job["recipe"] + job["refit"] + job["familiarity"] in card
    if variant == WITHOUT_REFIT:
        assert job["refit"] == ""
        assert "refit" not in card
        assert not Path(job["folder"], REFIT_FILE).exists()
        return
    assert familiar.tolist() == pytest.approx(job["familiar"].tolist(), abs=2.5 / 51)  # float32: a rank or two apart
    assert card.index("read no ranking") < card.index("for name, logit in")
    # as confidences: training left the images' features nearly alike, and standardizing them enlarges what float32 lost
    torch.testing.assert_close(refitted.float().sigmoid(), job["refitted"].sigmoid(), atol=1e-5, rtol=0)
    assert "features of the training images" in card
    assert Path(job["folder"], REFIT_FILE).is_file() == (format != "onnx")


def test_the_pipeline_sees_a_photograph_as_training_did(exports, tmp_path):
    """A photograph that is not square, through the pipeline and through the project's own reader."""
    job = exports["siglip", "merged"]
    pixels = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    model, _ = load_model(Path(job["folder"]).parent / "best.ckpt")
    spec = model.image_spec
    image = torch.from_numpy(read_image(tmp_path / "photo.png", spec.size).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    tokens = model.tokenize(runs.TEXTS)
    expected = model.logits(model.encode_images(((image - mean) / std)[None]), model.encode_texts(**tokens))[
        0
    ].sigmoid()
    classify = pipeline("zero-shot-image-classification", model=job["folder"])
    answers = classify(str(tmp_path / "photo.png"), candidate_labels=list(runs.TEXTS), hypothesis_template="{}")
    found = {answer["label"]: answer["score"] for answer in answers}
    for text, value in zip(runs.TEXTS, expected.tolist(), strict=True):
        assert found[text] == pytest.approx(value, abs=2e-3)


PASTE = """
import contextlib, io, json, os, sys
sys.modules["siglip_med"] = None  # importing it from here on fails
import torch
import numpy
torch.set_num_threads(1)
torch.set_grad_enabled(False)
for job in json.load(open(sys.argv[1])):
    os.chdir(job["folder"])
    lines, names, printed = open("README.md").read().split("```python\\n")[1].split("```")[0], {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(lines, names)
    torch.set_grad_enabled(True)
    torch.save({"logits": torch.as_tensor(names["logits"]).detach(), "printed": printed.getvalue()}, job["pasted"])
"""


@pytest.fixture(scope="module")
def pasted(exports, tmp_path_factory) -> dict[tuple[str, str], dict]:
    """What the card's block of Python gives and prints where nothing at all was defined before."""
    root = tmp_path_factory.mktemp("pasted")
    jobs = {
        key: {"folder": job["folder"], "pasted": str(root / f"{n}.pt")} for n, (key, job) in enumerate(exports.items())
    }
    (root / "jobs.json").write_text(json.dumps(list(jobs.values())))
    subprocess.run([sys.executable, "-c", PASTE, str(root / "jobs.json")], check=True, timeout=200)
    return {key: torch.load(job["pasted"], weights_only=True) for key, job in jobs.items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", FORMATS)
def test_the_cards_lines_run_as_pasted_and_rank_a_gray_image(variant, format, pasted, exports):
    model, payload = load_model(Path(exports[variant, format]["folder"]).parent / "best.ckpt")
    spec, side = model.image_spec, model.image_spec.size
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    gray = (torch.full((1, 3, side, side), 128 / 255) - mean) / std
    with torch.no_grad():
        expected = model.logits(model.encode_images(gray), model.encode_texts(**model.tokenize(runs.TEXTS)))
        if (refit := read_refit(payload["refit"], 3, "")) is not None:
            expected = refit(model.pooled_features(gray))
    found = pasted[variant, format]
    assert torch.allclose(found["logits"].float(), expected, atol=1e-3), (found["logits"] - expected).abs().max()
    order = [payload["conditions"][c] for c in expected[0].argsort(descending=True)]
    lines = found["printed"].splitlines()
    assert [line.split()[1] for line in lines if not line.startswith("familiarity")] == order
    assert len(lines) == len(order) + (refit is not None)


DRAWN = {"kind": "drawings", "name": "siglip-med's synthetic drawings", "license": "that of siglip-med"}
PHOTOGRAPHED = {"kind": "photographs", "name": "SCIN", "license": "SCIN Data Use License"}


UNSTATED = {"kind": "photographs", "name": "not stated", "license": "not stated"}


def test_the_first_line_says_what_the_images_were(exports):
    model, payload = load_model(Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt")
    first = {}
    for name, provenance in {"drawn": DRAWN, "photographed": PHOTOGRAPHED, "csv": UNSTATED, "old": None}.items():
        card = model_card(model, {**payload, "provenance": provenance}, "merged", "other")
        assert ("| images | not stated |" in card) == (name == "csv")
        first[name] = card.split("---\n", 2)[2].strip().splitlines()[0]
    assert first["drawn"].startswith("**Made from DRAWINGS, not from photographs")
    assert first["photographed"] == "**Made from photographs of people: SCIN, license: SCIN Data Use License.**"
    assert "not stated" in first["csv"]
    assert "do not say whether" in first["old"]


def test_the_hub_reads_the_results_out_of_the_front_matter(exports):
    model, payload = load_model(Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt")
    card = ModelCard(model_card(model, {**payload, "provenance": DRAWN}, "merged", "cc-by-nc-4.0"))
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert "synthetic-data" in card.data.tags
    found = {result.metric_type: result for result in card.data.eval_results}
    assert found["r_at_5"].metric_value == 0.75
    assert found["r_at_5"].dataset_name.endswith("(drawings)")
    assert found["r_at_5"].dataset_split == "test"
    assert found.keys() == METRICS.keys()


def test_baselines_stand_beside_every_result(exports):
    model, payload = load_model(Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt")
    chance = {"r_at_5": {"estimate": 0.2, "low": 0.19, "high": 0.21}, "icd_distance_all": None}
    card = model_card(model, {**payload, "baselines": {"chance": chance, "linear_probe": None}}, "merged", "other")
    row = next(line for line in card.splitlines() if line.startswith("| R@5"))
    assert row == (
        "| R@5 (all 3 conditions: always 1) | 0.750 (0.700 to 0.800) | 0.200 (0.190 to 0.210) | not measured "
        "| not measured | not measured | not measured |"
    )


def test_every_table_of_the_card_is_one_block_and_the_results_say_of_how_many_images(exports):
    model, payload = load_model(Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt")
    card = model_card(model, {**payload, "test_size": "480 images of 243 cases"}, "merged", "other")
    results = card.split("## Results on the test split")[1].split("## How to load it")[0]
    block = results.strip().split("\n\n")[0].splitlines()  # a blank line ends a table
    assert len(block) == 2 + len(METRICS)
    assert results.count("\n|") == len(block)
    assert "480 images of 243 cases" in results
    assert len({line.count(" | ") for line in block if "---" not in line}) == 1
    blocks = [block for block in card.split("\n\n") if block.startswith("|")]
    assert all(block.splitlines()[1].startswith("|---") for block in blocks)


def test_the_card_says_what_the_run_was(exports):
    card = Path(exports["siglip", "merged"]["folder"], "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    for words in (
        "Not a diagnostic device",
        "hash abc123",
        "\nlicense: cc-by-nc-4.0\n",
        "| R@5 (all 3 conditions: always 1) | 0.750 (0.700 to 0.800) | not measured |",
        "| ICD distance, all predictions ↓ | 0.250 (no interval) | not measured |",
        "over cases (95%)",
        "logit / 1.25 -0.5",
        "| Melanoma | C43.9 |",
        "without an attention mask",
        'Texts: `padding="max_length", truncation=True, max_length=',
        "## Limits",
        "Lora (rank=3, alpha=6, train_projection=True, train_pooling_head=True)",
    ):
        assert words in card, words
    assert "{{" not in card


def test_the_card_admits_what_is_missing(exports, tmp_path):
    model, payload = load_model(Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt")
    card = model_card(model, {**payload, "metrics": {}, "calibration": None, "split_hash": ""}, "onnx", "other")
    assert "The checkpoint holds none" in card
    assert "the sigmoid of the logit is no probability" in card
    assert "hash not recorded" in card


def test_the_card_names_no_folder_of_this_machine_in_the_data(exports):
    model, payload = load_model(Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt")
    source = {"_target_": "siglip_med.sources.csv.CsvSource", "root": "/home/someone/photos", "seed": 3}
    config = {**payload["config"], "data": {"source": source, "batch_size": 4}}
    card = model_card(model, {**payload, "config": config}, "merged", "other")
    assert "| data | CsvSource (seed=3) |" in card
    assert "/home/someone" not in card


def test_the_card_names_bases_by_hub_id_or_last_folder(exports):
    model, payload = load_model(Path(exports["dual_encoder", "merged"]["folder"]).parent / "best.ckpt")
    base = payload["base"] | {"name": "../models/dinov2-small + sentence-transformers/all-MiniLM-L6-v2"}
    card = model_card(model, {**payload, "base": base}, "merged", "other")
    assert "\n# dinov2-small + sentence-transformers/all-MiniLM-L6-v2, adapted to 3 skin conditions" in card
    assert "../models" not in card
    alone = model_card(model, {**payload, "base": base | {"name": "google/siglip-base-patch16-224"}}, "merged", "other")
    assert "base_model: google/siglip-base-patch16-224\n" in alone


def test_metric_rows_take_numbers_and_intervals():
    assert metric_rows({"a": 0.5}) == [{"name": "a", "estimate": 0.5, "low": None, "high": None}]


def test_conditions_travel_with_every_form(exports):
    for job in exports.values():
        about = json.loads(Path(job["folder"], "conditions.json").read_text())
        assert about["conditions"] == ["Eczema", "Melanoma", "Urticaria"]
        assert about["codes"] == ["L30.9", "C43.9", "L50.9"]
        assert len(about["prompts"]) == 3
        assert about["calibration"] == {"temperature": 1.25, "bias": -0.5}


def test_nothing_is_overwritten_and_nothing_half_written(exports, tmp_path):
    job = exports["siglip", "merged"]
    checkpoint = Path(job["folder"]).parent / "best.ckpt"
    with pytest.raises(UserError, match="exists: give a new folder"):
        export_checkpoint(checkpoint, "merged", job["folder"])
    node = runs.model_node("siglip", tmp_path / "base", {"_target_": "siglip_med.models.Frozen"})
    frozen = runs.save(runs.build(node), node, tmp_path / "frozen.ckpt")
    with pytest.raises(UserError, match="trained with Frozen: use format=merged"):
        export_checkpoint(frozen, "peft", tmp_path / "out" / "adapter")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}, {"towers": "text"}])
@pytest.mark.parametrize("kind", ["siglip", "dual_encoder"])
def test_every_kind_of_adapter_merges_into_the_same_scores(kind, settings, tmp_path):
    node = runs.model_node(kind, tmp_path, {**runs.LORA, **settings})
    untrained = runs.scores(runs.build(node).eval())
    model = runs.train(runs.build(node))
    merged = merged_copy(model)
    assert not [name for name in merged.state_dict() if ".lora_" in name]
    assert torch.allclose(runs.scores(merged), runs.scores(model), atol=1e-4)
    assert not torch.allclose(runs.scores(merged), untrained, atol=1e-2)


def test_merging_leaves_the_model_itself_as_it_was(exports):
    checkpoint = Path(exports["clip", "merged"]["folder"]).parent / "best.ckpt"
    model, _ = load_model(checkpoint)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_checkpoint(checkpoint, "merged", checkpoint.parent / "again")
    merged = merged_copy(model)
    assert torch.allclose(runs.scores(merged), runs.scores(model), atol=1e-4)
    assert not [name for name in merged.state_dict() if ".lora_" in name]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_clip_run_leaves_in_open_clips_format_with_its_card(tmp_path):
    node = runs.model_node("clip", tmp_path / "base")
    checkpoint = runs.save(runs.train(runs.build(node)), node, tmp_path / "best.ckpt", metrics=METRICS)
    folder = export_checkpoint(checkpoint, "open_clip", tmp_path / "export")
    files = {path.name for path in folder.iterdir()}
    assert {"open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "conditions.json"} <= files
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: open_clip" in card
    assert "local-dir:{folder}" in card


def test_no_other_family_leaves_in_open_clips_format(tmp_path):
    node = runs.model_node("siglip", tmp_path / "base")
    checkpoint = runs.save(runs.build(node), node, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match="format=open_clip is for CLIP models"):
        export_checkpoint(checkpoint, "open_clip", tmp_path / "export")
    assert not (tmp_path / "export").exists()
