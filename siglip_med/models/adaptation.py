"""What of a pretrained model is trained: adapters in its encoder layers, all of it, or only the heads."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from siglip_med.core.errors import UserError
from siglip_med.models.folded_lora import FoldedLinear

Tower = Literal["vision", "text"]
Towers = Literal["vision", "text", "both"]
LayerTarget = Literal["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]

TARGETS: tuple[LayerTarget, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

# Each name as the families of the transformers library spell it, right below an encoder layer: SigLIP, SigLIP 2 and
# CLIP; DINOv2, DINOv3 and ViT; BERT and RoBERTa; DistilBERT; MPNet.
_ATTENTION = r"(?:self_attn|attention|attention\.(?:self|attention|attn))"
_SPELLINGS: dict[str, str] = {
    "q_proj": _ATTENTION + r"\.(?:q_proj|query|q_lin|q)",
    "k_proj": _ATTENTION + r"\.(?:k_proj|key|k_lin|k)",
    "v_proj": _ATTENTION + r"\.(?:v_proj|value|v_lin|v)",
    "out_proj": r"(?:self_attn\.out_proj|attention\.(?:o_proj|out_lin|output\.dense|attn\.o))",
    "fc1": r"(?:mlp\.(?:fc1|up_proj)|intermediate\.dense|ffn\.lin1)",
    "fc2": r"(?:mlp\.(?:fc2|down_proj)|output\.dense|ffn\.lin2)",
}


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters in the encoder layers (Hu et al. 2022, arXiv 2106.09685), by the PEFT library.

    Attributes:
        rank: r of the update B·A.
        alpha: the update is scaled by alpha / r (alpha / sqrt(r) with ``use_rslora``).
        dropout: of the adapters' input, while training.
        towers: which towers get adapters.
        target_modules: the linear layers that get one, in SigLIP's spelling; other families' names are found by
            what they do. Only encoder layers are matched: an adapter on the ``out_proj`` of SigLIP's pooling head
            would lie inside `torch.nn.MultiheadAttention`, which never calls it.
        use_dora: weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353).
        use_rslora: rank-stabilized scaling (Kalajdzievski 2023, arXiv 2312.03732).
        train_pooling_head: also train SigLIP's attention pooling head; the other families have none.
        train_projection: also train the linear layers that lead into the shared space (SigLIP: the text head).
            A dual encoder's are always trained, since nobody pretrained them.
        first_block: the first encoder layer that gets adapters, counted from 0: those before it are frozen, and
            ``features=cached`` computes what they give once. A number for every tower, or one per tower
            (``{vision: 8, text: 4}``).
    """

    rank: Annotated[int, Field(gt=0, le=4096)] = 16
    alpha: Annotated[int, Field(gt=0, le=1_000_000)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    towers: Towers = "both"
    target_modules: Sequence[LayerTarget] = TARGETS
    use_dora: bool = False
    use_rslora: bool = False
    train_pooling_head: bool = False
    train_projection: bool = False
    first_block: NonNegativeInt | Mapping[Tower, NonNegativeInt] = 0

    def __post_init__(self) -> None:
        """Refuses blocks of a tower that gets no adapters: they would be frozen in any case."""
        given = {} if isinstance(self.first_block, int) else self.first_block
        idle = [tower for tower in given if not self.trains_encoder(tower)]
        if idle:
            raise UserError(
                f"model.adaptation.first_block.{idle[0]}: that tower gets no adapters (towers={self.towers}); leave it "
                "out, or set model.adaptation.towers=both"
            )

    def trains_encoder(self, tower: Tower) -> bool:
        """Whether encoder weights of this tower change."""
        return self.towers in (tower, "both")

    def frozen_blocks(self, tower: Tower) -> int:
        """How many of this tower's first encoder layers are frozen while later ones are trained."""
        if not self.trains_encoder(tower):
            return 0
        return self.first_block if isinstance(self.first_block, int) else int(self.first_block.get(tower, 0))

    def wrap(self, model: nn.Module, roots: dict[Tower, str]) -> PeftModel | None:
        """The frozen base with adapters, None if no tower gets any; a UserError for encoder layers unknown here."""
        chosen = {root: self.frozen_blocks(tower) for tower, root in roots.items() if self.trains_encoder(tower)}
        if not chosen:
            return None
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        for root, first in chosen.items():
            for target in self.target_modules:
                if not any(re.fullmatch(_pattern({root: first}, [target]), name) for name in names):
                    raise UserError(
                        f"model.adaptation: no {target} in the encoder layers of {type(model).__name__}"
                        f"{f' from block {first} on' if first else ''}; LoRA knows SigLIP, CLIP, DINO, ViT, BERT-like "
                        "towers: leave it out of target_modules, or use Frozen"
                    )
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=_pattern(chosen, self.target_modules),
            use_dora=self.use_dora,
            use_rslora=self.use_rslora,
        )
        config._register_custom_module({nn.Linear: FoldedLinear})
        return get_peft_model(model, config)


@dataclass(frozen=True)
class FullFineTune:
    """Every weight that the embeddings depend on is trained, and stored in the checkpoint."""

    train_pooling_head = True
    train_projection = True

    def trains_encoder(self, tower: Tower) -> bool:
        """Both towers change."""
        return True

    def frozen_blocks(self, tower: Tower) -> int:
        """None."""
        return 0


@dataclass(frozen=True)
class Frozen:
    """Only the projections into the shared space and the scales are trained.

    The output of the vision tower never changes, so it can be computed once and reused.
    """

    train_pooling_head = False
    train_projection = True

    def trains_encoder(self, tower: Tower) -> bool:
        """No tower changes."""
        return False

    def frozen_blocks(self, tower: Tower) -> int:
        """None, since no later block is trained either."""
        return 0


Adaptation = Lora | FullFineTune | Frozen


def _pattern(roots: Mapping[str, int], targets: Sequence[str]) -> str:
    """Matches the linear layers ``targets`` in the encoder layers of each root, from its first block on."""
    kinds = "|".join(_SPELLINGS[target] for target in targets)
    # no tower has a hundred blocks
    blocks = {root: "|".join(map(str, range(first, 100))) if first else r"\d+" for root, first in roots.items()}
    prefixes = "|".join(
        rf"{re.escape(root)}(?:(?:encoder|transformer|model)\.)?layers?\.(?:{numbers})"
        for root, numbers in blocks.items()
    )
    return rf"(?:{prefixes})\.(?:{kinds})"


def interpolated(base: Mapping[str, Tensor], trained: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights on the straight line from the base to the trained model.

    An adapter adds ``scale B A`` to a weight, so ``share B`` is the adapted weight's own place on the line; all other
    trained weights go from their value in the base to the trained one.

    Args:
        base: `TwoTower.trainable_state` of the model before training.
        trained: the same names after it.
        share: 0 is the base, 1 the trained model.

    Returns:
        A state for `TwoTower.load_trainable_state`; exactly ``trained`` at 1.

    Raises:
        UserError: the adapters are DoRA's, which are no straight line in their weights.

    Source: Wortsman et al., CVPR 2022, arXiv 2109.01903 (WiSE-FT).
    """
    if any("lora_magnitude" in name for name in trained):
        raise UserError("interpolation: DoRA rescales what it adapts, so there is no straight line back to the base")
    state = {}
    for name, after in trained.items():
        if ".lora_A." in name:
            state[name] = after.clone()
        elif ".lora_B." in name:
            state[name] = share * after
        else:
            state[name] = after.clone() if share == 1 else base[name] + share * (after - base[name])
    return state
