"""The state of a fit between two epochs: taken, and put back so that the fit goes on as if it had never stopped.

Lightning's own restart (``fit(ckpt_path=...)``) is not used. It continues in the middle of its loops: hooks run twice
or not at all, and the batches of the first epoch after the restart are drawn in the order of epoch 0. Here a fit
*starts*, at a later epoch: the broken epoch is repeated from its beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer


def fit_state(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """The whole state of the fit, at the start of an epoch; every process of the run takes part.

    It holds containers, numbers, texts and tensors alone, so that it loads without running code from the file.
    """
    strategy = trainer.strategy
    callbacks = {callback.state_key: callback.state_dict() for callback in _callbacks(trainer)}
    state: dict[str, Any] = {
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
        "state_dict": strategy.lightning_module_state_dict(),
        "optimizer_states": [strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "precision": trainer.precision_plugin.state_dict(),
        "callbacks": {key: held for key, held in callbacks.items() if held},
    }
    module.on_save_checkpoint(state)
    return state


def put_back(state: dict[str, Any], trainer: Trainer, module: LightningModule) -> None:
    """Let the fit go on from `state`. Optimizer, schedule and processes are there, and no epoch has begun."""
    module.on_load_checkpoint(state)
    trainer.strategy.load_model_state_dict(state, strict=False)
    trainer.strategy.load_optimizer_state_dict(state)
    for config, held in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
        config.scheduler.load_state_dict(held)
    trainer.precision_plugin.load_state_dict(state["precision"])
    for callback in _callbacks(trainer):
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    _count(trainer, state["epoch"], state["step"])


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it in a connector
    return callbacks


def _count(trainer: Trainer, epochs: int, steps: int) -> None:
    """Let the loops count from here: the epoch decides the order of batches, the step dropout and the loggers' axis."""
    fit_loop = trainer.fit_loop
    fit_loop.epoch_progress.increment_by(epochs)
    epoch_loop = fit_loop.epoch_loop
    epoch_loop.batch_progress.increment_by(steps)
    epoch_loop.automatic_optimization.optim_progress.optimizer.step.increment_by(steps)
    epoch_loop._batches_that_stepped = steps
