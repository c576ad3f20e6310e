"""Models that were pretrained with both towers: SigLIP, SigLIP 2 with flexible resolution, CLIP, a ViT with a BERT."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import MultiheadAttention
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import PreTrainedModel

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.models.adaptation import Adaptation, Lora
from siglip_med.models.backbone import Backbone
from siglip_med.models.dual import pool
from siglip_med.models.frozen_blocks import replaced_forwards
from siglip_med.models.logits import Logits
from siglip_med.models.two_tower import TwoTower

MODEL = "model"
"""Name of the one backbone of a joint model."""


@dataclass(frozen=True)
class JointSettings:
    """What the configs say of a model whose two towers were pretrained together.

    Args:
        path: a folder, a hub id, or ``package:siglip_tiny``.
        revision: commit, tag or branch of the hub; None is the main branch.
        adaptation: what is trained.
        logits: how logit scale and bias start and how far they go.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    path: str
    revision: str | None = None
    adaptation: Adaptation = field(default_factory=Lora)
    logits: Logits = field(default_factory=Logits)
    gradient_checkpointing: bool = False


class JointTwoTower(TwoTower):
    """One transformers model that holds both towers as ``vision_model`` and ``text_model``."""

    heads: tuple[str, ...]
    pooling: tuple[str, ...] = ()

    def __init__(
        self,
        model: PreTrainedModel,
        settings: JointSettings,
        tokenizer: Any,
        image_processor: Any,
    ) -> None:
        """Wraps a model loaded from ``settings.path`` in float32."""
        scale: Any = model.logit_scale
        bias = getattr(model, "logit_bias", None)
        super().__init__(
            # The model's own scale and bias are frozen: PEFT neither trains nor saves bare parameters.
            backbones={
                MODEL: Backbone(
                    model,
                    {"vision": "vision_model.", "text": "text_model."},
                    unused=("logit_scale", "logit_bias"),
                    heads=self.heads,
                    pooling=self.pooling,
                )
            },
            name=settings.path,
            revision=settings.revision,
            tokenizer=tokenizer,
            image_processor=image_processor,
            image_spec=ImageSpec(
                self.image_size(model.config.vision_config),
                tuple(image_processor.image_mean),
                tuple(image_processor.image_std),
            ),
            embedding_dim=self.shared_size(model.config),
            max_text_length=self.text_length(model.config),
            adaptation=settings.adaptation,
            logits=settings.logits,
            base_logits=(scale.exp().item(), 0.0 if bias is None else bias.item()),
            gradient_checkpointing=settings.gradient_checkpointing,
        )

    @staticmethod
    def image_size(vision_config: Any) -> int:
        """Side length of the images that the vision tower was built for, in pixels."""
        return int(vision_config.image_size)

    @staticmethod
    def shared_size(config: Any) -> int:
        """E, read from the model's configuration."""
        return int(config.text_config.projection_size)

    @staticmethod
    def text_length(config: Any) -> int:
        """L, read from the model's configuration."""
        return int(config.text_config.max_position_embeddings)

    def pretrained_with_logits(self) -> PreTrainedModel:
        """The transformers model with the current scale and bias written into it, for export."""
        model = self.pretrained(MODEL)
        with torch.no_grad():
            model.logit_scale.fill_(self.logit_scale)
            if hasattr(model, "logit_bias"):
                model.logit_bias.fill_(self.logit_bias)
        return model


