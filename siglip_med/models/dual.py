"""Any vision backbone beside any text encoder, joined by two new projection heads."""

from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm
from transformers import PreTrainedModel

from siglip_med.errors import UserError
from siglip_med.image_spec import ImageSpec
from siglip_med.models.adaptation import Adaptation
from siglip_med.models.backbone import Backbone
from siglip_med.models.logits import Logits
from siglip_med.models.two_tower import TwoTower

Pooling = Literal["cls", "mean", "pooler"]

VISION: Final = "vision"
TEXT: Final = "text"
"""Names of the two backbones."""

INITIAL_SCALE, INITIAL_BIAS = 10.0, -10.0
"""Where SigLIP's training starts from (Zhai et al. 2023): with this bias, random pairs start as negatives."""


class ProjectionHead(nn.Module):
    """Standardizes a feature, regularizes it while training, and maps it into the shared space."""

    def __init__(self, features: int, embedding_dim: int, hidden: int, dropout: float, noise: float) -> None:
        """Draws the weights of a linear layer without bias, or of a perceptron with one hidden layer (GELU).

        Args:
            features: F, size of the tower's output.
            embedding_dim: E.
            hidden: units of the hidden layer; 0: none.
            dropout: share of the standardized features, and of the hidden units, set to zero while training.
            noise: standard deviation of Gaussian noise added to the standardized features while training.
        """
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.noise = noise
        self.hidden = nn.Linear(features, hidden) if hidden else None
        self.linear = nn.Linear(hidden or features, embedding_dim, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """``[N, F]`` to ``[N, E]``."""
        # Towers differ in the size of their outputs by orders of magnitude; one learning rate has to fit both.
        features = layer_norm(features, features.shape[-1:])
        if self.training and self.noise > 0:
            features = features + self.noise * torch.randn_like(features)
        features = self.dropout(features)
        if self.hidden is not None:
            features = self.dropout(gelu(self.hidden(features)))
        return self.linear(features)


class DualEncoder(TwoTower):
    """Two towers that have never met: for instance DINOv2 and MiniLM."""

    def __init__(
        self,
        vision: PreTrainedModel,
        text: PreTrainedModel,
        name: str,
        revision: str | None,
        tokenizer: Any,
        image_processor: Any,
        image_spec: ImageSpec,
        embedding_dim: int,
        max_text_length: int,
        vision_pooling: Pooling,
        text_pooling: Pooling,
        image_hidden: int,
        dropout: float,
        noise: float,
        adaptation: Adaptation,
        logits: Logits,
        gradient_checkpointing: bool,
    ) -> None:
        """Wraps two loaded models.

        Args:
            vision: the vision backbone, float32.
            text: the text encoder, float32.
            name: where both were loaded from.
            revision: of the hub, if any.
            tokenizer: of the text encoder.
            image_processor: of the vision backbone.
            image_spec: what images must look like.
            embedding_dim: E.
            max_text_length: L.
            vision_pooling: how the backbone's output becomes one vector.
            text_pooling: how the encoder's token states become one vector.
            image_hidden: units of a hidden layer in the image head; 0: a linear head, as the text's always is.
            dropout: of the heads' input and hidden units, while training.
            noise: standard deviation of noise on the heads' standardized input, while training.
            adaptation: what is trained besides the heads.
            logits: how scale and bias start and how far they go.
            gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
        """
        super().__init__(
            backbones={
                VISION: Backbone(vision, {"vision": ""}, unused=_unused(vision_pooling)),
                TEXT: Backbone(text, {"text": ""}, unused=_unused(text_pooling)),
            },
            name=name,
            revision=revision,
            tokenizer=tokenizer,
            image_processor=image_processor,
            image_spec=image_spec,
            embedding_dim=embedding_dim,
            max_text_length=max_text_length,
            adaptation=adaptation,
            logits=logits,
            base_logits=(INITIAL_SCALE, INITIAL_BIAS),
            gradient_checkpointing=gradient_checkpointing,
        )
        self.vision_pooling: Pooling = vision_pooling
        self.text_pooling: Pooling = text_pooling
        self.image_head = ProjectionHead(_width(vision), embedding_dim, image_hidden, dropout, noise)
        self.text_head = ProjectionHead(_width(text), embedding_dim, 0, dropout, noise)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the pooled output of the backbone ``[B, F]``."""
        output = self.pretrained(VISION)(pixel_values=pixel_values)
        return _pool(output, self.vision_pooling, None)

    def project_images(self, features: Tensor) -> Tensor:
        """``[B, F]`` to ``[B, E]`` by the image head."""
        return self.image_head(features)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` to the pooled output of the text encoder ``[T, G]``."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        output = self.pretrained(TEXT)(input_ids=input_ids, attention_mask=mask)
        return _pool(output, self.text_pooling, mask)

    def project_texts(self, features: Tensor) -> Tensor:
        """``[T, G]`` to ``[T, E]`` by the text head."""
        return self.text_head(features)


def _pool(output: Any, pooling: Pooling, mask: Tensor | None) -> Tensor:
    """One vector a row: the library's own pooled output, the first token, or the mean over (unmasked) positions."""
    if pooling == "pooler":
        return output.pooler_output.flatten(1)
    states = output.last_hidden_state
    if states.ndim == 4:  # a convolutional backbone: [B, C, H, W]
        states = states.flatten(2).transpose(1, 2)
    if pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states.mean(dim=1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _unused(pooling: Pooling) -> tuple[str, ...]:
    """Weights that no embedding depends on: DINOv2's token for masked training, and a pooler nobody asks."""
    masked_training = ("embeddings.mask_token",)
    return masked_training if pooling == "pooler" else (*masked_training, "pooler.")


def _width(model: PreTrainedModel) -> int:
    """F: the size of the vectors that a backbone gives."""
    config = model.config
    width = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if width is None:
        raise UserError(f"model: {type(model).__name__} says neither hidden_size nor hidden_sizes in its config.json")
    return int(width)
