"""Where the thaw line is: as late as what trains allows, where the fewest bytes are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.thaw_line.models import (
    Sum,
    freeze,
    head,
    images,
    line_of,
    parted,
    shapes,
    timm_model,
)
from thawline.thaw_line.partition import LineValue, partition

# Where the line is.


def test_the_line_of_a_probe_is_the_pooled_feature() -> None:
    model = timm_model("resnet18")
    line = parted(model, head(model))
    assert line.values == (LineValue("backbone_fc", (512,), torch.float32),)
    assert line.bytes_per_sample == line.values[0].bytes_per_sample == 2048
    assert line.suffix_flops_per_sample == 2 * 512 * 5
    assert line.reason == "head trains"
    assert not line.is_whole


def test_a_model_that_is_frozen_all_over_is_all_prefix() -> None:
    model = timm_model("test_resnet")
    line = parted(model, ())
    assert [value.name for value in line.values] == ["head"]
    assert line.suffix_flops_per_sample == 0
    assert line.reason == "nothing trains"


def test_the_line_is_the_input_where_the_first_layer_trains() -> None:
    model = timm_model("test_resnet")
    line = parted(model, {"backbone.conv1.0.weight", *head(model)})
    assert line.is_whole
    assert line.values == (LineValue("input_0", (3, 64, 64), torch.uint8),)
    assert line.prefix_flops_per_sample == 0
    assert line.reason == "backbone.conv1.0 trains"
    batch = images(2)
    assert line.prefix(batch)[0] is batch


def test_cheap_operations_stand_where_fewer_bytes_are_kept() -> None:
    def enlarging(self: Sum, x: Tensor) -> Tensor:
        return self.last(F.interpolate(self.conv(x), scale_factor=4.0))

    model = Sum(enlarging, conv=nn.Conv2d(3, 4, 3, padding=1), last=nn.Conv2d(4, 2, 1))
    assert shapes(line_of(model, ["last.weight"], torch.randn(2, 3, 8, 8))) == [(4, 8, 8)]

    def shrinking(self: Sum, x: Tensor) -> Tensor:
        return self.last(F.max_pool2d(F.relu(self.norm(self.conv(x))), 4))

    model = Sum(shrinking, conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4), last=nn.Conv2d(4, 2, 1))
    assert shapes(line_of(model, ["last.weight"], torch.randn(2, 3, 8, 8))) == [(4, 2, 2)]


def test_one_value_is_kept_where_a_frozen_norm_can_be_computed_again() -> None:
    def residual(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        return x + self.last(self.norm(x))

    model = Sum(residual, first=nn.Linear(6, 8), norm=nn.LayerNorm(8), last=nn.Linear(8, 8))
    assert shapes(line_of(model, ["last.weight", "last.bias"], torch.randn(2, 6))) == [(8,)]


def test_a_frozen_convolution_is_never_computed_twice_to_save_bytes() -> None:
    def growing(self: Sum, x: Tensor) -> Tensor:
        return self.last(self.conv(x))

    model = Sum(growing, conv=nn.Conv2d(3, 64, 3, padding=1), last=nn.Conv2d(64, 2, 1))
    line = line_of(model, ["last.weight"], torch.randn(2, 3, 8, 8))
    assert shapes(line) == [(64, 8, 8)]
    assert line.prefix_flops_per_sample == 2 * 64 * 3 * 9 * 64
    assert line.suffix_flops_per_sample == 2 * 64 * 64 * 2


def test_of_lines_with_equally_many_bytes_the_one_of_fewest_tensors_is_taken() -> None:
    def parts(self: Sum, x: Tensor) -> Tensor:
        a, b, c = self.conv(x).chunk(3, dim=1)
        return self.last(a) * b + c

    model = Sum(parts, conv=nn.Conv2d(3, 6, 1), last=nn.Conv2d(2, 2, 1))
    assert shapes(line_of(model, ["last.weight"], torch.randn(2, 3, 4, 4))) == [(6, 4, 4)]


def test_a_value_with_several_users_is_kept_once() -> None:
    def forked(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.left(x) + self.right(x) * x

    model = Sum(forked, first=nn.Linear(6, 8), left=nn.Linear(8, 8), right=nn.Linear(8, 8))
    assert shapes(line_of(model, ["left.weight", "right.weight"], torch.randn(2, 6))) == [(8,)]


def test_windows_are_not_kept_per_sample() -> None:
    def windows(self: Sum, x: Tensor) -> Tensor:
        x = self.first(x)
        B, N, C = x.shape
        x = self.inner(x.reshape(B * 2, N // 2, C))
        return self.last(x).reshape(B, N, C)

    model = Sum(windows, first=nn.Linear(6, 8), inner=nn.Linear(8, 8), last=nn.Linear(8, 8))
    line = line_of(model, ["last.weight"], torch.randn(2, 4, 6))
    assert shapes(line) == [(4, 8)]
    assert line.prefix_flops_per_sample == 2 * 4 * 6 * 8


def test_dimensions_are_kept_in_their_order_in_memory() -> None:
    def channels_last(self: Sum, x: Tensor) -> Tensor:
        return self.last(self.first(x).permute(0, 3, 1, 2))

    model = Sum(channels_last, first=nn.Linear(3, 5), last=nn.Conv2d(5, 2, 3))
    line = line_of(model, ["last.weight"], torch.randn(2, 7, 6, 3))
    assert shapes(line) == [(7, 6, 5)]

    def sequence_first(self: Sum, x: Tensor) -> Tensor:
        return self.last(self.first(x.transpose(0, 1)))[-1]

    model = Sum(sequence_first, first=nn.Linear(3, 5), last=nn.Linear(5, 2))
    assert shapes(line_of(model, ["last.weight"], torch.randn(2, 4, 3))) == [(4, 5)]


# What ends the frozen side.


def test_randomness_ends_the_frozen_side() -> None:
    def always(self: Sum, x: Tensor) -> Tensor:
        return self.last(self.middle(F.dropout(self.first(x), 0.5, training=True)))

    model = Sum(always, first=nn.Linear(6, 8), middle=nn.Linear(8, 7), last=nn.Linear(7, 8))
    freeze(model, ["last.weight"])
    line = partition(model, ["last.weight"], torch.randn(2, 6))
    assert (shapes(line), line.reason) == ([(8,)], "dropout draws random numbers")


@pytest.mark.parametrize(("training", "p", "expected"), [(True, 0.5, 8), (True, 0.0, 4), (False, 0.5, 4)])
def test_a_dropout_is_random_only_in_training_and_with_a_chance(training: bool, p: float, expected: int) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(p), nn.Linear(8, 4), nn.Linear(4, 2))
    freeze(model, ["3.weight"])
    model[1].train(training)
    assert shapes(partition(model, ["3.weight"], torch.randn(2, 6))) == [(expected,)]


def test_noise_that_does_not_depend_on_the_input_ends_the_frozen_side() -> None:
    model = Sum(lambda self, x: self.last(self.first(x) + torch.randn(8)), first=nn.Linear(6, 8), last=nn.Linear(8, 2))
    line = line_of(model, ["last.weight"], torch.randn(2, 6), check=False)
    assert (shapes(line), line.reason) == ([(8,)], "randn draws random numbers")
    x = torch.randn(3, 6)
    with torch.random.fork_rng():
        expected = torch.manual_seed(3) and model(x)
        assert torch.equal(expected, torch.manual_seed(3) and line.eval_suffix(*line.prefix(x)))


def test_batch_statistics_end_the_frozen_side_and_running_ones_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 2))
    trainable = ["4.weight"]
    assert shapes(line_of(model, trainable, torch.randn(2, 3, 8, 8))) == [(96,)]
    model[1].train()
    line = partition(model, trainable, torch.randn(2, 3, 8, 8))
    assert (shapes(line), line.reason) == ([(4, 6, 6)], "1 normalises by batch statistics")
    model[1] = nn.BatchNorm2d(4, track_running_stats=False).eval()
    assert shapes(partition(model, trainable, torch.randn(2, 3, 8, 8))) == [(4, 6, 6)]


def test_standardised_weights_and_instance_norms_are_no_batch_statistics() -> None:
    model = nn.Sequential(timm.layers.StdConv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(256, 2))
    assert shapes(line_of(model, ["3.weight"], torch.randn(2, 3, 8, 8))) == [(256,)]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x - x.mean(0),
        lambda x: x @ x.T @ x,
        lambda x: x + x.flip(0),
        lambda x: x.softmax(0),
        lambda x: x.roll(1, 0),
        lambda x: x.reshape(-1).softmax(0).reshape(x.shape),
    ],
)
def test_what_mixes_the_samples_ends_the_frozen_side(mixed: Callable[[Tensor], Tensor]) -> None:
    def forward(self: Sum, x: Tensor) -> Tensor:
        return self.last(self.middle(mixed(self.first(x))))

    model = Sum(forward, first=nn.Linear(6, 8), middle=nn.Linear(8, 7), last=nn.Linear(7, 2))
    line = line_of(model, ["last.weight"], torch.randn(2, 6))
    assert shapes(line) == [(8,)]
    assert line.reason.endswith("mixes the samples of a batch")


def test_a_weight_that_is_used_twice_ends_the_frozen_side_at_its_first_use() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[1].weight = model[3].weight
    line = partition(model, ["3.weight"], torch.randn(2, 6))
    assert line.prefix_flops_per_sample == 2 * 36
    assert partition(model, ["1.weight"], torch.randn(2, 6)).values == line.values


def test_a_position_that_trains_thaws_only_what_is_added_to_it() -> None:
    def forward(self: Sum, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.position)

    model = Sum(forward, first=nn.Linear(6, 8), position=nn.Parameter(torch.randn(1, 8)), last=nn.Linear(8, 2))
    line = line_of(model, ["position"], torch.randn(2, 6))
    assert (shapes(line), line.prefix_flops_per_sample) == ([(8,)], 2 * 48)