class SiglipTwoTower(JointTwoTower):
    """SigLIP (Zhai et al. 2023, arXiv 2303.15343), MedSigLIP, and SigLIP 2 of fixed resolution.

    Image features are the output of the attention pooling head, and already embeddings. Text features are the last
    token's hidden state; the text head maps them to embeddings.
    """

    text_mask = False
    heads = ("text_model.head.",)
    pooling = ("vision_model.head.",)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the pooling head's output ``[B, E]``."""
        tower = self.pretrained(MODEL).vision_model
        attention = tower.head.attention
        if "forward" in vars(attention):  # someone looks at its weights
            return tower(pixel_values=pixel_values).pooler_output
        with replaced_forwards({attention: partial(_one_query, attention)}):
            return tower(pixel_values=pixel_values).pooler_output

    def project_images(self, features: Tensor) -> Tensor:
        """Returns the features: SigLIP has no projection after its pooling head."""
        return features

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` to the last token's state ``[T, G]``; padding is attended to, as in pretraining."""
        # All states, not pooler_output: the head belongs to project_texts.
        text = self.pretrained(MODEL).text_model
        last = text.encoder.layers[-1]
        with replaced_forwards({last: partial(_last_token, last)}):
            return text(input_ids=input_ids).last_hidden_state[:, -1]

    def project_texts(self, features: Tensor) -> Tensor:
        """``[T, G]`` to ``[T, E]`` by the text head."""
        return self.pretrained(MODEL).text_model.head(features)


def _last_token(layer: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What a SigLIP encoder layer gives for the last token, ``[T, 1, D]``: nothing reads the others after the last one.

    Every token still gives keys and values; query, projection and perceptron are those of one token.
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(2, (-1, attention.head_dim)).transpose(1, 2)

    query = heads(attention.q_proj(normed[:, -1:]))
    keys, values = heads(attention.k_proj(normed)), heads(attention.v_proj(normed))
    dropout = attention.dropout if attention.training else 0.0
    mixed = scaled_dot_product_attention(query, keys, values, dropout_p=dropout)
    states = hidden_states[:, -1:] + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return states + layer.mlp(layer.layer_norm2(states))


def _one_query(
    attention: MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """What `torch.nn.MultiheadAttention` gives for a query ``[B, 1, D]`` whose keys are its values ``[B, N, D]``.

    ``q (W_k x + b_k) = (q W_k) x + q b_k``, and no softmax notices the last: so the query is taken to the tokens, and
    their mean to the values, in place of projecting every token twice.
    """
    of_query, of_key, of_value = (
        weight.unflatten(0, (attention.num_heads, -1)) for weight in attention.in_proj_weight.chunk(3)
    )
    bias, _, shift = (bias.unflatten(0, (attention.num_heads, -1)) for bias in attention.in_proj_bias.chunk(3))
    asked = (torch.einsum("bd,hwd->bhw", query[:, 0], of_query) + bias) / math.sqrt(attention.head_dim)
    weight = (torch.einsum("bhw,hwd->bhd", asked, of_key) @ key.transpose(1, 2)).softmax(dim=-1)
    mixed = torch.einsum("bhd,hwd->bhw", (weight.to(value.dtype) @ value), of_value) + shift
    # By its weights, as PyTorch does: an adapter on this layer must not run here and be missing from an export.
    return linear(mixed.flatten(1), attention.out_proj.weight, attention.out_proj.bias)[:, None], None


class Siglip2TwoTower(SiglipTwoTower):
    """SigLIP 2 of fixed resolution (Tschannen et al. 2025, arXiv 2502.14786): SigLIP's layers, lower-case texts."""

    lowercase_text = True


class NaflexTwoTower(Siglip2TwoTower):
    """SigLIP 2 NaFlex, fed with square images at the resolution of its position embeddings."""

    @staticmethod
    def image_size(vision_config: Any) -> int:
        """Side length at which every position embedding is used once."""
        side = math.isqrt(vision_config.num_patches)
        if side * side != vision_config.num_patches:
            raise UserError(f"the model has {vision_config.num_patches} patches, which make no square image")
        return int(side * vision_config.patch_size)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]``, cut into patches as transformers' Siglip2ImageProcessor does, to ``[B, E]``.

        At this resolution the position embeddings need no resizing and no patch is padding: what the library does
        image by image, for images of any shape, comes down to a sum.
        """
        tower = self.pretrained(MODEL).vision_model
        if pixel_values.ndim == 3:  # states: the embeddings are not needed
            return tower.head(tower.post_layernorm(tower.encoder(inputs_embeds=pixel_values).last_hidden_state))
        patch = tower.config.patch_size
        images, channels, height, width = pixel_values.shape
        patches = pixel_values.reshape(images, channels, height // patch, patch, width // patch, patch)
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        states = tower.embeddings.patch_embedding(patches) + tower.embeddings.position_embedding.weight
        states = tower.encoder(inputs_embeds=states).last_hidden_state
        return tower.head(tower.post_layernorm(states))


class ProjectedTwoTower(JointTwoTower):
    """Pooled towers, then a projection each that was pretrained with them."""

    heads = ("visual_projection.", "text_projection.")

    @staticmethod
    def shared_size(config: Any) -> int:
        """E, read from the model's configuration."""
        return int(config.projection_dim)

    def project_images(self, features: Tensor) -> Tensor:
        """``[B, F]`` to ``[B, E]`` by the visual projection."""
        return self.pretrained(MODEL).visual_projection(features)

    def project_texts(self, features: Tensor) -> Tensor:
        """``[T, G]`` to ``[T, E]`` by the text projection."""
        return self.pretrained(MODEL).text_projection(features)


class ClipTwoTower(ProjectedTwoTower):
    """CLIP (Radford et al. 2021, arXiv 2103.00020)."""

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the normalized class token ``[B, F]``."""
        return self.pretrained(MODEL).vision_model(pixel_values=pixel_values).pooler_output

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` to the end token's state ``[T, G]``."""
        return self.pretrained(MODEL).text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output


class VitBertTwoTower(ProjectedTwoTower):
    """A ViT beside a BERT: BiomedCLIP, and DermLIP with PanDerm (`siglip_med.models.pairs`)."""

    @property
    def vision_pooling(self) -> str:
        """``cls``, or ``patches`` where the pooled output is a mean over them; relevance maps follow it."""
        return str(self.pretrained(MODEL).config.vision_pooling)

    @staticmethod
    def text_length(config: Any) -> int:
        """L, of fewer tokens than BERT could take."""
        return int(config.context_length)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the class token, or the mean over the patches normalized again: ``[B, F]``."""
        tower = self.pretrained(MODEL).vision_model
        states = tower(pixel_values=pixel_values).last_hidden_state
        return states[:, 0] if self.vision_pooling == "cls" else tower.layernorm(states[:, 1:].mean(dim=1))

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` to the first token's state, or the mean over the tokens that are not padding: ``[T, G]``."""
        model = self.pretrained(MODEL)
        # open_clip's encoder makes the mask itself, from the padding
        mask = input_ids != model.config.text_config.pad_token_id if attention_mask is None else attention_mask
        return pool(model.text_model(input_ids=input_ids, attention_mask=mask.long()), model.config.text_pooling, mask)
