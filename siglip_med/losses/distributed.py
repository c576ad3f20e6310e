"""The global batch under distributed training: every process computes the loss of all of them."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from siglip_med.losses.pair_batch import PairBatch


def gather_pair_batch(batch: PairBatch, text_key: Tensor | None = None) -> PairBatch:
    """Joins the batches of all processes, with gradients whose average over processes is that of one process.

    Every process gets the same images (in rank order) and the same texts, and so computes the same loss. Only the
    process that made an embedding carries its gradient, multiplied by the number of processes because
    DistributedDataParallel takes the mean over them; ``logit_scale`` and ``logit_bias`` are used alike by every
    process and keep theirs. Batches and pools may differ in size between processes. Without an initialized process
    group of several processes the batch is returned as it is.

    A text that several processes encode is kept once, from the first process that has it, and texts are ordered by
    key. For the union of the pools to be the pool of one process, the prompt of a condition must depend on the seed
    and the step alone, never on the rank or on which conditions the process happens to hold.

    Args:
        batch: this process's pairs.
        text_key: ``[T]`` int64, equal for texts that are one. By default the condition; image-caption pairs are by
            default all different, so a caption of another process is a negative.

    Raises:
        ValueError: ``text_key`` is not given and this process's pool has two texts of one condition.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return batch
    if text_key is None and batch.text_condition is not None:
        text_key = batch.text_condition
        if len(text_key.unique()) < len(text_key):
            raise ValueError("the pool has several texts of one condition: give gather_pair_batch their text_key")
    images, image_counts = _gather_embeddings(batch.image)
    texts, text_counts = _gather_embeddings(batch.text)
    if text_key is None:
        key = torch.arange(len(texts), device=texts.device)
    else:
        key = _gather(text_key, text_counts)
    column = key.unique(return_inverse=True)[1]
    first = _first_position(column)
    return replace(
        batch,
        image=images,
        text=texts[first],
        labels=None if batch.labels is None else _gather(batch.labels, image_counts),
        broad_labels=None if batch.broad_labels is None else _gather(batch.broad_labels, image_counts),
        text_condition=None if batch.text_condition is None else _gather(batch.text_condition, text_counts)[first],
        given_targets=(
            None
            if batch.given_targets is None
            else _gather_targets(batch.given_targets, image_counts, text_counts, column)
        ),
    )


def _gather_embeddings(local: Tensor) -> tuple[Tensor, list[int]]:
    counts = _row_counts(local)
    parts = list(_gather(local.detach(), counts).split(counts))
    # Its own values, and their gradient times the number of processes.
    parts[dist.get_rank()] = local.detach() + dist.get_world_size() * (local - local.detach())
    return torch.cat(parts), counts


def _row_counts(local: Tensor) -> list[int]:
    count = torch.tensor([local.shape[0]], device=local.device)
    counts = [torch.empty_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    return torch.cat(counts).tolist()


def _gather(local: Tensor, counts: list[int]) -> Tensor:
    """Rows of all processes in rank order; padded to the longest on the way, since collectives need one shape."""
    padded = local.new_zeros((max(counts), *local.shape[1:]))
    padded[: local.shape[0]] = local
    received = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(received, padded)
    return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])


def _gather_targets(local: Tensor, image_counts: list[int], text_counts: list[int], column: Tensor) -> Tensor:
    """Each process's ``[B, T]`` block, its columns moved to where its texts went; 0 elsewhere."""
    wide = local.new_zeros((local.shape[0], max(text_counts)))
    wide[:, : local.shape[1]] = local
    rows = _gather(wide, image_counts)
    joined = rows.new_zeros((rows.shape[0], int(column.max()) + 1))
    for image_span, text_span in zip(_spans(image_counts), _spans(text_counts), strict=True):
        block = rows[image_span, : text_span.stop - text_span.start]
        place = column[text_span].expand_as(block)
        joined[image_span] = joined[image_span].scatter_reduce(1, place, block, reduce="amax")
    return joined


def _spans(counts: list[int]) -> Iterator[slice]:
    start = 0
    for count in counts:
        yield slice(start, start + count)
        start += count


def _first_position(column: Tensor) -> Tensor:
    """``[unique]`` position of the first text of each key."""
    position = torch.arange(len(column), device=column.device)
    first = torch.full((int(column.max()) + 1,), len(column), device=column.device)
    return first.scatter_reduce(0, column, position, reduce="amin")
