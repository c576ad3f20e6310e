"""A plain PyTorch loop over our own model, data and loss: what is left of a run without Lightning around it."""

from collections.abc import Callable

import torch
from torch import Tensor

from siglip_med.losses import PairBatch
from siglip_med.runs.components import Components
from siglip_med.training.module import FineTuneModule


def fit(
    module: FineTuneModule, components: Components, steps: int, on_step: Callable[[Tensor], object], clip: float = 1.0
) -> None:
    """The steps of a fit: the same batches, prompts, terms, optimizer, clipping and schedule.

    Args:
        module: holds the parts; none of its hooks is called.
        components: model and data.
        steps: optimizer steps.
        on_step: gets the loss of each step, 0-dim, once the weights are updated.
        clip: largest norm of the gradient.
    """
    model, texts = components.model, module.texts
    optimizer, schedule = module.optimizer_settings.build(model, steps)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dissimilarity, counts = module.get_buffer("dissimilarity"), module.get_buffer("condition_counts")
    loader = components.data.train_dataloader()
    step = epoch = 0
    while step < steps:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            sentences = texts.sample(batch.labels, step)
            pairs = PairBatch.build(
                model.encode_images(batch.images),
                model.encode_texts(**texts.tokens(sentences)),
                model.logit_scale,
                model.logit_bias,
                batch.labels,
                sentences.condition,
                dissimilarity,
                counts,
            )
            optimizer.zero_grad()
            loss = module.loss(pairs, module.coefficients).total
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            schedule.step()
            model.clamp_logits()
            step += 1
            on_step(loss.detach())
            if step == steps:
                return
        epoch += 1
