"""Images against their own captions: the source, the captions of a step, and the module that trains on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from siglip_med.data.batch import Batch
from siglip_med.losses import LayeredLoss, PairBatch
from siglip_med.losses.sigmoid import weighted_sigmoid
from siglip_med.models import Tokenizer, TwoTower
from siglip_med.synthetic.renderer import draw_appearance
from siglip_med.synthetic.source import DrawnCase, SyntheticSource
from siglip_med.synthetic.vocabulary import SKIN_TONES
from siglip_med.training.module import TwoTowerModule
from siglip_med.training.optim import BuildsOptimizer
from tools.pretraining.habits import draw_layers
from tools.pretraining.sentences import caption


@dataclass(frozen=True)
class CaptionSource(SyntheticSource):
    """Image-caption pairs for pretraining: free combinations of lesions, skin and site, and no condition at all.

    The one label column, "skin", is 1 everywhere; the captions are in the description column.

    Args:
        n_images: number of pairs.
    """

    n_images: Annotated[int, Field(gt=0, le=10_000_000)] = 12000

    name: ClassVar[str] = "captions"

    def __post_init__(self) -> None:
        """Any number of pairs will do: no condition needs three cases."""

    def conditions(self) -> tuple[str, ...]:
        """The one dummy condition."""
        return ("skin",)

    def draw_cases(self) -> Iterator[DrawnCase]:
        """One picture per case."""
        for number in range(self.n_images):
            # Another stream than SyntheticSource's: equal seeds give no equal skin.
            rng = np.random.default_rng([self.seed, 3, number])
            layers, site = draw_layers(rng)
            tone = int(rng.integers(1, len(SKIN_TONES) + 1))
            appearance = draw_appearance(rng, layers, tone, site)
            columns = {"case": f"pair-{number:06d}", "condition": "skin", "weight": "1.0", "sex": "", "age_group": ""}
            columns |= {"description": caption(rng, appearance), "skin_tone": str(tone), "site": site}
            yield DrawnCase(appearance, 1, columns)


@dataclass(frozen=True)
class CaptionBatch:
    """The T distinct captions of a batch of B images.

    Attributes:
        tokens: ``input_ids`` and ``attention_mask``, each ``[T, L]`` int64.
        number: ``[T]`` int64, which of all captions each is.
        targets: ``[B, T]``, 1 where the sentence is the image's caption.
    """

    tokens: Mapping[str, Tensor]
    number: Tensor
    targets: Tensor


class CaptionPool:
    """The distinct captions of a batch's images, tokenized once."""

    def __init__(self, captions: Sequence[str], tokenize: Tokenizer) -> None:
        """Tokenizes every caption once.

        Args:
            captions: one per row of the table.
            tokenize: pads to the model's length.
        """
        distinct = {text: number for number, text in enumerate(dict.fromkeys(captions))}
        self._number = torch.tensor([distinct[text] for text in captions])
        self._tokens = dict(tokenize(list(distinct)))

    def sample(self, index: Tensor) -> CaptionBatch:
        """The captions of some rows, each sentence once.

        Args:
            index: ``[B]`` rows of the table.
        """
        distinct, position = torch.unique(self._number.to(index.device)[index], return_inverse=True)
        rows = distinct.cpu()
        tokens = {key: value[rows].to(index.device) for key, value in self._tokens.items()}
        return CaptionBatch(tokens, distinct, one_hot(position, len(distinct)).float())


class CaptionModule(TwoTowerModule):
    """Images against their own captions: the pretraining of a base."""

    def __init__(
        self, model: TwoTower, loss: LayeredLoss, optimizer: BuildsOptimizer, texts: CaptionPool, seed: int
    ) -> None:
        """Takes the parts; ``texts`` holds the captions of every row."""
        super().__init__(model, loss, optimizer, seed)
        self.texts = texts

    def pair(self, batch: Batch) -> tuple[PairBatch, Tensor]:
        """Encodes the images and their distinct captions."""
        captions = self.texts.sample(batch.index)
        pairs = PairBatch.from_targets(
            image=self.model.encode_images(batch.images),
            text=self.model.encode_texts(**captions.tokens),
            logit_scale=self.model.logit_scale,
            logit_bias=self.model.logit_bias,
            targets=captions.targets,
        )
        return pairs, captions.number

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss on held-out pairs, and how often an image finds its caption among the batch's."""
        pairs, _ = self.pair(batch)
        found = pairs.targets.gather(1, pairs.logits.argmax(dim=1, keepdim=True)).mean()
        loss = weighted_sigmoid(pairs.logits, pairs.targets, 1.0, "balanced")
        self.log_dict({"val/loss": loss, "val/caption_r_at_1": found}, sync_dist=True, batch_size=len(pairs.targets))
