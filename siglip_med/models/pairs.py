"""A ViT beside a BERT with the projections that open_clip puts between them, in a layout that transformers reads.

BiomedCLIP (Zhang et al. 2023, arXiv 2303.00915) and DermLIP with PanDerm (Yan et al. 2025, arXiv 2503.14911).
transformers' own `VisionTextDualEncoderModel` has a linear text projection and BERT's pooler, so it would give other
embeddings; the model type is therefore one of this package, and no other library mistakes such a folder for its own.
"""

from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BeitModel,
    BertModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)


@strict
class VitBertConfig(VisionTextDualEncoderConfig):
    """The two configurations, and what lies between the towers and the shared space.

    Attributes:
        vision_pooling: ``cls``: the normalized class token; ``patches``: the mean over the normalized patches,
            normalized again by the same norm, as in DermLIP's code.
        vision_bias: whether the vision projection has a bias.
        text_pooling: ``cls``: the first token; ``mean``: the mean over the tokens that are not padding.
        text_hidden: units of the hidden layer of the text projection (GELU, no biases); 0: a linear projection.
        context_length: L, tokens of a text.
    """

    model_type = "siglip_med_vit_bert"

    vision_pooling: Literal["cls", "patches"] = "cls"
    vision_bias: bool = False
    text_pooling: Literal["cls", "mean"] = "cls"
    text_hidden: int = 0
    context_length: int = 77


class VitBertModel(VisionTextDualEncoderModel):
    """Both towers without their poolers, their projections, and scale and bias of the logits."""

    config_class = VitBertConfig
    supports_gradient_checkpointing = True

    def __init__(self, config: Any) -> None:
        """Draws the weights of a `transformers.BeitConfig` and a `transformers.BertConfig`."""
        vision, text = config.vision_config, config.text_config
        towers = BeitModel(vision, add_pooling_layer=False), BertModel(text, add_pooling_layer=False)
        super().__init__(config, *towers)
        shared, hidden = config.projection_dim, config.text_hidden
        self.visual_projection = nn.Linear(vision.hidden_size, shared, bias=config.vision_bias)
        if hidden:
            layers = nn.Linear(text.hidden_size, hidden, bias=False), nn.Linear(hidden, shared, bias=False)
            self.register_module("text_projection", nn.Sequential(layers[0], nn.GELU(), layers[1]))
        self.logit_bias = nn.Parameter(torch.zeros(()))


AutoConfig.register(VitBertConfig.model_type, VitBertConfig)
AutoModel.register(VitBertConfig, VitBertModel)
