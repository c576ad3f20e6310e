"""A pretrained model inside a TwoTower, and which of its weights are trained."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from siglip_med.core.errors import UserError
from siglip_med.models.adaptation import Adaptation, FullFineTune, Lora, Tower

PEFT_PREFIX = "base_model.model."
"""What PEFT puts before the names of a model that it wraps."""


@dataclass(frozen=True)
class Backbone:
    """One pretrained model, the prefix of each tower in it, and how names of unused, head and pooling weights begin."""

    model: PreTrainedModel
    roots: dict[Tower, str]
    unused: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()

    def adapt(self, adaptation: Adaptation, gradient_checkpointing: bool) -> nn.Module:
        """The model with what is trained marked, and wrapped by PEFT if it got adapters, or a UserError."""
        model: nn.Module = self.model
        if gradient_checkpointing:
            if not self.model.supports_gradient_checkpointing:
                raise UserError(f"model.gradient_checkpointing: {type(model).__name__} cannot do it")
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        trained = self.heads if adaptation.train_projection else ()
        if adaptation.train_pooling_head:
            trained += self.pooling
        if isinstance(adaptation, FullFineTune):
            trained = ("",)
        elif isinstance(adaptation, Lora):
            model = adaptation.wrap(self.model, self.roots) or model
        for name, parameter in model.named_parameters():
            plain = name.removeprefix(PEFT_PREFIX)
            chosen = plain.startswith(trained) and not plain.startswith(self.unused)
            parameter.requires_grad_(chosen or ".lora_" in name)
        return model
