"""Heads that find objects: torchvision's detectors on maps, at known strides, with labels from 0."""

from __future__ import annotations

import pytest
import torch

from thawline.errors import UsageError
from thawline.heads.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from thawline.network import Features
from thawline.specs import resolve

CLASSES = ("cat", "dog", "owl")
SIZE = (50, 70)
FEATURES = Features(10, {8: 6, 16: 10}, SIZE)
HEADS = {
    "faster_rcnn": FasterRCNN(strides=(8, 16), width=8, box_width=16),
    "mask_rcnn": MaskRCNN(strides=(8, 16), width=8, box_width=16, mask_width=8),
    "fcos": FCOS(strides=(8, 16), width=32),
    "retinanet": RetinaNet(strides=(8, 16), width=8, normalization="none"),
    "retinanet of groups": RetinaNet(strides=(8, 16), width=32),
}
every_head = pytest.mark.parametrize("spec", HEADS.values(), ids=HEADS.keys())


def maps(images=3):
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(images, *shape, generator=generator) for shape in ((6, 7, 9), (10, 4, 5)))


def target(*boxes, labels=()):
    masks = torch.zeros((len(boxes), *SIZE), dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


TARGETS = [target((2, 3, 20, 30), (30, 10, 60, 40), labels=(0, 2)), target(), target((5, 5, 40, 45), labels=(1,))]


@every_head
def test_losses_are_finite_and_reach_every_parameter_whatever_the_images_hold(spec):
    for targets in (TARGETS, [target()] * 3):
        head = spec.build(FEATURES, CLASSES, None, seed=0)
        losses = head(maps(), targets)
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
        torch.stack(list(losses.values())).sum().backward()
        missing = {name for name, parameter in head.named_parameters() if parameter.grad is None}
        assert not missing


@every_head
def test_targets_are_left_as_they_are(spec):
    labels = [each["labels"].clone() for each in TARGETS]
    spec.build(FEATURES, CLASSES, None, seed=0)(maps(), TARGETS)
    assert all(torch.equal(each["labels"], before) for each, before in zip(TARGETS, labels, strict=True))


@every_head
def test_detections_lie_in_the_image_by_descending_score(spec):
    head = spec.model_copy(update={"score_threshold": 0.0}).build(FEATURES, CLASSES, None, seed=0).eval()
    with torch.inference_mode():
        found = head(maps())
    assert len(found) == 3
    for image in found:
        n = len(image["scores"])
        assert 0 < n <= spec.detections_per_image
        assert image["boxes"].shape == (n, 4)
        assert (image["boxes"] >= 0).all()
        assert (image["boxes"] <= torch.tensor([SIZE[1], SIZE[0]] * 2)).all()
        assert (image["scores"].diff() <= 0).all()
        assert set(image["labels"].tolist()) == {0, 1, 2}
        assert ("masks" in image) is isinstance(spec, MaskRCNN)
        if "masks" in image:
            assert image["masks"].shape == (n, 1, 28, 28)
            assert image["masks"].min() >= 0.0
            assert image["masks"].max() <= 1.0


@every_head
def test_an_image_s_detections_do_not_depend_on_its_batch(spec):
    head = spec.model_copy(update={"score_threshold": 0.0}).build(FEATURES, CLASSES, None, seed=0).eval()
    with torch.inference_mode():
        together, alone = head(maps()), [head(tuple(each[i : i + 1] for each in maps()))[0] for i in range(3)]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        torch.testing.assert_close(one["boxes"], other["boxes"], atol=1e-3, rtol=0.0)
        torch.testing.assert_close(one["scores"], other["scores"])


@every_head
def test_the_seed_alone_decides_how_a_head_starts(spec):
    def state(seed, noise):
        torch.manual_seed(noise)
        return spec.build(FEATURES, CLASSES, None, seed=seed).state_dict()

    first, again, other = state(3, 0), state(3, 1), state(4, 0)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def biases_of_classes(head):
    """The biases that speak of the classes, (..., classes), without that of the background."""
    model = head.model
    if hasattr(model, "roi_heads"):
        return model.roi_heads.box_predictor.cls_score.bias, lambda bias: bias[1:]
    return model.head.classification_head.cls_logits.bias, lambda bias: bias.reshape(-1, len(CLASSES))


@every_head
@pytest.mark.parametrize("label", range(3))
def test_labels_count_from_0_in_training_and_in_evaluation(spec, label):
    head = spec.model_copy(update={"score_threshold": 0.0}).build(FEATURES, CLASSES, None, seed=0)
    bias, of_classes = biases_of_classes(head)
    losses = head(maps(1), [target((2, 3, 40, 40), labels=(label,))])
    next(loss for name, loss in losses.items() if "classif" in name).backward()
    # Only of the class that is there, the bias is told to grow.
    assert of_classes(bias.grad).reshape(-1, 3).sum(dim=0).argmin() == label
    with torch.no_grad():
        of_classes(bias)[..., label] += 20.0
    with torch.inference_mode():
        (found,) = head.eval()(maps(1))
    assert (found["labels"][found["scores"] > 0.6] == label).all()
    assert (found["scores"] > 0.6).any()


@pytest.mark.parametrize(
    ("spec", "features", "strides"),
    [
        (HEADS["faster_rcnn"], FEATURES, [8, 16, 32]),
        (HEADS["fcos"], FEATURES, [8, 16, 32, 64]),
        (FasterRCNN(width=8, box_width=16, extra_levels=0), Features(16, {14: 16}, (56, 56)), [3.5, 7, 14, 28]),
    ],
    ids=["one extra level", "two extra levels", "a pyramid of one map"],
)
def test_anchors_stand_on_the_cells_that_speak_of_them(spec, features, strides):
    head = spec.build(features, CLASSES, None, seed=0)
    model = head.model
    generator = model.rpn.anchor_generator if hasattr(model, "rpn") else model.anchor_generator
    levels = [torch.zeros(1, 8, 3, 5) for _ in strides]

    class Images:
        image_sizes = [features.size]  # noqa: RUF012

    anchors = generator(Images(), levels)[0]
    for stride, of_level in zip(strides, anchors.split(len(anchors) // len(strides)), strict=True):
        centres = (of_level[:, :2] + of_level[:, 2:]).reshape(3, 5, -1, 2) / 2
        expected = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij"), dim=-1).flip(-1)
        torch.testing.assert_close(centres[:, :, 0], expected * float(stride))


def test_regions_are_read_where_they_lie_on_the_map():
    """Maps that hold the column of each of their cells: the mean over a box is its centre, divided by the stride."""
    pooling = FasterRCNN(strides=(8, 16), width=8).build(FEATURES, CLASSES, None, 0).model.roi_heads.box_roi_pool
    ramp = torch.arange(9.0).expand(1, 1, 7, 9)
    box = torch.tensor([[16.0, 8.0, 48.0, 40.0]])
    pooled = pooling({"0": ramp, "1": ramp[..., :4, :5]}, [box], [SIZE])
    assert pooled.shape == (1, 1, 7, 7)
    assert float(pooled.mean()) == pytest.approx(32 / 8, abs=1e-5)


def test_sizes_of_anchors_are_eight_strides_where_none_are_given():
    spec = FasterRCNN(strides=(8, 16), width=8, aspect_ratios=(1.0,))
    cells = spec.build(FEATURES, CLASSES, None, 0).model.rpn.anchor_generator.cell_anchors
    assert [cell.tolist() for cell in cells] == [[[-s / 2, -s / 2, s / 2, s / 2]] for s in (64.0, 128.0, 256.0)]
    given = FasterRCNN(strides=(8, 16), width=8, aspect_ratios=(1.0,), anchor_sizes=[16, [40, 48], [80]])
    assert given.anchor_sizes == ((16,), (40, 48), (80,))


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("FasterRCNN", {"anchor_sizes": [16, 40]}, "2 entries for 5 levels"),
        ("FasterRCNN", {"strides": [16, 8]}, "must ascend"),
        ("FasterRCNN", {"strides": []}, "head.strides"),
        ("FasterRCNN", {"extra_levels": 2}, "head.extra_levels"),
        ("FasterRCNN", {"proposals": [0, 10]}, "head.proposals"),
        ("FCOS", {"width": 48}, "multiple of 32"),
        ("FCOS", {"anchor_sizes": [[8, 16], 16, 32, 64, 128]}, "one number for each level"),
        ("RetinaNet", {"width": 48}, "multiple of 32"),
        ("MaskRCNN", {"mask_width": 0}, "head.mask_width"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(name, fields, said):
    with pytest.raises(UsageError) as error:
        resolve({"_target_": f"thawline.heads.detection.{name}", **fields}, "head")
    assert said in str(error.value)


def test_the_tasks_that_the_heads_are_of():
    tasks = {type(spec).__name__: spec.TASKS for spec in HEADS.values()}
    boxes, instances = frozenset({"detection"}), frozenset({"instance_segmentation"})
    assert tasks == {"FasterRCNN": boxes, "FCOS": boxes, "RetinaNet": boxes, "MaskRCNN": instances}
