"""Weights, gradients and optimizer state divided among a run's devices: fully sharded data parallel (FSDP2).

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023; `torch.distributed.fsdp`. What is
read or written outside a step (a checkpoint, the best epoch, the record) is whole: `whole` and `shard_like` go between.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast, final

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from thawline.network.model import TransferModel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer


@final
class FullySharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with states that are whole: they load on any number of devices.

    The module shards its model in ``configure_model`` (`shard_weights`).
    """

    def __init__(self, devices: int) -> None:
        super().__init__(data_parallel_size=devices, tensor_parallel_size=1)

    @property
    def mesh(self) -> DeviceMesh:
        """The devices that the weights are divided among."""
        return self.device_mesh["data_parallel"]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's tensors, whole, on every device."""
        module = self.lightning_module
        return {} if module is None else {name: whole(tensor) for name, tensor in module.state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put whole tensors back."""
        if self.lightning_module is not None:
            put_whole(checkpoint["state_dict"], self.lightning_module)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What the optimizer remembers, whole."""
        held = optimizer.state_dict()
        states = {key: {name: whole(value) for name, value in state.items()} for key, state in held["state"].items()}
        return {**held, "state": states}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard the optimizers' states again."""
        for optimizer, held in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            states = {
                key: {name: shard_like(value, parameters[key]) for name, value in state.items()}
                for key, state in held["state"].items()
            }
            optimizer.load_state_dict({**held, "state": states})


def copy_to_shard(model: TransferModel) -> TransferModel:
    """A copy of `model` to be sharded: the original keeps the whole weights, in the memory of the host."""
    # FSDP cuts rows from contiguous tensors.
    return copy.deepcopy(model).to(memory_format=torch.contiguous_format)


def shard_weights(model: TransferModel, mesh: DeviceMesh) -> None:
    """Leave each device its rows of every parameter; blocks come together when they are computed. Once is enough."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(model, FSDPModule):
        return
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(value: Any) -> Any:
    """The whole of a tensor that is sharded, on the host; anything else as it is. All processes take part."""
    return value.full_tensor().cpu() if _is_sharded(value) else value


def own_shard(tensor: torch.Tensor) -> torch.Tensor:
    """What this device holds of a tensor."""
    share: torch.Tensor = getattr(tensor, "to_local", lambda: tensor)()
    return share


def shard_like(value: Any, parameter: torch.Tensor) -> Any:
    """A whole tensor, sharded as `parameter` of the same shape is; anything else as it is."""
    if not (_is_sharded(parameter) and isinstance(value, torch.Tensor) and value.shape == parameter.shape):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    like = cast("DTensor", parameter)
    # Every process has the whole: nothing is sent.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def put_whole(tensors: Mapping[str, torch.Tensor], module: nn.Module) -> None:
    """Put whole tensors, by name, into a module that may be sharded."""
    state = module.state_dict()
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(shard_like(tensor, state[name]))


def _is_sharded(value: Any) -> bool:
    # A test by class would import torch.distributed.tensor into every run.
    return isinstance(value, torch.Tensor) and hasattr(value, "full_tensor")


def _blocks(module: nn.Module, in_sequence: bool = False) -> Iterator[nn.Module]:
    """The repeated parts of a network: members of its outermost lists and sequences that have parameters."""
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child, in_sequence=True)
        elif not in_sequence:
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child
