"""Learning rates that are measured before each epoch and really applied: in the optimizer and in its schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from pytorch_lightning import Callback

from thawline.optimization.learning_rates import MeasuredRates
from thawline.training.batches import Batches
from thawline.training.penalties import AUXILIARY

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule, Trainer

    from thawline.training.module import FitModule


class RenewedRates(Callback):
    """Measures the rates on training samples at the start of each epoch, and sets them.

    Every process measures on the same samples, so all have the same rates. The schedule's base rates are changed with
    the optimizer's, so its factor goes on from where it was.

    Args:
        rates: what is measured.
        batches: the fit's data.
    """

    def __init__(self, rates: MeasuredRates, batches: Batches) -> None:
        self._rates, self._batches = rates, batches

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, set, and leave the rates for the epoch's row of the history."""
        module = cast("FitModule", pl_module)
        (optimizer,) = trainer.optimizers
        (config,) = trainer.lr_scheduler_configs
        names = {id(parameter): name for name, parameter in module.model.named_parameters()}
        parts: dict[str, list[str]] = {}
        for group in optimizer.param_groups:
            if group["name"] != AUXILIARY:
                parts.setdefault(group["part"], []).extend(names[id(parameter)] for parameter in group["params"])
        weights = self._measure(module, trainer.current_epoch, parts)
        set_weights(optimizer, config.scheduler, weights)
        rates = {group["part"]: group["initial_lr"] for group in optimizer.param_groups}
        module.measured = {"learning_rates": rates}

    def _measure(self, module: FitModule, epoch: int, parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        wanted = {name for names in parts.values() for name in names}
        parameters = {name: p for name, p in module.model.named_parameters() if name in wanted}
        training = module.training
        module.eval()
        try:
            with torch.enable_grad():
                return self._rates.weights(self._gradients(module, epoch, parameters), parameters, parts)
        finally:
            module.train(training)

    def _gradients(
        self, module: FitModule, epoch: int, parameters: Mapping[str, torch.Tensor]
    ) -> Iterator[dict[str, torch.Tensor]]:
        """A gradient for each batch, by parameter name; zeros where a parameter is not used."""
        for pieces in self._batches.first_of(epoch, self._rates.batches):
            sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
            for piece in pieces:
                batch = module.transfer_batch_to_device(piece, module.device, 0)
                with module.trainer.precision_plugin.forward_context():
                    loss = module.loss(module.outputs(batch).float(), batch)
                found = torch.autograd.grad(loss * batch.share, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, found, strict=True):
                    if gradient is not None:
                        sums[name] += gradient
            yield sums


def set_weights(optimizer: torch.optim.Optimizer, schedule: Any, weights: Mapping[str, float]) -> None:
    """Let each of the optimizer's groups train at its full rate times the weight of its part.

    A group without a weight trains at its full rate, which is kept in the group, and so in the optimizer's state.
    """
    for index, group in enumerate(optimizer.param_groups):
        full = group.setdefault("full_lr", group["initial_lr"])
        base = full * weights.get(group["part"], 1.0)
        group["initial_lr"] = schedule.base_lrs[index] = base
        group["lr"] = base * schedule.lr_lambdas[index](schedule.last_epoch)
