"""What every loss term is a pure function of: one batch of images against a pool of texts."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B image embeddings against T text embeddings, with the targets that pair them.

    Make one with `PairBatch.build` (labels and conditions) or `PairBatch.from_targets` (image-caption pairs). Derived
    tensors are computed on first use and kept, so terms share them.

    Attributes:
        image: ``[B, E]`` L2-normalized, float32 (float64 stays float64).
        text: ``[T, E]`` L2-normalized, same dtype.
        logit_scale: 0-dim, the logarithm of the scale: ``logit = exp(logit_scale) * cosine + logit_bias``.
        logit_bias: 0-dim.
        labels: ``[B, C]`` in [0, 1], multi-hot or weights; None for image-caption pairs.
        text_condition: ``[T]`` int64, the condition of each text; None for image-caption pairs.
        dissimilarity: ``[C, C]`` the matrix D in [0, 1], or None.
        condition_counts: ``[C]`` images of each condition that an epoch draws, or None.
        given_targets: ``[B, T]`` targets of image-caption pairs; None where labels give them.
        broad_labels: ``[B, K]`` weights of labels that stand above several conditions, or None: there is none.
        broad_members: ``[K, C]`` bool, the conditions below each of them.
    """

    image: Tensor
    text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor
    labels: Tensor | None = None
    text_condition: Tensor | None = None
    dissimilarity: Tensor | None = None
    condition_counts: Tensor | None = None
    given_targets: Tensor | None = None
    broad_labels: Tensor | None = None
    broad_members: Tensor | None = None

    @classmethod
    def build(
        cls,
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor,
        labels: Tensor,
        text_condition: Tensor,
        dissimilarity: Tensor | None = None,
        condition_counts: Tensor | None = None,
        broad_labels: Tensor | None = None,
        broad_members: Tensor | None = None,
    ) -> "PairBatch":
        """A batch of labeled images; embeddings are cast to float32 before they are normalized.

        Args:
            image: ``[B, E]`` image embeddings, any float dtype, not necessarily normalized.
            text: ``[T, E]`` text embeddings.
            logit_scale: 0-dim, the logarithm of the scale.
            logit_bias: 0-dim.
            labels: ``[B, C]`` in [0, 1].
            text_condition: ``[T]`` int64, the condition that each text describes.
            dissimilarity: ``[C, C]`` the matrix D in [0, 1].
            condition_counts: ``[C]`` images of each condition that an epoch draws.
            broad_labels: ``[B, K]`` weights of labels above several conditions.
            broad_members: ``[K, C]`` bool, the conditions below each of them.

        Raises:
            ValueError: shapes do not fit together.
        """
        dtype = _working_dtype(image)
        conditions = labels.shape[1] if labels.ndim == 2 else -1
        _check_shape("labels", labels, (image.shape[0], conditions))
        _check_shape("text_condition", text_condition, (text.shape[0],))
        if dissimilarity is not None:
            _check_shape("dissimilarity", dissimilarity, (conditions, conditions))
        if condition_counts is not None:
            _check_shape("condition_counts", condition_counts, (conditions,))
        if broad_labels is not None and broad_members is not None:
            _check_shape("broad_labels", broad_labels, (image.shape[0], broad_members.shape[0]))
            _check_shape("broad_members", broad_members, (broad_members.shape[0], conditions))
        return cls(
            *_embeddings(image, text, dtype),
            logit_scale.to(dtype),
            logit_bias.to(dtype),
            labels=labels.to(dtype),
            text_condition=text_condition.long(),
            dissimilarity=None if dissimilarity is None else dissimilarity.to(image.device, dtype),
            condition_counts=None if condition_counts is None else condition_counts.to(image.device, dtype),
            broad_labels=None if broad_labels is None else broad_labels.to(dtype),
            broad_members=broad_members,
        )

    @classmethod
    def from_targets(
        cls, image: Tensor, text: Tensor, logit_scale: Tensor, logit_bias: Tensor, targets: Tensor
    ) -> "PairBatch":
        """A batch of image-caption pairs: targets are given, there are no conditions.

        Args:
            image: ``[B, E]`` image embeddings.
            text: ``[T, E]`` text embeddings.
            logit_scale: 0-dim, the logarithm of the scale.
            logit_bias: 0-dim.
            targets: ``[B, T]`` in [0, 1]; > 0 where a text belongs to an image.

        Raises:
            ValueError: shapes do not fit together.
        """
        dtype = _working_dtype(image)
        _check_shape("targets", targets, (image.shape[0], text.shape[0]))
        return cls(
            *_embeddings(image, text, dtype),
            logit_scale.to(dtype),
            logit_bias.to(dtype),
            given_targets=targets.to(dtype),
        )

    @cached_property
    def cosine(self) -> Tensor:
        """``[B, T]`` cosine of each image with each text."""
        return _matmul(self.image, self.text)

    @cached_property
    def logits(self) -> Tensor:
        """``[B, T]`` ``exp(logit_scale) * cosine + logit_bias``."""
        return self.logit_scale.exp() * self.cosine + self.logit_bias

    @cached_property
    def image_cosine(self) -> Tensor:
        """``[B, B]`` cosine of each image with each image."""
        return _matmul(self.image, self.image)

    @cached_property
    def text_cosine(self) -> Tensor:
        """``[T, T]`` cosine of each text with each text."""
        return _matmul(self.text, self.text)

    @cached_property
    def targets(self) -> Tensor:
        """``[B, T]`` the positives P: P_ij is the label of image i for the condition of text j."""
        if self.given_targets is not None:
            return self.given_targets
        return self.needed("labels")[:, self.needed("text_condition")]

    @cached_property
    def labeled(self) -> Tensor:
        """``[B]`` bool: the image has at least one label (or, for captions, at least one text)."""
        return ((self.targets if self.labels is None else self.labels) > 0).any(dim=1)

    @cached_property
    def undecided(self) -> Tensor | None:
        """``[B, T]`` bool: neither positive nor negative, since a broad label of the image may mean it; None: none is.

        A broad label that holds one of the image's own conditions leaves its other conditions undecided all the same.
        """
        if self.broad_labels is None:
            return None
        return self._below(self.broad_labels > 0)[:, self.needed("text_condition")] & ~(self.targets > 0)

    @cached_property
    def open_labels(self) -> Tensor:
        """``[B, K]`` broad labels that hold none of the image's own conditions: more is not known of it."""
        assert self.broad_labels is not None
        assert self.broad_members is not None
        own = (self.needed("labels") > 0).to(self.broad_labels)
        return self.broad_labels * (_matmul(own, self.broad_members.to(own)) == 0)

    @cached_property
    def broad_distance(self) -> Tensor:
        """``[K, T]`` D of each text's condition and the nearest condition below each broad label."""
        assert self.broad_members is not None
        table = self.needed("dissimilarity")[:, self.needed("text_condition")]
        return table.masked_fill(~self.broad_members[:, :, None], torch.inf).amin(dim=1)

    @cached_property
    def possible(self) -> Tensor:
        """``[B, C]`` bool: the image's conditions, and those below its open broad labels."""
        own = self.needed("labels") > 0
        return own if self.broad_labels is None else own | self._below(self.open_labels > 0)

    def _below(self, listed: Tensor) -> Tensor:
        """``[B, C]`` bool: conditions below one of the broad labels that are listed, ``[B, K]`` bool."""
        assert self.broad_members is not None
        return _matmul(listed.float(), self.broad_members.T.float()) > 0

    @cached_property
    def text_dissimilarity(self) -> Tensor:
        """``[T, T]`` D of the conditions of two texts."""
        condition = self.needed("text_condition")
        return self.needed("dissimilarity")[condition][:, condition]

    @cached_property
    def min_dissimilarity(self) -> Tensor:
        """``[B, T]`` S: D of the nearest label of image i and the condition of text j; 1 for an image without a label.

        It is 0 for every positive, and for every condition below a broad label that is all that is known.
        """
        return self._nearest_label(self.needed("dissimilarity")[:, self.needed("text_condition")])

    @cached_property
    def image_dissimilarity(self) -> Tensor:
        """``[B, B]`` D of the nearest labels of two images; 1 where one has no label."""
        return self._nearest_label(self._nearest_label(self.needed("dissimilarity")).T)

    def _nearest_label(self, table: Tensor) -> Tensor:
        """``[B, K]`` minimum over the labels of each image of the rows of a ``[C, K]`` table; 1 without a label.

        It gathers a row for each label that is positive: masking a ``[B, C, K]`` expansion would grow with B C K.
        """
        image, condition = self.possible.nonzero(as_tuple=True)
        rows = table[condition]
        nearest = table.new_ones(self.image.shape[0], table.shape[1])
        return nearest.scatter_reduce(0, image[:, None].expand_as(rows), rows, "amin")

    @cached_property
    def text_multiplicity(self) -> Tensor:
        """``[T]`` number of texts of the pool with the same condition; 1 for captions."""
        if self.text_condition is None:
            return torch.ones_like(self.text[:, 0])
        return torch.bincount(self.text_condition)[self.text_condition].to(self.text.dtype)

    @cached_property
    def zero(self) -> Tensor:
        """0-dim zero that depends on every input, so that a degenerate batch still has a gradient (of zero)."""
        return (self.image.sum() + self.text.sum() + self.logit_scale + self.logit_bias) * 0.0

    def needed(self, name: Literal["labels", "text_condition", "dissimilarity", "condition_counts"]) -> Tensor:
        """The field of that name, for a term that cannot do without.

        Args:
            name: a field that image-caption pairs lack.

        Raises:
            ValueError: the batch was built without it.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(
                f"this loss term needs {name}, and the batch has none: "
                "give it to PairBatch.build, or choose a term that takes image-caption pairs"
            )
        return value


def _working_dtype(image: Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _embeddings(image: Tensor, text: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1]:
        raise ValueError(f"image {tuple(image.shape)} and text {tuple(text.shape)} must be [B, E] and [T, E]")
    return F.normalize(image.to(dtype), dim=-1), F.normalize(text.to(dtype), dim=-1)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    # Autocast would round the operands to half precision, whatever they were cast to before.
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T
