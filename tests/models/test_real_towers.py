"""The dual encoder on the real DINOv2 and MiniLM, where they lie beside the checkout."""

import pytest
import torch
from torch.nn.functional import normalize

from siglip_med.models import Frozen, Lora, check_gradients, dual_encoder
from tests.models.test_adaptation import adapted_layers

pytestmark = pytest.mark.shared

SENTENCES = ("A photograph of psoriasis.", "A picture of psoriatic skin.", "The train leaves at noon.")


def build(shared, adaptation):
    torch.manual_seed(0)
    models = shared / "models"
    return dual_encoder(
        str(models / "dinov2-small"), str(models / "all-minilm-l6-v2"), image_size=112, adaptation=adaptation
    )


def test_towers_load_in_full_precision_and_minilm_knows_what_sentences_mean(shared):
    model = build(shared, Frozen()).eval()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    features = normalize(model.text_features(**model.tokenize(SENTENCES)), dim=-1)
    similarity = features @ features.T
    assert similarity[0, 1] > 0.6 > 0.2 > similarity[0, 2]


def test_heads_alone_train_on_features_computed_once(shared):
    model = build(shared, Frozen()).train()
    assert model.vision_is_frozen
    with torch.no_grad():
        features = model.image_features(torch.randn(4, 3, 112, 112))
    assert features.shape == (4, 384)
    text = model.encode_texts(**model.tokenize(SENTENCES))
    model.logits(model.encode_images(features), text).square().mean().backward()
    check_gradients(model)
    image_head, text_head, scalars = (384 + 1) * 512 + 512 * 256, 384 * 256, 2
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == image_head + text_head + scalars


def test_lora_reaches_every_layer_of_both_towers(shared):
    model = build(shared, Lora(rank=4)).train()
    assert len(adapted_layers(model)) == 12 * 6 + 6 * 6
    images = torch.randn(2, 3, 112, 112)
    model.logits(
        model.encode_images(images), model.encode_texts(**model.tokenize(SENTENCES))
    ).square().mean().backward()
    check_gradients(model)
