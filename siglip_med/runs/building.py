"""A fine-tuning run, built from its settings."""

import torch

from siglip_med.losses import LayeredLoss
from siglip_med.metrics import RetrievalMetrics
from siglip_med.models import TwoTower, checkpoint_payload
from siglip_med.runs.components import Components, build_components, build_model
from siglip_med.runs.settings import FineTuneSettings
from siglip_med.training.module import FineTuneModule
from siglip_med.training.optim import BuildsOptimizer
from siglip_med.training.text_pools import PromptPool, choose_pool


def build(settings: FineTuneSettings, device: torch.device, model: TwoTower | None = None) -> Components:
    """The model (or a trained one in its place), its data, and the geometry and sentences of the conditions in it.

    Raises:
        UserError: the data, the codes or the model of the settings are not available.
    """
    s = settings
    return build_components(
        build_model(s.model, s.seed) if model is None else model, s.data, s.features, s.conditions, s.seed, device
    )


def build_module(
    settings: FineTuneSettings, components: Components, loss: LayeredLoss, optimizer: BuildsOptimizer
) -> FineTuneModule:
    """The LightningModule of a fine-tuning run, and what its checkpoints record of it."""
    data, model = components.data, components.model
    dissimilarity = torch.from_numpy(components.dissimilarity).float()
    pool = choose_pool(settings.text_pool, model, len(components.conditions.names), settings.data["batch_size"])
    module = FineTuneModule(
        model,
        loss,
        optimizer,
        PromptPool(components.training_prompts, model.tokenize, pool, settings.seed),
        evaluation_prompts=components.prompt_ensemble,
        dissimilarity=dissimilarity,
        condition_counts=torch.as_tensor(data.drawn_counts()),
        primary=torch.tensor(data.table.frame["primary"].to_numpy(copy=True)),
        metrics=RetrievalMetrics(dissimilarity, components.conditions.chapters, components.conditions.blocks),
        seed=settings.seed,
        broad=None
        if data.table.broad_labels is None
        else (torch.from_numpy(data.table.broad_labels), torch.from_numpy(data.table.broad_members())),
    )
    module.checkpoint_payload = checkpoint_payload(
        model,
        config=settings.model_dump(),
        conditions=components.conditions.names,
        codes=components.conditions.codes,
        prompts=components.evaluation_prompts,
        split_hash=data.split.hash,
        account=components.split_report.account(),
        provenance=data.table.provenance,
    )
    return module
