"""The partition: bit-equal to the model, on the model's own parameters, and nothing left behind."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from tests.thaw_line.models import (
    TIMM,
    Sum,
    assert_bit_equal,
    freeze,
    head,
    images,
    last,
    line_of,
    outputs,
    parted,
    shapes,
    timm_model,
    transfer_model,
)
from thawline.network.model import TransferModel, is_norm
from thawline.thaw_line.partition import ThawLine, partition


def norms(model: TransferModel) -> set[str]:
    owners = {name for name, module in model.named_modules() if is_norm(module)}
    return {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in owners} | head(model)


def biases(model: TransferModel) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.endswith("bias")} | head(model)


def first(model: TransferModel) -> set[str]:
    return {next(name for name, _ in model.named_parameters())} | head(model)


def middle(model: TransferModel) -> set[str]:
    names = [name for name, _ in model.named_parameters()]
    block = names[len(names) // 2].rsplit(".", 2)[0]
    return {name for name in names if name.startswith(block)} | head(model)


POLICIES = {
    "probe": head,
    "last half": lambda model: last(model, 0.5),
    "all": lambda model: last(model, 1.0),
    "first": first,
    "norms": norms,
    "biases": biases,
    "middle": middle,
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", TIMM)
def test_timm_models_are_bit_equal(name: str, policy: str) -> None:
    if name in ("hrnet_w18_small", "levit_128s", "resnet18") and policy in ("first", "norms", "biases"):
        pytest.skip("slower models, fewer policies")
    model = timm_model(name, **TIMM[name])
    assert_bit_equal(model, parted(model, POLICIES[policy](model)), images(3))


def small_vgg() -> nn.Module:
    layers = torchvision.models.vgg.make_layers([8, "M", 16, "M", 16, "M"], batch_norm=True)
    vgg = torchvision.models.VGG(layers, num_classes=5, init_weights=False)
    vgg.classifier = nn.Sequential(
        nn.Linear(16 * 49, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 32), nn.Dropout(inplace=True)
    )
    return vgg


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=16), 16),
    "vit": (lambda: torchvision.models.VisionTransformer(64, 16, 3, 4, 32, 64, dropout=0.1, num_classes=16), 16),
    "mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=16), 16),
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [7, 7], num_classes=16), 16),
    "vgg": (small_vgg, 32),
    "shufflenet": (lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=16), 16),
}


@pytest.mark.parametrize("policy", ["probe", "last half", "norms", "middle"])
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_models_are_bit_equal(name: str, policy: str) -> None:
    make, width = TORCHVISION[name]
    torch.manual_seed(0)
    model = transfer_model(make(), width)
    assert_bit_equal(model, parted(model, POLICIES[policy](model)), images(3))


def test_googlenet_with_frozen_auxiliary_heads_that_only_training_computes() -> None:
    torch.manual_seed(0)
    model = torchvision.models.googlenet(num_classes=5, init_weights=False)
    trainable = ["fc.weight", "fc.bias"]
    freeze(model, trainable)
    line = partition(model, trainable, torch.randn(2, 3, 64, 64))
    assert [value.name for value in line.values] == ["aux1_fc2", "aux2_fc2", "flatten_2"]
    assert_bit_equal(model, line, torch.randn(3, 3, 64, 64))


# Values that are not tensors, and tensors that are not of a sample.


def test_the_number_of_samples_is_never_baked_in() -> None:
    def sizes(self: Sum, x: Tensor) -> Tensor:
        B, N = x.shape
        ones = x.new_ones(B, 1)
        x = self.first(x)
        token = self.token.expand(B, -1)
        windows = B * 2
        x = self.last(torch.cat([token, x, ones], dim=1)).reshape(windows, -1).reshape(B + windows - windows, -1)
        return x + torch.zeros(B, 4, device=x.device) + torch.arange(B).to(x.device, x.dtype)[:, None] * N

    model = Sum(sizes, first=nn.Linear(6, 8), token=nn.Parameter(torch.randn(1, 3)), last=nn.Linear(12, 4))
    assert shapes(line_of(model, ["last.weight"], torch.randn(2, 6))) == [(8,)]


def test_code_that_looks_at_the_image_size_takes_the_models_branch() -> None:
    def branches(self: Sum, x: Tensor) -> Tensor:
        if x.shape[-1] % 4:
            x = F.pad(x, (0, 4 - x.shape[-1] % 4))
        for _ in range(x.shape[-1] // 4):
            x = self.first(x)
        assert x.ndim == 2 and isinstance(x.shape[1], int) and len(x.shape) == 2 and x.dtype == torch.float32
        return self.last(x)

    model = Sum(branches, first=nn.Linear(8, 8), last=nn.Linear(8, 2))
    assert line_of(model, ["last.weight"], torch.randn(2, 6)).prefix_flops_per_sample == 2 * 2 * 64


def test_several_inputs_optional_arguments_and_structured_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, y: Tensor, mask: Tensor | None = None) -> dict[str, object]:
            x = self.first(x)
            if mask is not None:
                x = x * mask
            return {"logits": self.last(x), "features": (x, [y * 2]), "none": None, "number": x.shape[1]}

    model = Two()
    inputs = (torch.randn(3, 6), torch.randint(9, (3, 4)))
    freeze(model, ["last.weight"])
    line = partition(model, ["last.weight"], inputs)
    assert shapes(line) == [(8,), (4,)]
    model.eval()
    expected, found = model(*inputs), line.eval_suffix(*line.prefix(*inputs))
    assert (found["none"], found["number"]) == (None, 8)
    assert all(torch.equal(a, b) for a, b in zip(outputs(expected), outputs(found), strict=True))


def test_tensors_made_in_the_code_are_constants() -> None:
    def scaled(self: Sum, x: Tensor) -> Tensor:
        mask = torch.zeros(8)
        mask[:4] = 1.0
        return self.last(self.first(x) * mask * torch.tensor([2.0]))

    model = Sum(scaled, first=nn.Linear(6, 8), last=nn.Linear(8, 2))
    assert shapes(line_of(model, ["last.weight"], torch.randn(2, 6))) == [(8,)]
    assert not [name for name in vars(model) if "constant" in name]


# Writes in place.


def test_the_line_is_never_written_to() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True), nn.Linear(8, 2))
    line = line_of(model, ["3.weight"], torch.randn(2, 6))
    values = line.prefix(torch.randn(4, 6))
    kept = [value.clone() for value in values]
    line.train_suffix(*values)
    assert all(torch.equal(a, b) for a, b in zip(values, kept, strict=True))


def test_what_is_written_in_place_is_read_by_all_who_hold_it() -> None:
    def in_place(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        early = self.left(x)
        held, view = x, x.reshape(-1, 4, 2)
        view += 1.0
        x.relu_()
        held = held * 2
        x[:, 3] = 0.5
        return self.last(held) + early + view.flatten(1)

    for trainable in (["last.weight"], ["left.weight"], ["left.weight", "last.weight"], ["first.weight"]):
        model = Sum(in_place, first=nn.Linear(6, 8), left=nn.Linear(8, 8), last=nn.Linear(8, 8))
        assert_equal_without_gradients(model, line_of(model, trainable, torch.randn(2, 6), check=False))


def test_a_frozen_value_that_the_thawed_side_writes_to() -> None:
    def added_to(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        shortcut = x
        view = x.view(-1, 2, 4)
        x += self.last(x)
        return shortcut * view.flatten(1)

    model = Sum(added_to, first=nn.Linear(6, 8), last=nn.Linear(8, 8))
    assert_equal_without_gradients(model, line_of(model, ["last.weight"], torch.randn(2, 6), check=False))


def assert_equal_without_gradients(model: nn.Module, line: ThawLine) -> None:
    """For code that autograd refuses."""
    x = torch.randn(3, 6)
    with torch.no_grad():
        for suffix in (line.train_suffix, line.eval_suffix):
            assert torch.equal(suffix(*line.prefix(x)), model(x))


def test_a_value_that_is_kept_as_it_was_before_a_later_write() -> None:
    def overwritten(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        early = self.left(x)
        return self.right(self.frozen(x.relu_())) + early

    model = Sum(overwritten, **{name: nn.Linear(6, 6) for name in ("first", "left", "frozen", "right")})
    line = line_of(model, ["left.weight", "right.weight"], torch.randn(2, 6), check=False)
    assert shapes(line) == [(6,), (6,)]
    assert_equal_without_gradients(model, line)


# What is left behind.


def test_nothing_is_left_in_the_model_or_in_torch() -> None:
    model = timm_model("levit_128s", img_size=64)
    model.set_trainable(last(model, 0.5))
    model.backbone.stem[0].train() if isinstance(model.backbone.stem, nn.Sequential) else model.backbone.stem.train()
    modes = [module.training for module in model.modules()]
    held = [(module, copy.copy(vars(module))) for module in model.modules()]
    caches = [module.attention_bias_cache for module in model.modules() if hasattr(module, "attention_bias_cache")]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seed, arange, call = torch.get_rng_state(), torch.arange, nn.Module.__call__
    others = random.getstate(), numpy.random.get_state()[1].tolist()
    model.register_forward_pre_hook(lambda *_: random.seed(7) or numpy.random.seed(7))
    partition(model, last(model, 0.5), images(2))
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == others
    assert modes == [module.training for module in model.modules()]
    assert all(vars(module) == before for module, before in held)
    assert caches and not any(caches)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(seed, torch.get_rng_state())
    assert (arange, call) == (torch.arange, nn.Module.__call__)
    assert torch.backends.mha.get_fastpath_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluation_sees_weights_that_changed_after_a_cache_was_filled() -> None:
    model = timm_model("levit_128s", img_size=64)
    trainable = {name for name, _ in model.named_parameters() if "attention_biases" in name}
    model.set_trainable(trainable)
    model.eval()
    model(images(2))
    model.train()
    line = partition(model, trainable, images(2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trainable:
                parameter.normal_()
    model.train()
    model.eval()
    with torch.no_grad():
        assert torch.equal(line.eval_suffix(*line.prefix(images(2))), model(images(2)))


def test_parameters_buffers_and_modules_are_the_models_own() -> None:
    model = timm_model("test_vit", img_size=64)
    line = parted(model, last(model, 0.5))
    own = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    modules = {id(module) for module in model.modules()}
    for part in (line.prefix, line.train_suffix, line.eval_suffix):
        assert own.issuperset(id(tensor) for tensor in [*part.parameters(), *part.buffers()])
        leaves = [module for module in part.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        assert leaves and modules.issuperset(map(id, leaves))
    assert {id(p) for p in line.train_suffix.parameters() if p.requires_grad} == {
        id(p) for p in model.parameters() if p.requires_grad
    }


def test_a_model_that_moves_takes_its_parts_along() -> None:
    model = timm_model("test_vit", img_size=64)
    line = parted(model, last(model, 0.5))
    model.to(torch.float64)
    model.eval()
    with torch.no_grad():
        assert line.prefix(images(2))[0].dtype == torch.float64
        assert torch.equal(line.eval_suffix(*line.prefix(images(2))), model(images(2)))


def test_the_frozen_side_runs_without_gradients_and_in_evaluation_mode() -> None:
    model = timm_model("test_resnet")
    line = parted(model, last(model, 0.3))
    expected = line.prefix(images(3))
    for module in model.modules():
        module.training = True
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    values = line.prefix(images(3))
    assert not any(value.requires_grad for value in values)
    assert all(torch.equal(a, b) for a, b in zip(values, expected, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_mixed_precision_is_that_of_the_block_around_the_partition() -> None:
    model = timm_model("test_vit", img_size=64)
    with torch.autocast("cpu", torch.bfloat16):
        line = parted(model, last(model, 0.5))
        assert {value.dtype for value in line.values} <= {torch.bfloat16, torch.float32}
        assert_bit_equal(model, line, images(3))
