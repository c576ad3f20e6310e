"""The LightningModules: what every run shares, and fine-tuning against prompts of conditions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from siglip_med.core.errors import UserError
from siglip_med.data.batch import Batch
from siglip_med.losses import LayeredLoss, LossOutput, PairBatch, gather_pair_batch
from siglip_med.metrics import RetrievalMetrics
from siglip_med.models import PromptEnsemble, TwoTower, check_gradients
from siglip_med.training.callbacks import keeps_step
from siglip_med.training.checkpointing import Checkpoints, normalize_counters, position
from siglip_med.training.optim import BuildsOptimizer
from siglip_med.training.text_pools import PromptPool, TextBatch


class TwoTowerModule(pl.LightningModule, ABC):
    """What both tasks share: optimizer, logging, and checkpoints that hold only what is trained.

    Attributes:
        coefficients: weight of each group of loss terms; a callback sets them before each step.
        last_pair_batch: the embeddings of the current step, for callbacks that look at gradients.
        last_loss: total of the current step, for the callback that checks whether it is finite.
        last_terms: raw terms of the current step, for the same callback.
        checkpoint_payload: what a checkpoint records of the run besides its weights.
    """

    def __init__(self, model: TwoTower, loss: LayeredLoss, optimizer: BuildsOptimizer, seed: int) -> None:
        """Takes the parts that the config instantiated, and the seed of dropout."""
        super().__init__()
        self.seed = seed
        self.model = model
        self.loss = loss
        self.optimizer_settings = optimizer
        self.coefficients: Mapping[str, float] = {}
        self.last_pair_batch: PairBatch | None = None
        self.last_loss = torch.zeros(())
        self.last_terms: dict[str, Tensor] = {}
        self.checkpoint_payload: dict[str, Any] = {}
        self.strict_loading = False
        self._checked_gradients = False

    @abstractmethod
    def pair(self, batch: Batch) -> tuple[PairBatch, Tensor]:
        """Encodes a batch and the sentences that belong to it.

        Returns:
            The pairs, and ``[T]`` int64 keys: the same number for the same sentence in every process.
        """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: encode, gather over processes, sum the terms; log each of them on the steps that are kept."""
        pairs = gather_pair_batch(*self.pair(batch))
        self.last_pair_batch = pairs
        output: LossOutput = self.loss(pairs, self.coefficients)
        self.last_loss = output.total.detach()
        self.last_terms = {name: value.detach() for name, value in output.raw.items()}
        if keeps_step(self.trainer):
            self._log_step(output, len(batch.images))
        return output.total

    def _log_step(self, output: LossOutput, batch_size: int) -> None:
        # A term that was not computed weighs nothing and has no raw value; Lightning would log its last one again.
        silent = torch.tensor(float("nan"))
        values = {f"loss_raw/{name}": output.raw.get(name, silent).detach() for name in self.loss.names}
        values |= {
            f"loss_weighted/{name}": output.weighted.get(name, torch.zeros(())).detach() for name in self.loss.names
        }
        values |= {"logit/scale": self.model.logit_scale.exp().detach(), "logit/bias": self.model.logit_bias.detach()}
        self.log_dict(values, batch_size=batch_size)
        self.log("loss/total", output.total.detach(), prog_bar=True, batch_size=batch_size)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Keeps the loggers' step that of the optimizer: Lightning counts one too many when it resumes a run."""
        if self.trainer.training:
            self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.trainer.global_step
        return batch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Makes the random numbers of the step (dropout, noise) a function of seed, epoch, batch and process alone."""
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        seed = int(np.random.default_rng(place).integers(2**62))
        # on a CPU `torch.manual_seed` would write down the call stack, each step, for a GPU that may come
        (torch.default_generator if self.device.type == "cpu" else torch).manual_seed(seed)

    def on_after_backward(self) -> None:
        """Stops the run if a parameter that should learn got no gradient in the first step."""
        if not self._checked_gradients:
            check_gradients(self.model)
            self._checked_gradients = True

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Keeps the logit scale and bias inside the model's range after each update."""
        self.model.clamp_logits()

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, stepped once per optimizer step."""
        total_steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.optimizer_settings.build(self.model, total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves the frozen base out, and adds what the run was and its position."""
        trained = self.model.trainable_state()
        checkpoint["state_dict"] = {f"model.{name}": value for name, value in trained.items()}
        checkpoint["siglip_med"] = self.checkpoint_payload
        callback = self.trainer.checkpoint_callback
        normalize_counters(checkpoint, self.trainer, isinstance(callback, Checkpoints) and callback.saving_finished)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to resume on another base or split, and puts the data where the run stood."""
        theirs, ours = checkpoint["siglip_med"], self.checkpoint_payload
        for what, a, b in (
            ("base model", theirs["base"]["fingerprint"], ours["base"]["fingerprint"]),
            ("split", theirs["split_hash"], ours["split_hash"]),
        ):
            if a != b:
                raise UserError(f"cannot resume: the checkpoint's {what} is {a[:16]}, this run's is {b[:16]}")
        where = position(checkpoint)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        data.start_at(where["epoch"], where["batches"])


class FineTuneModule(TwoTowerModule):
    """Images against the prompts of their conditions."""

    def __init__(
        self,
        model: TwoTower,
        loss: LayeredLoss,
        optimizer: BuildsOptimizer,
        texts: PromptPool,
        evaluation_prompts: PromptEnsemble,
        dissimilarity: Tensor,
        condition_counts: Tensor,
        primary: Tensor,
        metrics: RetrievalMetrics,
        seed: int,
        broad: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Takes the parts and the tables that steps look things up in.

        Args:
            model: the two towers.
            loss: sum of the terms.
            optimizer: settings of the optimizer.
            texts: draws the prompts of a step.
            evaluation_prompts: the C conditions that validation ranks.
            dissimilarity: ``[C, C]`` matrix D.
            condition_counts: ``[C]`` images of an epoch's draws that are positive for each condition.
            primary: ``[N]`` first condition of each row of the table.
            metrics: accumulates the validation metrics.
            seed: of dropout.
            broad: ``[N, K]`` labels that stand above several conditions, and ``[K, C]`` bool, the conditions below
                each; None: there is none.
        """
        super().__init__(model, loss, optimizer, seed)
        self.texts = texts
        self.evaluation_prompts = evaluation_prompts
        self.metrics = metrics
        self.register_buffer("dissimilarity", dissimilarity.float(), persistent=False)
        self.register_buffer("condition_counts", condition_counts.float(), persistent=False)
        self.register_buffer("primary", primary, persistent=False)
        self.has_broad = broad is not None
        if broad is not None:
            self.register_buffer("broad_labels", broad[0].float(), persistent=False)
            self.register_buffer("broad_members", broad[1], persistent=False)
        self._text_embeddings: Tensor | None = None
        self._kept_texts: Tensor | None = None
        self._text_is_frozen = model.text_is_frozen

    def pair(self, batch: Batch) -> tuple[PairBatch, Tensor]:
        """Encodes the images and the prompts of the step's pool, each prompt once."""
        broad, members, shown = None, None, batch.labels
        if self.has_broad:
            broad, members = self.get_buffer("broad_labels")[batch.index], self.get_buffer("broad_members")
            shown = shown + broad @ members.float()
        texts = self.texts.sample(shown, self.global_step)
        pairs = PairBatch.build(
            image=self.model.encode_images(batch.images),
            text=self._encode(texts),
            logit_scale=self.model.logit_scale,
            logit_bias=self.model.logit_bias,
            labels=batch.labels,
            text_condition=texts.condition,
            dissimilarity=self.get_buffer("dissimilarity"),
            condition_counts=self.get_buffer("condition_counts"),
            broad_labels=broad,
            broad_members=members,
        )
        return pairs, texts.condition

    def _encode(self, texts: TextBatch) -> Tensor:
        """Embeds a step's sentences; what of the text tower is frozen sees each of them once in a run."""
        model = self.model
        if self._text_is_frozen:
            if self._kept_texts is None:
                self._kept_texts = self.texts.features(model)
            return model.project_texts(self._kept_texts[texts.row])
        tokens = self.texts.tokens(texts)
        if not model.frozen_blocks("text"):
            return model.encode_texts(**tokens)
        if self._kept_texts is None:
            self._kept_texts = self.texts.states(model)
        return model.encode_texts(**tokens, states=self._kept_texts[texts.row])

    def on_validation_epoch_start(self) -> None:
        """Encodes the prompts of all conditions once per validation."""
        self._text_embeddings = self.evaluation_prompts.encode(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores the images against every condition."""
        assert self._text_embeddings is not None
        logits = self.model.logits(self.model.encode_images(batch.images), self._text_embeddings)
        self.metrics.update(logits, batch.labels, self.get_buffer("primary")[batch.index], batch.index)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of the whole validation split."""
        values = self.metrics.compute()
        self.log_dict({f"val/{name}": float(value) for name, value in values.items()}, rank_zero_only=False)
        self.metrics.reset()
