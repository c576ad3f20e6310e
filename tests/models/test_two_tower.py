"""The face of every family, against the transformers library called directly."""

from functools import partial

import pytest
import torch
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from siglip_med.core.errors import UserError
from siglip_med.models import TwoTower, check_gradients
from siglip_med.models.joint import _one_query
from tests.models import runs, tiny


@pytest.fixture(scope="module", params=runs.KINDS)
def model(request, tmp_path_factory) -> TwoTower:
    folder = tmp_path_factory.mktemp(request.param)
    return runs.build(runs.model_node(request.param, folder)).eval()


def test_shapes_and_image_specification_come_from_the_folder(model):
    assert model.image_spec.size == tiny.IMAGE
    assert model.image_spec.mean == (0.4, 0.5, 0.6)
    assert model.image_spec.std == (0.5, 0.4, 0.3)
    assert model.encode_images(runs.images()).shape == (3, model.embedding_dim)
    assert model.encode_texts(**model.tokenize(runs.TEXTS)).shape == (3, model.embedding_dim)
    assert model.max_text_length == tiny.LENGTH
    assert model.logit_scale.shape == model.logit_bias.shape == ()
    assert model.logit_scale.dtype == model.logit_bias.dtype == torch.float32


def test_every_text_is_padded_to_the_full_length(model):
    tokens = model.tokenize(["eczema", "a photograph of " * 30])
    assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (2, tiny.LENGTH)
    assert tokens["input_ids"].dtype == torch.int64
    short, cut = tokens["attention_mask"].sum(dim=1).tolist()
    assert short < cut == tiny.LENGTH


def test_features_are_accepted_in_place_of_images(model):
    features = model.image_features(runs.images())
    assert torch.equal(model.encode_images(features), model.encode_images(runs.images()))


def test_logits_are_scaled_cosines(model):
    image, text = torch.randn(2, model.embedding_dim), torch.randn(4, model.embedding_dim)
    found = model.logits(image, text)
    for i in range(2):
        for j in range(4):
            cosine = (image[i] @ text[j] / image[i].norm() / text[j].norm()).item()
            expected = model.logit_scale.exp().item() * cosine + model.logit_bias.item()
            assert found[i, j].item() == pytest.approx(expected, abs=1e-4)


def test_only_towers_with_a_mask_look_at_it(model):
    tokens = model.tokenize(runs.TEXTS)
    other = {**tokens, "attention_mask": torch.ones_like(tokens["attention_mask"])}
    # CLIP reads its end token, which causal attention keeps from seeing what follows; BERT averages what is unmasked.
    differs = not torch.allclose(model.encode_texts(**tokens), model.encode_texts(**other), atol=1e-6)
    assert differs == (type(model).__name__ == "DualEncoder")


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_joint_models_give_the_librarys_logits(kind, tmp_path):
    node = runs.model_node(kind, tmp_path)
    model, reference = runs.build(node).eval(), AutoModel.from_pretrained(node["path"]).eval()
    tokens = model.tokenize(runs.TEXTS)
    if kind == "siglip":
        del tokens["attention_mask"]
    expected = reference(pixel_values=runs.images(), **tokens).logits_per_image
    # Fresh adapters add nothing: B is zero.
    assert torch.allclose(runs.scores(model), expected, atol=1e-4)


def test_naflex_square_images_give_the_librarys_logits(tmp_path):
    node = runs.model_node("siglip2", tmp_path)
    model, reference = runs.build(node).eval(), AutoModel.from_pretrained(node["path"]).eval()
    processor = AutoImageProcessor.from_pretrained(node["path"])
    pixels = torch.randint(0, 256, (2, tiny.IMAGE, tiny.IMAGE, 3), dtype=torch.uint8)
    patches = processor(images=list(pixels.numpy()), return_tensors="pt")
    ids = model.tokenize(runs.TEXTS)["input_ids"]
    expected = reference(**patches, input_ids=ids).logits_per_image
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.image_spec.mean, model.image_spec.std))
    images = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    found = model.logits(model.encode_images(images), model.encode_texts(ids))
    assert torch.allclose(found, expected, atol=1e-4)


