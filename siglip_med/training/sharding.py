"""The encoder blocks' weights, gradients and optimizer states spread over processes (FSDP2), the rest as under DDP."""

import copy
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from siglip_med.core.errors import UserError
from siglip_med.models import encoder_layers
from siglip_med.models.sharded import here, is_sharded, whole


class ShardedStrategy(DDPStrategy):
    """Fully sharded data parallelism of the encoder blocks of both towers (Zhao et al. 2023, arXiv 2304.11277).

    In a training step a block's weights are whole while it computes, and each process keeps a share of them, of their
    gradients and of their optimizer states (`torch.distributed.fsdp.fully_shard`, a block a unit). What lies outside
    the blocks (embeddings, pooling heads, projections, logit scale and bias) is whole on every process, and its
    gradients are averaged by DistributedDataParallel. Validation runs on whole weights, since processes may have a
    batch more or less than each other. After the fit, and in every checkpoint, weights are whole and plain.
    """

    def __init__(self) -> None:
        """Knows no blocks yet."""
        super().__init__()
        self._blocks: dict[Any, list[_Before]] = {}
        self._mesh: DeviceMesh | None = None
        self._failed = False

    def configure_ddp(self) -> None:
        """Shards the blocks and leaves the rest to DistributedDataParallel.

        Raises:
            UserError: a tower does not name its blocks as those of the transformers library do.
        """
        module: Any = self.lightning_module
        for name, tower in module.model.towers().items():
            blocks = encoder_layers(tower)
            if blocks is None:
                raise UserError(
                    f"trainer.strategy=fsdp: the {name} tower, {type(tower).__name__}, has no list of encoder blocks; "
                    "take ddp"
                )
            for block in blocks:
                self.shard(block)
        precision = self.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is not None:
            precision.scaler = ShardScaler(self.root_device.type)
        names = [name for name, parameter in module.named_parameters() if is_sharded(parameter)]
        if any(value.requires_grad for value in module.parameters() if not is_sharded(value)):
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
            super().configure_ddp()

    def shard(self, block: nn.Module) -> None:
        """Spreads a block's weights over the processes, from those of the first."""
        for parameter in block.parameters():
            dist.broadcast(parameter.detach(), 0)  # as DistributedDataParallel does
        self._blocks[block] = [_Before(module) for module in block.modules()]
        if self._mesh is None:  # that of fully_shard would be the GPUs', where there are any
            device = next(block.parameters()).device
            self._mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        fully_shard(block, mesh=self._mesh, reshard_after_forward=True)

    def on_validation_start(self) -> None:
        """Makes the weights of all blocks whole, and lets kept embeddings see that they may have changed."""
        super().on_validation_start()
        for block in self._blocks:
            block.set_reshard_after_forward(False)
            block.unshard()
            # Gathering leaves the version of a tensor alone.
            torch.autograd.graph.increment_version(list(block.parameters()))

    def on_validation_end(self) -> None:
        """Back to the shares."""
        super().on_validation_end()
        for block in self._blocks:
            block.set_reshard_after_forward(True)
            block.reshard()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state with whole tensors, on the CPU of the first process, which writes it; empty ones on the others."""
        return dict(apply_to_collection(super().optimizer_state(optimizer), DTensor, self._whole_on_first))

    def _whole_on_first(self, tensor: DTensor) -> Tensor:
        full = whole(tensor)
        return full.cpu() if self.global_rank == 0 else full.new_empty(0)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this process's share of a state that was written whole, under whichever strategy."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            entries = {index: _shared(parameters[index], entry) for index, entry in state["state"].items()}
            states.append({**state, "state": entries})
        super().load_optimizer_state_dict({"optimizer_states": states})

    def on_exception(self, exception: BaseException) -> None:
        """The other processes may not come to a collective any more."""
        self._failed = True
        super().on_exception(exception)

    def teardown(self) -> None:
        """Leaves a plain model with whole weights, unless the run failed."""
        if not self._failed:
            self.make_plain()
        super().teardown()

    def make_plain(self) -> None:
        """Gives every block its whole weights and its own class back: `fully_shard` undone."""
        for block, before in self._blocks.items():
            block.reshard()
            full = {id(value): nn.Parameter(whole(value.detach()), value.requires_grad) for value in block.parameters()}
            for one in before:
                one.restore()
                for name, value in one.module.named_parameters(recurse=False):
                    one.module.register_parameter(name, full[id(value)])
        self._blocks = {}


class ShardScaler(ShardedGradScaler):
    """Scales gradients of which some are shares; a step is left out if any process found an infinity."""

    def _unscale_grads_(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> dict[torch.device, Tensor]:
        groups = [
            {"params": [SimpleNamespace(grad=None if p.grad is None else here(p.grad)) for p in group["params"]]}
            for group in optimizer.param_groups
        ]
        parts: Any = SimpleNamespace(param_groups=groups)
        return super()._unscale_grads_(parts, *arguments)


class _Before:
    """A module before it was sharded: its class, its hooks and what else it held, without its weights."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind, self.names = module, type(module), set(vars(module))
        self.hooks = {name: copy.copy(value) for name, value in vars(module).items() if name.endswith("_hooks")}

    def restore(self) -> None:
        self.module.__class__ = self.kind
        for name in set(vars(self.module)) - self.names:
            del vars(self.module)[name]
        vars(self.module).update(self.hooks)


def _shared(parameter: Tensor, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's state of a parameter, spread as the parameter is."""
    if not isinstance(parameter, DTensor):
        return dict(entry)
    mesh, placements = parameter.device_mesh, parameter.placements
    return {
        name: distribute_tensor(value, mesh, placements, src_data_rank=None) if value.ndim else value
        for name, value in entry.items()
    }


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """L2 norm of all elements, 0-dim; of tensors that are spread over processes, those of all of them."""
    tensors = list(tensors)
    norm = torch.nn.utils.get_total_norm([tensor for tensor in tensors if not is_sharded(tensor)])
    shares = [here(tensor) for tensor in tensors if is_sharded(tensor)]
    if not shares:
        return norm
    square = torch.nn.utils.get_total_norm(shares).square()
    dist.all_reduce(square)
    return (norm.to(square.device).square() + square).sqrt()


def clip_shares(gradients: Iterable[Tensor], limit: float, by_value: bool) -> None:
    """Clips gradients in place: each value to ``limit``, or all by their common norm (`torch.nn.utils`)."""
    gradients = list(gradients)
    factor = None if by_value else (limit / (total_norm(gradients) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        if factor is None:
            here(gradient).clamp_(-limit, limit)
        else:
            here(gradient).mul_(factor)
