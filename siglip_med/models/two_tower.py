"""The one face of every model: images and texts in, embeddings of one space out."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from peft import PeftModel
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import normalize

from siglip_med.core.errors import UserError
from siglip_med.core.image_spec import ImageSpec
from siglip_med.models.adaptation import Adaptation, Tower
from siglip_med.models.backbone import PEFT_PREFIX, Backbone
from siglip_med.models.base import BaseReference, fingerprint
from siglip_med.models.frozen_blocks import FrozenBlocks
from siglip_med.models.logits import Logits

Component = Literal["vision", "text", "heads", "logits"]
_TITLES: dict[Component, str] = {
    "vision": "vision tower",
    "text": "text tower",
    "heads": "projections",
    "logits": "scale and bias",
}


class TwoTower(nn.Module, ABC):
    """A vision tower and a text tower with one embedding space.

    Attributes:
        image_spec: side length and normalization of its images.
        embedding_dim: E, the size of the shared space.
        max_text_length: L, tokens that every text is padded or truncated to.
        tokenizer: the text tower's tokenizer (transformers).
        image_processor: the vision tower's image processor (transformers).
        logit_scale: logarithm of the multiplier of the cosine; 0-dim, float32.
        logit_bias: 0-dim, float32.
        base: which pretrained model this is.
        text_mask: whether the text tower takes an attention mask. SigLIP's takes none: it attends to its padding.
    """

    text_mask = True
    lowercase_text = False

    def __init__(
        self,
        backbones: Mapping[str, Backbone],
        name: str,
        revision: str | None,
        tokenizer: Any,
        image_processor: Any,
        image_spec: ImageSpec,
        embedding_dim: int,
        max_text_length: int,
        adaptation: Adaptation,
        logits: Logits,
        base_logits: tuple[float, float],
        gradient_checkpointing: bool,
    ) -> None:
        """Wraps pretrained models by name; the factories (`siglip`, `clip`, …) load them first."""
        super().__init__()
        digits = fingerprint({key: one.model for key, one in backbones.items()})
        self.base = BaseReference(name=name, revision=revision, fingerprint=digits)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_spec = image_spec
        self.embedding_dim = embedding_dim
        self.max_text_length = max_text_length
        self.adaptation = adaptation
        self.logits_settings = logits
        self.logit_scale, self.logit_bias = logits.parameters(*base_logits)
        self._layout = dict(backbones)
        self.backbones = nn.ModuleDict(
            {key: backbone.adapt(adaptation, gradient_checkpointing) for key, backbone in backbones.items()}
        )
        self._frozen_blocks = {
            tower: FrozenBlocks(self._tower(key, root), adaptation.frozen_blocks(tower), tower)
            for key, backbone in backbones.items()
            for tower, root in backbone.roots.items()
            if adaptation.frozen_blocks(tower)
        }
        self.train()

    def _tower(self, backbone: str, root: str) -> nn.Module:
        tower: nn.Module = self.pretrained(backbone).get_submodule(root.rstrip("."))
        return tower

    def pretrained(self, backbone: str) -> Any:
        """The transformers model behind a backbone, with or without adapters in it."""
        model = self.backbones[backbone]
        return model.get_base_model() if isinstance(model, PeftModel) else model

    def towers(self) -> dict[Tower, nn.Module]:
        """The transformers model of each tower, with or without adapters in it."""
        return {tower: self._tower(key, root) for key, one in self._layout.items() for tower, root in one.roots.items()}

    def vision_tower(self) -> Any:
        """The transformers model of the vision tower, with or without adapters in it."""
        return self.towers()["vision"]

    # ---- embeddings ---------------------------------------------------------------------------------------------

    @abstractmethod
    def image_features(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` normalized images to ``[B, F]`` pooled output of the vision backbone.

        Without dependence on anything trained where `vision_is_frozen`: it may be computed once and reused.
        """

    @abstractmethod
    def project_images(self, features: Tensor) -> Tensor:
        """``[B, F]`` features to ``[B, E]`` embeddings, not normalized."""

    @abstractmethod
    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` tokens to ``[T, G]`` pooled output of the text backbone."""

    @abstractmethod
    def project_texts(self, features: Tensor) -> Tensor:
        """``[T, G]`` features to ``[T, E]`` embeddings, not normalized."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Embeds images, or what was computed of them before.

        Args:
            images: ``[B, 3, H, W]`` normalized, ``[B, F]`` from `image_features`, or ``[B, N, D]`` from `image_states`.

        Returns:
            ``[B, E]``, not normalized.
        """
        return self.project_images(self.pooled_features(images))

    def embed_images(self, images: Tensor) -> Tensor:
        """``[B, E]`` float32 of length 1: what neighbours, pages and ``siglip-med-embed`` hold; see `encode_images`."""
        return normalize(self.encode_images(images).float(), dim=-1)

    def pooled_features(self, images: Tensor) -> Tensor:
        """``[B, F]`` features of images, or of what was computed of them before; see `encode_images`."""
        if images.ndim == 2:
            return images
        if images.ndim == 4:
            return self.image_features(images)
        with self._frozen_blocks["vision"].resumed(images):
            return self.image_features(images)

    def encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, states: Tensor | None = None
    ) -> Tensor:
        """``[T, L]`` ids and mask of `tokenize` (or their `text_states`) to ``[T, E]``, not normalized.

        Towers that were trained without a mask ignore it.
        """
        if states is None:
            return self.project_texts(self.text_features(input_ids, attention_mask))
        with self._frozen_blocks["text"].resumed(states):
            return self.project_texts(self.text_features(input_ids, attention_mask))

    def frozen_blocks(self, tower: Tower) -> int:
        """How many of a tower's first blocks are frozen while later ones are trained; 0 for a tower frozen whole."""
        return self.adaptation.frozen_blocks(tower)

    def image_states(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to the states ``[B, N, D]`` after the frozen blocks, which never change."""
        return self._states("vision", lambda: self.image_features(pixel_values))

    def text_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """``[T, L]`` tokens to the states ``[T, L, D]`` after the frozen blocks, which never change."""
        return self._states("text", lambda: self.text_features(input_ids, attention_mask))

    @torch.no_grad()
    def _states(self, tower: Tower, run: Callable[[], Tensor]) -> Tensor:
        blocks, training = self._frozen_blocks[tower], self.training
        self.eval()
        states = blocks.states(run)
        blocks.check(states, run)
        self.train(training)
        return states

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turns texts into ``input_ids`` and ``attention_mask``, both ``[T, L]`` int64, padded to the full length."""
        tokens = self.tokenizer(
            [text.lower() for text in texts] if self.lowercase_text else list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.max_text_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"input_ids": tokens["input_ids"].long(), "attention_mask": tokens["attention_mask"].long()}

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """exp(logit_scale) · cosine + logit_bias in float32: ``[B, E]`` and ``[T, E]`` embeddings to ``[B, T]``."""
        cosine = normalize(images.float(), dim=-1) @ normalize(texts.float(), dim=-1).T
        return self.logit_scale.exp() * cosine + self.logit_bias

    def clamp_logits(self) -> None:
        """Puts logit scale and bias back into their configured ranges; call it after an optimizer step."""
        self.logits_settings.clamp(self.logit_scale.data, self.logit_bias.data)

    def cost(self, tower: Tower) -> float:
        """Multiplications of one text's or image's pass, roughly: weights of blocks that are not kept, times tokens.

        An image has a token per patch (16 pixels where the model does not say).
        """
        tokens, block = self.max_text_length, re.compile(r"layers?\.(\d+)\.")
        if tower == "vision":
            configs = (module.config for module in self.modules() if hasattr(module, "config"))
            sizes = (getattr(config, "patch_size", None) for config in configs)
            patch = next((size for size in sizes if isinstance(size, int)), 16)
            tokens = (self.image_spec.size // patch) ** 2
        counted = 0
        for name, parameter in self.named_parameters():
            found = block.search(name)
            if found and self.component_of(name) == tower and int(found[1]) >= self.frozen_blocks(tower):
                counted += parameter.numel()
        return float(counted * tokens)

    # ---- training -----------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "TwoTower":
        """Switches to training; a tower without trained encoder weights stays in evaluation mode.

        So the dropout of a frozen BERT, or of the frozen first blocks of one, never disturbs what is meant to be fixed.
        """
        super().train(mode)
        for key, backbone in self._layout.items():
            for tower, root in backbone.roots.items():
                if not self.adaptation.trains_encoder(tower):
                    self._tower(key, root).eval()
        for blocks in self._frozen_blocks.values():
            for module in blocks.frozen_modules():
                module.eval()
        return self

    @property
    def vision_is_frozen(self) -> bool:
        """Whether `image_features` never changes, so that features can be computed once."""
        return self._is_frozen("vision")

    @property
    def text_is_frozen(self) -> bool:
        """Whether `text_features` never changes, so that features can be computed once."""
        return self._is_frozen("text")

    def _is_frozen(self, part: str) -> bool:
        return not any(
            parameter.requires_grad for name, parameter in self.named_parameters() if self.component_of(name) == part
        )

    def trainable_state(self) -> dict[str, Tensor]:
        """Every trained tensor by its parameter name: what a checkpoint holds."""
        fixed = {"logit_scale": self.logit_scale.detach(), "logit_bias": self.logit_bias.detach()}
        return {name: parameter.detach() for name, parameter in self._trained()} | fixed

    def fingerprint(self) -> str:
        """32 hexadecimal digits of the base and of every trained weight: equal where two models embed alike."""
        total = hashlib.sha256(self.base.fingerprint.encode())
        for name, tensor in sorted(self.trainable_state().items()):
            total.update(f"{name}{tuple(tensor.shape)}".encode())
            total.update(tensor.float().cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:32]

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, parameter) for name, parameter in self.named_parameters() if parameter.requires_grad)

    def check_trainable_state(self, state: Mapping[str, Tensor], partial: bool = False) -> None:
        """Makes sure that tensors of `trainable_state` fit; a ``partial`` one may lack some of what this model trains.

        Raises:
            UserError: the names or shapes are not those of this model and its adaptation.
        """
        expected = self.trainable_state()
        extra = sorted(state.keys() - expected.keys())
        missing = [] if partial else sorted(expected.keys() - state.keys())
        wrong = sorted(name for name in expected.keys() & state.keys() if expected[name].shape != state[name].shape)
        if missing or extra or wrong:
            advice = "train at least what that run trained" if partial else "use the run's own model.adaptation"
            raise UserError(
                f"the trained weights do not fit this model: {len(missing)} missing, {len(extra)} unknown, "
                f"{len(wrong)} of another shape (first: {(missing + extra + wrong)[0]}); {advice}"
            )

    @torch.no_grad()
    def load_trainable_state(self, state: Mapping[str, Tensor], partial: bool = False) -> None:
        """Puts `trainable_state` back; what a partial state lacks stays. Errors as of `check_trainable_state`."""
        self.check_trainable_state(state, partial)
        own = self.trainable_state()
        for name, tensor in state.items():
            own[name].copy_(tensor)

    def parameter_groups(
        self,
        learning_rate: float,
        weight_decay: float,
        scale_learning_rate: float | None = None,
        head_learning_rate: float | None = None,
    ) -> list[dict[str, Any]]:
        """Groups for an optimizer: matrices decay; vectors, biases, the pooling probe and the scales do not.

        Args:
            learning_rate: of encoder weights and adapters.
            weight_decay: of matrices.
            scale_learning_rate: of logit scale and bias; None is ``learning_rate``.
            head_learning_rate: of the projections into the shared space; None is ``learning_rate``.
        """
        rates = {
            "encoder": learning_rate,
            "heads": learning_rate if head_learning_rate is None else head_learning_rate,
            "scales": learning_rate if scale_learning_rate is None else scale_learning_rate,
        }
        groups: dict[str, dict[str, Any]] = {}
        for name, parameter in self._trained():
            part = {"logits": "scales", "heads": "heads"}.get(self.component_of(name), "encoder")
            decays = part != "scales" and parameter.ndim >= 2 and not name.endswith(".probe")
            key = part if decays or part == "scales" else f"{part}_no_decay"
            decay = weight_decay if decays else 0.0
            group = groups.setdefault(key, {"name": key, "params": [], "lr": rates[part], "weight_decay": decay})
            group["params"].append(parameter)
        return list(groups.values())

    def trained_base_weights(self, backbone: str) -> dict[str, Tensor]:
        """Trained weights that are not adapters, under their names in the transformers model."""
        prefix = f"backbones.{backbone}."
        return {
            name.removeprefix(prefix).removeprefix(PEFT_PREFIX): parameter.detach()
            for name, parameter in self._trained()
            if name.startswith(prefix) and ".lora_" not in name
        }

    def component_of(self, name: str) -> Component:
        """Which component of the model a parameter belongs to, by its name."""
        if name in ("logit_scale", "logit_bias"):
            return "logits"
        _, _, rest = name.partition("backbones.")
        key, _, inner = rest.partition(".")
        inner = inner.removeprefix(PEFT_PREFIX)
        if key in self._layout and not inner.startswith(self._layout[key].heads):
            for tower, root in self._layout[key].roots.items():
                if inner.startswith(root):
                    return tower
        return "heads"

    def summary(self) -> Table:
        """A table of how many parameters each part has and how many of them are trained."""
        replaced = (".logit_scale", ".logit_bias")  # the base's own, whose place this class's parameters take
        every, trained = dict.fromkeys(_TITLES, 0), dict.fromkeys(_TITLES, 0)
        for name, parameter in self.named_parameters():
            if not name.endswith(replaced):
                every[self.component_of(name)] += parameter.numel()
                trained[self.component_of(name)] += parameter.numel() * parameter.requires_grad
        rows = [(title, every[part], trained[part]) for part, title in _TITLES.items()]
        table = Table(title=f"{self.base.name} ({type(self.adaptation).__name__})")
        for heading in ("part", "parameters", "trained", "share"):
            table.add_column(heading, justify="left" if heading == "part" else "right")
        for title, total, learned in (*rows, ("all", sum(every.values()), sum(trained.values()))):
            table.add_row(title, f"{total:,}", f"{learned:,}", f"{learned / max(1, total):.2%}")
        return table


def check_gradients(model: nn.Module) -> None:
    """Fails if a trainable parameter got no gradient; call it after the first backward pass.

    An adapter on a layer that is never called trains nothing, says nothing, and stops distributed training.

    Raises:
        UserError: lists the parameters that no gradient reached.
    """
    dead = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if dead:
        names = ", ".join(dead[:4]) + (", …" if len(dead) > 4 else "")
        raise UserError(
            f"{len(dead)} trainable parameters got no gradient in the first step ({names}): the loss does not reach "
            "them; leave them out of model.adaptation, or set model.logits.train_bias=false if it is the bias alone"
        )
