"""Vision towers in timm's format, converted: embeddings, adapters, checkpoints and exports, and what is refused."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BeitConfig, BeitModel

from siglip_med.commands import train
from siglip_med.core.errors import UserError
from siglip_med.export import export_checkpoint
from siglip_med.inference.maps import relevance_map
from siglip_med.models import Frozen, FullFineTune, Lora, check_gradients, dual_encoder, load_export, load_model
from siglip_med.models.conversion import convert
from siglip_med.models.conversion.timm import SUPPORTED, named_sizes, vit_names
from tests.models import runs, tiny
from tests.models.their_open_clip import converted
from tests.models.their_timm import timm
from tests.models.timm_towers import BLOCKS, KINDS, MEAN, POOLINGS, SIDE, STD, WIDTH, config_of, pooled_by_hand
from tests.models.timm_towers import write_timm as write
from tests.short_runs import small_settings

NEAR = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny.write_dual(tmp_path_factory.mktemp("towers"))["text"]


@pytest.fixture
def folder(tmp_path):
    """A plain tower, to be changed."""
    write(tmp_path / "plain", "plain")
    return tmp_path / "plain"


def build(folder, text, pooling="pooler", **settings):
    """The settings that `convert` prints: a converted tower's pooler is the pooling that timm has."""
    torch.manual_seed(3)
    chosen = {"adaptation": Frozen(), "embedding_dim": 12, **settings}
    return dual_encoder(converted(folder), text, vision_pooling=pooling, **chosen).eval()


def change(folder, key, value):
    """Sets one value of a folder's ``config.json``, named ``part.key``; None takes it out."""
    content = json.loads((folder / "config.json").read_text())
    *inner, last = key.split(".")
    part = content
    for name in inner:
        part = part[name]
    part[last] = value
    if value is None:
        del part[last]
    (folder / "config.json").write_text(json.dumps(content))


def refusal(folder, text, pooling="pooler", **settings) -> str:
    with pytest.raises(UserError) as error:
        build(folder, text, pooling, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("bin", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pooled_outputs_are_those_of_the_formulas(kind, bin, text, tmp_path):
    weights = write(tmp_path / kind, kind, bin=bin)
    model = build(tmp_path / kind, text)
    features = model.image_features(runs.images())
    torch.testing.assert_close(features, pooled_by_hand(weights, kind, runs.images()), **NEAR)
    assert (model.image_spec.size, list(model.image_spec.mean), list(model.image_spec.std)) == (SIDE, MEAN, STD)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pooled_outputs_are_those_of_timm(kind, text, tmp_path):
    """timm has no PanDerm; its BEiT with positions of its own in place of relative ones has the same weights."""
    save_for_hf, Beit = timm("timm.models").save_for_hf, timm("timm.models.beit").Beit
    weights, content = write(tmp_path / kind, kind), config_of(kind)
    if kind.startswith("panderm"):
        pool = {"global_pool": KINDS[kind].get("global_pool", "token")}
        settings = content["model_args"] | pool | {"qkv_bias": True, "init_values": 0.1, "use_abs_pos_emb": True}
        theirs = Beit(num_classes=5, **settings).eval()
    else:
        theirs = timm().create_model(content["architecture"], num_classes=5, **content["model_args"]).eval()
    theirs.load_state_dict(weights)
    expected = theirs.forward_head(theirs.forward_features(runs.images()), pre_logits=True)
    features = build(tmp_path / kind, text).image_features(runs.images())
    torch.testing.assert_close(features, expected, **NEAR)
    if not kind.startswith("panderm"):  # and from the folder that timm itself writes
        save_for_hf(theirs, str(tmp_path / "saved"), data_config={"input_size": (3, SIDE, SIDE)})
        features = build(tmp_path / "saved", text).image_features(runs.images())
        torch.testing.assert_close(features, expected, **NEAR)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_small_patch16_224", "vit_small_patch14_dinov2"])
def test_architectures_have_the_sizes_of_timms(name):
    with torch.device("meta"):
        theirs = timm().create_model(name, num_classes=0)
    ours = named_sizes(name, "here")
    block = theirs.blocks[0]
    assert ours == {"embed_dim": theirs.embed_dim, "depth": len(theirs.blocks), "num_heads": block.attn.num_heads}


@pytest.mark.parametrize(("name", "million"), [("panderm_base_patch16_224", 85), ("panderm_large_patch16_224", 303)])
def test_every_weight_of_panderm_at_full_size_has_its_name(name, million):
    sizes = named_sizes(name, "here")
    width = sizes["embed_dim"]
    config = BeitConfig(hidden_size=width, num_hidden_layers=sizes["depth"], num_attention_heads=sizes["num_heads"])
    config.intermediate_size = 4 * width
    config.use_absolute_position_embeddings, config.use_mean_pooling = True, False
    with torch.device("meta"):
        state = BeitModel(config).state_dict()
    names = list(vit_names(sizes["depth"]))
    assert {ours for _, new in names for ours in new} >= set(state)
    assert {"norm.weight", "blocks.0.gamma_2", "blocks.11.attn.q_bias", "pos_embed"} < {old for old, _ in names}
    assert sum(value.numel() for value in state.values()) // 1_000_000 == million  # as ViT-B/16 and ViT-L/16


def test_what_is_left_out_is_said(text, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="siglip_med")
    folder = tmp_path / "plain"
    weights = write(folder, "plain")
    build(folder, text)
    assert caplog.messages == [f"{folder}: 2 weights left out (head.bias, head.weight): its classifier"]
    caplog.clear()
    save_file({name: value for name, value in weights.items() if "head" not in name}, folder / "model.safetensors")
    build(folder, text)
    assert caplog.messages == []
    change(folder, "pretrained_cfg.crop_pct", 0.9)
    change(folder, "pretrained_cfg.interpolation", "bilinear")
    build(folder, text)
    (line,) = caplog.messages
    assert "pretrained_cfg.interpolation=bilinear, pretrained_cfg.crop_pct=0.9 not used: images become squares" in line


@torch.no_grad()
def test_panderms_pretraining_is_read_for_its_encoder(text, tmp_path, caplog):
    folder = tmp_path / "panderm"
    weights = write(folder, "panderm", bin=True)
    expected = build(folder, text).image_features(runs.images())
    whole = {f"encoder.{name}": value for name, value in weights.items()}
    whole |= {"teacher.cls_token": torch.zeros(1), "decoder.norm.weight": torch.zeros(1)}
    torch.save({"model": whole, "epoch": 499}, folder / "pytorch_model.bin")
    caplog.clear()
    assert torch.equal(build(folder, text).image_features(runs.images()), expected)
    assert "2 weights left out (decoder.norm.weight, teacher.cls_token): what its pretraining" in caplog.text


def test_the_config_in_the_documentation_is_whole(text, tmp_path):
    docs = Path(__file__).resolve().parents[2] / "docs" / "models.md"
    (block,) = re.findall(r"```text\n(\{.*?\})\n```", docs.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "config.json").write_text(block)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    tmp_path = tmp_path.rename(tmp_path.with_name("panderm"))
    assert "pytorch_model.bin is damaged" in refusal(tmp_path, text)  # all that it lacks is PanDerm's weights


@torch.no_grad()
def test_an_older_config_has_everything_in_one(folder, text):
    expected = build(folder, text).image_features(runs.images())
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | content.pop("pretrained_cfg")))
    model = build(folder, text)
    assert list(model.image_spec.mean) == MEAN
    assert torch.equal(model.image_features(runs.images()), expected)


