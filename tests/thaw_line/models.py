"""Models of timm and what a partition of one must have in common with it."""

from __future__ import annotations

from collections.abc import Callable, Collection

import timm
import torch
from torch import Tensor, nn

from thawline.network.model import TransferModel
from thawline.thaw_line.partition import ThawLine, partition

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(count: int, size: int = 64, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def transfer_model(backbone: nn.Module, width: int) -> TransferModel:
    """The model of a task, with norms whose statistics are not those of an untrained one."""
    torch.manual_seed(0)
    model = TransferModel(backbone, nn.Linear(width, 5), MEAN, STD)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def timm_model(name: str, **arguments: object) -> TransferModel:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **arguments)
    return transfer_model(backbone, backbone.head_hidden_size)


def outputs(result: object) -> list[Tensor]:
    """All tensors of a model's output."""
    if isinstance(result, Tensor):
        return [result]
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else ()
    return [tensor for part in parts for tensor in outputs(part)]


def step(model: nn.Module, forward: Callable[[], object]) -> dict[str, Tensor]:
    """Outputs, gradients and buffers of one training step from a fixed seed; the model's state is as before."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    found = outputs(forward())
    sum(output.float().square().mean() for output in found).backward()
    seen = {f"output {place}": output.detach() for place, output in enumerate(found)}
    seen |= {f"gradient of {n}": p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    seen |= {f"state of {name}": value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    return seen


def assert_same(expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    assert expected.keys() == found.keys()
    different = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    assert not different


def assert_bit_equal(model: nn.Module, line: ThawLine, inputs: Tensor, sizes: Collection[int] = (1, 2, 3)) -> None:
    """The parted model is the model, in training and in evaluation."""
    assert_same(step(model, lambda: model(inputs)), step(model, lambda: line.train_suffix(*line.prefix(inputs))))
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        for size in sizes:
            values = line.prefix(inputs[:size])
            assert [tuple(value.shape) for value in values] == [(size, *value.shape) for value in line.values]
            assert [value.dtype for value in values] == [value.dtype for value in line.values]
            assert all(value.is_contiguous() or line.is_whole for value in values)
            for expected, found in zip(outputs(model(inputs[:size])), outputs(line.eval_suffix(*values)), strict=True):
                assert torch.equal(expected, found), size
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training


def parted(model: TransferModel, trainable: Collection[str], size: int = 64) -> ThawLine:
    model.train()
    model.set_trainable(trainable)
    return partition(model, trainable, images(2, size))


def head(model: TransferModel) -> set[str]:
    return {f"head.{name}" for name, _ in model.head.named_parameters()}


def last(model: TransferModel, share: float) -> set[str]:
    names = [name for name, _ in model.named_parameters()]
    return set(names[int(len(names) * (1 - share)) :]) | head(model)


TIMM = {
    "test_vit": {"img_size": 64, "drop_rate": 0.2, "drop_path_rate": 0.2},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 3},
    "test_resnet": {"drop_rate": 0.2},
    "resnet18": {},
    "test_efficientnet": {"drop_path_rate": 0.2},
    "test_convnext": {"drop_path_rate": 0.2},
    "mobilenetv2_035": {},
    "mobilenetv3_small_050": {"drop_rate": 0.2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (1, 2), "num_heads": (3, 6), "embed_dim": 48},
    "densenet121": {"block_config": (2, 3), "growth_rate": 8},
    "coat_tiny": {"img_size": 64, "embed_dims": (16, 16, 16, 16), "serial_depths": (1, 1, 1, 1), "parallel_depth": 1},
    "hrnet_w18_small": {},
    "levit_128s": {"img_size": 64},
    "hiera_tiny_224": {"img_size": 64, "embed_dim": 24, "stages": (1, 1, 1, 1)},
    "pit_ti_224": {"img_size": 64},
}


def freeze(model: nn.Module, trainable: Collection[str]) -> None:
    """Freeze any model the way that `TransferModel` does."""
    model.train()
    for prefix, module in model.named_modules():
        names = {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()}
        if names and names.isdisjoint(trainable):
            module.eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)


class Sum(nn.Module):
    """The function that is given, with these modules."""

    def __init__(self, function: Callable[..., object], **modules: nn.Module | nn.Parameter | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in modules.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *inputs: Tensor) -> object:
        return self.function(self, *inputs)


def line_of(model: nn.Module, trainable: Collection[str], *inputs: Tensor, check: bool = True) -> ThawLine:
    freeze(model, trainable)
    line = partition(model, trainable, inputs)
    if check and len(inputs) == 1:
        assert_bit_equal(model, line, torch.cat([inputs[0], inputs[0].flip(0)]))
    return line


def shapes(line: ThawLine) -> list[tuple[int, ...]]:
    return [value.shape for value in line.values]
