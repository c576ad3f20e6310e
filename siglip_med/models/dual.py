"""Any vision backbone beside any text encoder, joined by two new projection heads."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm
from transformers import PreTrainedModel

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.models.adaptation import Adaptation, Lora
from siglip_med.models.backbone import Backbone
from siglip_med.models.logits import Logits
from siglip_med.models.two_tower import TwoTower

Pooling = Literal["cls", "mean", "pooler"]

VISION: Final = "vision"
TEXT: Final = "text"
"""Names of the two backbones."""

INITIAL_SCALE, INITIAL_BIAS = 10.0, -10.0
"""Where SigLIP's training starts from (Zhai et al. 2023): with this bias, random pairs start as negatives."""


@dataclass(frozen=True)
class DualEncoderSettings:
    """What ``conf/model/dual_encoder.yaml`` says.

    Args:
        vision: folder or hub id of the vision backbone (of a two-tower model, its vision tower is taken).
        text: folder or hub id of the text encoder.
        vision_revision: commit, tag or branch of the hub.
        text_revision: the same for the text encoder.
        embedding_dim: E, size of the shared space.
        image_size: side length in pixels; None is what the backbone's image processor says.
        max_text_length: L, tokens that every text is padded or truncated to.
        vision_pooling: ``cls``: the first token; ``mean``: mean over all positions; ``pooler``: the model's own.
        text_pooling: the same over the tokens that are not padding; sentence encoders want ``mean``.
        image_hidden: units of a hidden layer in the image head; 0: a linear head, as the text's always is.
        dropout: of the heads' input and hidden units, while training.
        noise: standard deviation of Gaussian noise on the heads' standardized input, while training.
        adaptation: what is trained beside the heads, which are trained in any case.
        logits: how logit scale and bias start and how far they go.
        gradient_checkpointing: recompute activations in the backward pass instead of keeping them.
    """

    vision: str
    text: str
    vision_revision: str | None = None
    text_revision: str | None = None
    embedding_dim: PositiveInt = 256
    image_size: PositiveInt | None = None
    max_text_length: PositiveInt = 64
    vision_pooling: Pooling = "cls"
    text_pooling: Pooling = "mean"
    image_hidden: NonNegativeInt = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    noise: NonNegativeFloat = 0.0
    adaptation: Adaptation = field(default_factory=Lora)
    logits: Logits = field(default_factory=Logits)
    gradient_checkpointing: bool = False


class ProjectionHead(nn.Module):
    """Standardizes a feature, regularizes it while training, and maps it into the shared space."""

    def __init__(self, features: int, embedding_dim: int, hidden: int, dropout: float, noise: float) -> None:
        """Draws a linear layer F x E without bias, or a perceptron with one hidden layer (GELU)."""
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
        settings: DualEncoderSettings,
        tokenizer: Any,
        image_processor: Any,
        image_spec: ImageSpec,
    ) -> None:
        """Wraps two loaded models in float32; image processor of the vision backbone, tokenizer of the text encoder."""
        asked = (settings.vision_revision, settings.text_revision)
        super().__init__(
            backbones={
                VISION: Backbone(vision, {"vision": ""}, unused=_unused(settings.vision_pooling)),
                TEXT: Backbone(text, {"text": ""}, unused=_unused(settings.text_pooling)),
            },
            name=f"{settings.vision} + {settings.text}",
            revision=" + ".join(revision or "main" for revision in asked) if any(asked) else None,
            tokenizer=tokenizer,
            image_processor=image_processor,
            image_spec=image_spec,
            embedding_dim=settings.embedding_dim,
            max_text_length=settings.max_text_length,
            adaptation=settings.adaptation,
            logits=settings.logits,
            base_logits=(INITIAL_SCALE, INITIAL_BIAS),
            gradient_checkpointing=settings.gradient_checkpointing,
        )
        self.vision_pooling: Pooling = settings.vision_pooling
        self.text_pooling: Pooling = settings.text_pooling
        shared, dropout, noise = settings.embedding_dim, settings.dropout, settings.noise
        self.image_head = ProjectionHead(_width(vision), shared, settings.image_hidden, dropout, noise)
        self.text_head = ProjectionHead(_width(text), shared, 0, dropout, noise)

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the pooled output of the backbone ``[B, F]``."""
        output = self.pretrained(VISION)(pixel_values=pixel_values)
        return pool(output, self.vision_pooling, None)

    def project_images(self, features: Tensor) -> Tensor:
        """``[B, F]`` to ``[B, E]`` by the image head."""
        return self.image_head(features)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` to the pooled output of the text encoder ``[T, G]``."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        output = self.pretrained(TEXT)(input_ids=input_ids, attention_mask=mask)
        return pool(output, self.text_pooling, mask)

    def project_texts(self, features: Tensor) -> Tensor:
        """``[T, G]`` to ``[T, E]`` by the text head."""
        return self.text_head(features)


def pool(output: Any, pooling: Pooling, mask: Tensor | None) -> Tensor:
    """One vector per row: the library's own pooled output, the first token, or the mean over (unmasked) positions."""
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