@torch.no_grad()
def test_layer_scale_that_only_the_weights_show_is_read(text, tmp_path):
    """UNI's config leaves it to its users to pass ``init_values``."""
    weights = write(tmp_path / "layer_scale", "layer_scale")
    change(tmp_path / "layer_scale", "model_args.init_values", None)
    features = build(tmp_path / "layer_scale", text).image_features(runs.images())
    torch.testing.assert_close(features, pooled_by_hand(weights, "layer_scale", runs.images()), **NEAR)
    change(tmp_path / "layer_scale", "model_args.init_values", 0)
    assert "layer_scale=False, but the weights beside it do not fit" in refusal(tmp_path / "layer_scale", text)


@torch.no_grad()
def test_an_id_of_the_hub_is_read_from_its_cache(text, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--lab--tower" / "snapshots" / ("0" * 40)
    weights = write(snapshot, "plain", bin=True)
    (tmp_path / "models--lab--tower" / "refs").mkdir()
    (tmp_path / "models--lab--tower" / "refs" / "main").write_text("0" * 40)
    folder = convert("lab/tower", tmp_path / "out").folder
    model = dual_encoder(str(folder), text, vision_pooling="pooler", adaptation=Frozen()).eval()
    torch.testing.assert_close(
        model.image_features(runs.images()), pooled_by_hand(weights, "plain", runs.images()), **NEAR
    )
    with pytest.raises(UserError, match="lab/none is not in the local cache"):
        convert("lab/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
@pytest.mark.parametrize("kind", ["plain", "mean_pooled", "panderm_mean"])
def test_a_pooling_that_skips_the_last_norm_is_logged(kind, pooling, text, tmp_path, caplog):
    write(tmp_path / kind, kind)
    build(tmp_path / kind, text, pooling)
    skips = KINDS[kind].get("global_pool") == "avg" and pooling != "pooler"
    assert (f"model.vision_pooling={pooling} skips the last norm" in caplog.text) == skips


@pytest.mark.parametrize("kind", ["plain", "both", "panderm"])
def test_training_changes_adapters_heads_and_scales_alone(kind, text, tmp_path):
    write(tmp_path / kind, kind)
    lora = Lora(rank=2, dropout=0.0)
    model = build(tmp_path / kind, text, adaptation=lora, dropout=0.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        features = model.image_features(runs.images())
    runs.train(model, steps=2)
    check_gradients(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    adapters = {name for name in changed if ".lora_" in name}
    assert len([name for name in adapters if "vision" in name]) == 2 * 6 * BLOCKS
    assert {name.partition(".")[0] for name in changed - adapters} == {
        "image_head",
        "text_head",
        "logit_scale",
        "logit_bias",
    }
    with torch.no_grad():
        assert (model.image_features(runs.images()) - features).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["plain", "mean_pooled", "panderm"])
def test_every_weight_is_trained_where_all_are(kind, text, tmp_path):
    write(tmp_path / kind, kind)
    model = build(tmp_path / kind, text, adaptation=FullFineTune(), gradient_checkpointing=True)
    runs.train(model, steps=1)
    check_gradients(model)
    assert all(value.requires_grad for name, value in model.named_parameters() if ".vision." in name)


@pytest.mark.parametrize("kind", ["plain", "both", "panderm"])
@torch.no_grad()
def test_kept_states_give_the_same_embeddings(kind, text, tmp_path):
    write(tmp_path / kind, kind)
    model = build(tmp_path / kind, text, adaptation=Lora(towers="vision", first_block=2))
    states = model.image_states(runs.images())
    assert states.shape == (3, (SIDE // 8) ** 2 + 1, WIDTH)
    torch.testing.assert_close(model.encode_images(states), model.encode_images(runs.images()), **NEAR)


@pytest.mark.parametrize("kind", ["plain", "both", "panderm"])
def test_checkpoints_and_merged_exports_come_back(kind, text, tmp_path):
    write(tmp_path / kind, kind)
    node = {"_target_": "siglip_med.models.dual_encoder", "vision": converted(tmp_path / kind), "text": text}
    node |= {"embedding_dim": 12, "vision_pooling": POOLINGS[kind], "adaptation": runs.LORA}
    model = runs.train(runs.build(node))
    checkpoint = runs.save(model, node, tmp_path / "best.ckpt")
    exported = export_checkpoint(checkpoint, "merged", tmp_path / "export")
    with torch.no_grad():
        expected = runs.scores(model)
        torch.testing.assert_close(runs.scores(load_model(checkpoint)[0]), expected, **NEAR)
        again, _ = load_export(exported)
        torch.testing.assert_close(runs.scores(again), expected, rtol=1e-4, atol=1e-4)
        assert again.image_spec == model.image_spec
        theirs = AutoModel.from_pretrained(exported / "vision").eval()(pixel_values=runs.images())
        pooled = theirs.pooler_output if POOLINGS[kind] == "pooler" else theirs.last_hidden_state[:, 0]
        torch.testing.assert_close(pooled, model.image_features(runs.images()), rtol=1e-4, atol=1e-4)
    export_checkpoint(checkpoint, "peft", tmp_path / "peft")  # its base is one that AutoModel loads
    write(tmp_path / "other", kind, seed=1)
    with pytest.raises(UserError, match="is another base"):
        load_model(checkpoint, base={"vision": converted(tmp_path / "other"), "text": text})


def test_a_run_on_kept_states_trains_it(cache, text, tmp_path):
    write(tmp_path / "both", "both")
    words = [
        "model=dual_encoder",
        f"model.vision={converted(tmp_path / 'both')}",
        f"model.text={text}",
        "features=cached",
    ]
    words += ["model.vision_pooling=pooler", "model.adaptation.rank=2", "model.adaptation.first_block={vision: 2}"]
    words += ["trainer.max_epochs=1", "+trainer.limit_train_batches=1", "trainer.accelerator=cpu", "data.batch_size=4"]
    words += ["evaluation.bootstrap=2", "evaluation.probe_images=0", "evaluation.neighbours=0", "seed=1"]
    train.run(small_settings(cache, tmp_path / "run", *words))
    model, about = load_model(next((tmp_path / "run").rglob("best.ckpt")))
    trained = {name for name, value in model.named_parameters() if "lora_B" in name and value.abs().sum() > 0}
    assert any(".vision." in name for name in trained)
    assert not any(".vision." in name and ".layers.2." not in name for name in trained)
    assert about["base"]["name"].startswith(str(tmp_path / "both"))


def test_a_map_of_a_mean_over_patches_follows_the_patches(text, tmp_path):
    """With one block, the class token's own attention carries nothing into such a score."""
    write(tmp_path / "mean_pooled", "mean_pooled")
    weights = load_file(tmp_path / "mean_pooled" / "model.safetensors")
    first = {name: value for name, value in weights.items() if not name.startswith(("blocks.1.", "blocks.2."))}
    save_file(first, tmp_path / "mean_pooled" / "model.safetensors")
    change(tmp_path / "mean_pooled", "model_args.depth", 1)
    model = build(tmp_path / "mean_pooled", text)
    relevance = relevance_map(model, runs.images()[0], torch.randn(12))
    assert relevance.shape == (4, 4)
    assert relevance.min() > 0


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("architecture", "beit_base_patch16_224", f"architecture=beit_base_.*: .* converted {SUPPORTED[:9]}"),
        ("architecture", "vit_base_patch16_clip_224", "architecture=vit_base_patch16_clip_224: "),
        ("architecture", None, "or the weights beside it, are damaged"),
        ("model_args", [1], "or the weights beside it, are damaged"),
        ("model_args.qkv_bias", False, "model_args.qkv_bias=False: converted are True"),
        ("model_args.class_token", False, "model_args.class_token=False: "),
        ("model_args.reg_tokens", 4, "model_args.reg_tokens=4: converted are 0"),
        ("model_args.act_layer", "quick_gelu", "model_args.act_layer=quick_gelu: converted are 'gelu'"),
        ("model_args.norm_layer", "rmsnorm", "model_args.norm_layer=rmsnorm: it is not known what it changes"),
        ("model_args.rotary", True, "model_args.rotary=True: it is not known"),
        ("model_args.depth", 2.5, "depth=2.5, but the weights beside it do not fit: they have depth=3"),
        ("model_args.img_size", [32, 16], r"img_size=\[32, 16\], but the weights"),
        ("model_args.num_heads", 5, "num_heads=5 do not divide a width of 24"),
        ("model_args.num_heads", 0, "or the weights beside it, are damaged"),
        ("model_args.mlp_ratio", "4", "mlp_ratio=4, but the weights"),
        ("model_args.global_pool", "map", "global_pool=map, .*: converted are token"),
        ("pretrained_cfg.global_pool", "max", "global_pool=max, "),
        ("global_pool", "avgmax", "global_pool=avgmax, "),
        ("model_args.fc_norm", True, "global_pool=token, fc_norm=True: converted are"),
        ("pretrained_cfg", 3, "or the weights beside it, are damaged"),
        ("pretrained_cfg.mean", None, "pretrained_cfg.mean=None: three numbers are needed"),
        ("pretrained_cfg.std", [1, 0, 1], r"std=\[1.0, 0.0, 1.0\]: three positive numbers"),
        (
            "pretrained_cfg.input_size",
            [3, 64, 64],
            "pretrained_cfg.input_size=.*: the weights have positions for images of 32",
        ),
        ("pretrained_cfg.input_size", [1, 32, 32], "pretrained_cfg.input_size="),
        ("model_args.patch_size", 7, "patch_size=7, but the weights"),
        # what only the weights show
        ("model_args.depth", 2, "depth=2, but the weights beside it do not fit"),
        ("model_args.init_values", 1.0, "layer_scale=True, but the weights beside it do not fit"),
        ("model_args.global_pool", "avg", "mean=True, but the weights beside it do not fit: they have mean=False"),
        ("model_args.mlp_ratio", 3, "mlp_ratio=3, but the weights"),
    ],
)
def test_what_would_be_another_model_is_refused_with_its_key(key, value, line, folder, text):
    change(folder, key, value)
    with pytest.raises(UserError, match=line) as error:
        build(folder, text)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_tower_that_is_not_converted_is_refused_with_the_command_that_converts_it(folder, text):
    with pytest.raises(UserError, match="is not in the format of the transformers library") as error:
        dual_encoder(str(folder), text)
    assert str(error.value).endswith(f"siglip-med-convert source={folder} output=plain-converted")


def test_a_folder_that_transformers_reads_is_not_converted(folder, tmp_path):
    with pytest.raises(UserError, match="is in the format of the transformers library: give it to"):
        convert(converted(folder), tmp_path / "again")


def test_a_file_of_torch_is_read_as_tensors_and_runs_nothing(text, tmp_path):
    folder = tmp_path / "plain"
    weights = write(folder, "plain", bin=True)
    file = folder / "pytorch_model.bin"
    torch.save(weights | {"more": runs.Malicious(tmp_path / "pwned")}, file)
    assert "was not loaded, since that could run code" in refusal(folder, text)
    assert not (tmp_path / "pwned").exists()
    torch.save(weights | {"epoch": 3}, file)
    assert "holds something else than the weights of a model" in refusal(folder, text)
    file.unlink()
    assert "holds none of open_clip_model.safetensors, model.safetensors, " in refusal(folder, text)
