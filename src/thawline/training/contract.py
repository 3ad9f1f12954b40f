"""The freeze contract: what is frozen does not move, and what trains does; checked in every fit."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import Callback

from thawline.network.model import TransferModel
from thawline.records import ContractRecord
from thawline.training.sharding import own_shard

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from thawline.training.module import FitModule


class FreezeContractBreach(RuntimeError):
    """A frozen tensor changed, or a trainable one cannot."""


class FreezeContract(Callback):
    """Checks after the first optimizer step and at the end of a fit.

    Every frozen parameter is bit-equal to its start and has no gradient; the buffers of frozen modules are unchanged;
    every trainable parameter is in exactly one optimizer group and has a gradient; frozen + trainable = all.
    A trainable parameter that the forward pass does not use at all is no breach; it is listed under ``unused``. What
    regularizers train beside the model is no part of it, and counted apart: ``companion_parameters``.

    Args:
        model: what is trained; of weights that are sharded, each device checks its own share.
        whole: the same model with whole weights, where `model` is sharded.
    """

    def __init__(self, model: TransferModel, whole: TransferModel | None = None) -> None:
        self._model, self._whole = model, model if whole is None else whole
        self._start: dict[str, torch.Tensor] = {}
        self._first_step_seen = False
        self._head_targets: dict[str, Any] = {}
        self._result = ContractRecord(
            frozen_tensors=0, trainable_tensors=0, frozen_parameters=0, trainable_parameters=0
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the frozen tensors, and check the optimizer's groups."""
        self.remember()
        parameters = dict(self._model.named_parameters())
        trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
        own = {id(parameter) for parameter in parameters.values()}
        beside = {name: p for name, p in pl_module.named_parameters() if p.requires_grad and id(p) not in own}
        self._check_groups(trainer, {**parameters, **beside}, trainable | beside.keys())
        self._result.companion_parameters = sum(parameter.numel() for parameter in beside.values())

    def remember(self) -> None:
        """Remember the frozen tensors, and count."""
        changing = self._model.changing_names()
        state = self._model.state_dict()
        self._start = {name: own_shard(t).detach().clone() for name, t in state.items() if name not in changing}
        parameters = dict(self._model.named_parameters())
        trainable = {name for name, parameter in parameters.items() if parameter.requires_grad}
        frozen = sum(parameter.numel() for name, parameter in parameters.items() if name not in trainable)
        trained = sum(parameters[name].numel() for name in trainable)
        total = sum(parameter.numel() for parameter in parameters.values())
        if frozen + trained != total:
            raise FreezeContractBreach(f"{frozen} frozen + {trained} trainable parameters are not {total}")
        self._result = ContractRecord(
            frozen_tensors=len(self._start),
            trainable_tensors=len(trainable),
            frozen_parameters=frozen,
            trainable_parameters=trained,
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what the head is trained with, to ask it again which parameters it uses."""
        self._head_targets = {} if self._first_step_seen else cast("FitModule", pl_module).head_targets(batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Before the first step: gradients exactly where they belong."""
        if self._first_step_seen:
            return
        parameters = list(self._model.named_parameters())
        with_gradient = [name for name, p in parameters if not p.requires_grad and p.grad is not None]
        if with_gradient:
            raise FreezeContractBreach(f"frozen parameters have a gradient: {_few(with_gradient)}")
        without = [name for name, p in parameters if p.requires_grad and p.grad is None]
        unused = self._unused(pl_module) if without else set()
        missing = [name for name in without if name not in unused]
        if missing:
            raise FreezeContractBreach(f"trainable parameters have no gradient: {_few(missing)}")
        self._result.unused = without

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After the first step: nothing frozen has changed."""
        if not self._first_step_seen and trainer.global_step > 0:
            self._first_step_seen = True
            self.check("after the first optimizer step")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """At the end: nothing frozen has changed."""
        self.check("at the end of the fit")

    def _check_groups(self, trainer: Trainer, parameters: dict[str, torch.nn.Parameter], trainable: set[str]) -> None:
        held = [id(p) for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]]
        names = {id(parameter): name for name, parameter in parameters.items()}
        strange = [names.get(key, "an unknown tensor") for key in held if names.get(key) not in trainable]
        if strange:
            raise FreezeContractBreach(f"the optimizer holds what does not train: {_few(strange)}")
        wrong = [name for name in sorted(trainable) if held.count(id(parameters[name])) != 1]
        if wrong:
            raise FreezeContractBreach(f"not in exactly one optimizer group: {_few(wrong)}")

    def check(self, when: str) -> None:
        """Raise `FreezeContractBreach` where a frozen tensor is not bit-equal to what it was."""
        state = self._model.state_dict()
        changed = [name for name, start in self._start.items() if not _bit_equal(own_shard(state[name]), start)]
        if changed:
            raise FreezeContractBreach(f"frozen tensors changed {when}: {_few(changed)}")
        self._result.checks += 1

    def of_phase(self, phase: str) -> ContractRecord:
        """What was counted and checked, for the record of the phase with this name."""
        return self._result.model_copy(update={"phase": phase})

    def _unused(self, pl_module: LightningModule) -> set[str]:
        """Parameters that get no gradient even when all of them train: the forward pass does not read them."""
        module = copy.deepcopy(self._whole).requires_grad_(True)
        height, width = cast("FitModule", pl_module).input_size
        images = len(self._head_targets["targets"]) if self._head_targets else 2
        image = torch.zeros((images, 3, height, width), dtype=torch.uint8, device=module.pixel_mean.device)
        module.eval()
        if self._head_targets:
            module.head.train()
        _total(module(image, **self._head_targets)).backward()
        return {name for name, parameter in module.named_parameters() if parameter.grad is None}


def _total(outputs: Any) -> torch.Tensor:
    """The sum of everything that a head gives: a tensor, or tensors in lists, tuples and dictionaries."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float().sum()
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return torch.stack([_total(part) for part in parts]).sum()


def _bit_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal bit for bit: NaN equals itself."""
    if torch.equal(one, other):
        return True
    return bool(torch.equal(torch.isnan(one), torch.isnan(other)) and torch.equal(one.nan_to_num(), other.nan_to_num()))


def _few(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