def test_dual_encoder_pools_the_class_token_and_the_unmasked_mean(tmp_path):
    node = runs.model_node("dual_encoder", tmp_path)
    model = runs.build(node).eval()
    vision, text = (AutoModel.from_pretrained(node[name]).eval() for name in ("vision", "text"))
    features = model.image_features(runs.images())
    assert torch.allclose(features, vision(pixel_values=runs.images()).last_hidden_state[:, 0], atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(node["text"])
    for sentence, found in zip(runs.TEXTS, model.text_features(**model.tokenize(runs.TEXTS)), strict=True):
        alone = tokenizer([sentence], return_tensors="pt")  # no padding at all
        ids = alone["input_ids"]
        assert torch.allclose(text(input_ids=ids).last_hidden_state[0].mean(dim=0), found, atol=1e-5)


def test_siglip2_lower_cases_its_texts(tmp_path, monkeypatch):
    model = runs.build(runs.model_node("siglip2", tmp_path))
    seen = []
    tokenizer = model.tokenizer
    monkeypatch.setattr(model, "tokenizer", lambda texts, **rest: seen.extend(texts) or tokenizer(texts, **rest))
    model.tokenize(["Eczema ON the arm"])
    assert seen == ["eczema on the arm"]


@pytest.mark.parametrize("kind", ["siglip", "dual_encoder"])
def test_parameter_groups_cover_each_trained_parameter_once_and_decay_only_matrices(kind, tmp_path):
    adaptation = {"_target_": "siglip_med.models.FullFineTune"}
    model = runs.build(runs.model_node(kind, tmp_path, adaptation))
    groups = {group["name"]: group for group in model.parameter_groups(1e-3, 0.1, 5e-3, 2e-2)}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    assert sorted(names[id(p)] for group in groups.values() for p in group["params"]) == trained
    members = {key: {names[id(parameter)] for parameter in group["params"]} for key, group in groups.items()}
    for key, group in groups.items():
        assert group["weight_decay"] == (0.0 if key == "scales" or key.endswith("no_decay") else 0.1)
        assert all((parameter.ndim >= 2) or not group["weight_decay"] for parameter in group["params"])
    decayed = members["encoder"] | members["heads"]
    assert not [name for name in decayed if name.endswith(("bias", "probe", "logit_scale"))]
    assert members["scales"] == {"logit_scale", "logit_bias"}
    heads = {"siglip": "text_model.head.", "dual_encoder": "_head."}[kind]
    assert members["heads"] | members.get("heads_no_decay", set()) == {name for name in trained if heads in name}
    rates = {key: group["lr"] for key, group in groups.items()}
    assert rates == {key: {"e": 1e-3, "h": 2e-2, "s": 5e-3}[key[0]] for key in groups}


def test_rates_that_are_not_given_are_the_learning_rate(tmp_path):
    model = runs.build(runs.model_node("dual_encoder", tmp_path))
    assert {group["lr"] for group in model.parameter_groups(1e-3, 0.1)} == {1e-3}


def test_a_frozen_tower_keeps_its_dropout_off_while_the_heads_train(tmp_path):
    frozen = {"_target_": "siglip_med.models.Frozen"}
    model = runs.build(runs.model_node("dual_encoder", tmp_path, frozen, dropout=0.5)).train()
    tokens = model.tokenize(runs.TEXTS)
    assert torch.equal(model.text_features(**tokens), model.text_features(**tokens))
    assert not torch.equal(model.encode_texts(**tokens), model.encode_texts(**tokens))
    assert model.vision_is_frozen


def test_head_noise_has_the_given_size_and_vanishes_in_evaluation(tmp_path):
    model = runs.build(runs.model_node("dual_encoder", tmp_path, noise=0.5, image_hidden=0, dropout=0.0))
    features = torch.randn(4000, 24)
    with torch.no_grad():
        model.image_head.linear.weight.copy_(torch.eye(12, 24))
        clean = model.eval().project_images(features)
        noisy = model.train().project_images(features)
    assert (noisy - clean).std().item() == pytest.approx(0.5, rel=0.02)
    assert torch.allclose(clean.mean().abs(), torch.tensor(0.0), atol=0.05)


def test_the_image_heads_hidden_layer_is_a_perceptron_on_standardised_features(tmp_path):
    model = runs.build(runs.model_node("dual_encoder", tmp_path, image_hidden=7, dropout=0.5))
    features = torch.randn(5, 24) * 30 + 4
    head = model.image_head
    standard = (features - features.mean(1, keepdim=True)) / features.std(1, keepdim=True, correction=0)
    inner = standard @ head.hidden.weight.T + head.hidden.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    assert torch.allclose(model.eval().project_images(features), inner @ head.linear.weight.T, atol=1e-5)
    assert model.text_head.hidden is None
    # While training, the hidden units are dropped too: with the input's dropout alone the spread would be smaller.
    with torch.no_grad():
        head.hidden.weight.zero_()
        head.hidden.bias.fill_(1.0)
        assert model.train().project_images(features).std(dim=0).max() > 0.01


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    node = runs.model_node("siglip", tmp_path, {**runs.LORA, "dropout": 0.0})
    gradients = []
    for checkpointing in (False, True):
        model = runs.build({**node, "gradient_checkpointing": checkpointing}).train()
        runs.scores(model).square().sum().backward()
        check_gradients(model)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5), name


def test_a_layer_that_never_runs_fails_the_gradient_check(tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path, {"_target_": "siglip_med.models.Frozen"}))
    head = model.pretrained("model").vision_model.head
    head.unreached = torch.nn.Linear(2, 2)
    runs.scores(model).sum().backward()
    with pytest.raises(UserError, match=r"2 trainable parameters got no gradient .*unreached") as error:
        check_gradients(model)
    assert "\n" not in str(error.value)


def test_summary_counts_what_each_part_has_and_trains(tmp_path):
    model = runs.build(runs.model_node("clip", tmp_path, {**runs.LORA, "towers": "vision"}))
    columns = [list(column.cells) for column in model.summary().columns]
    rows = {
        part: (int(every.replace(",", "")), int(trained.replace(",", "")))
        for part, every, trained, _ in zip(*columns, strict=True)
    }
    assert rows["projections"] == (2 * 20 * 24, 0)
    assert rows["scale and bias"] == (2, 2)
    assert rows["text tower"][1] == 0
    adapters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    assert rows["vision tower"][1] == adapters > 0
    assert rows["all"][1] == adapters + 2


def test_normalized_rows_are_left_to_the_caller(model):
    embedding = model.encode_images(runs.images())
    assert not torch.allclose(embedding, normalize(embedding, dim=-1), atol=1e-3)


def test_one_probe_is_pooled_as_torchs_attention_does_and_learns_alike(tmp_path):
    model = runs.build(runs.model_node("siglip", tmp_path))
    attention = model.vision_tower().head.attention.double()
    torch.manual_seed(0)
    with torch.no_grad():  # transformers starts these at 0, which would hide them
        attention.in_proj_bias.normal_()
        attention.out_proj.bias.normal_()
    results = []
    for pool in (attention, partial(_one_query, attention)):
        torch.manual_seed(1)
        query, tokens = (torch.randn(3, n, attention.embed_dim, dtype=torch.float64) for n in (1, 7))
        leaves = [query.requires_grad_(), tokens.requires_grad_(), *attention.requires_grad_().parameters()]
        output = pool(query, tokens, tokens)[0]
        results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
