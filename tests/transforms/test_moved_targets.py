"""Masks, boxes and objects move with their image: by the same draws, with fills that are no object, or not at all."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import masks_to_boxes

from thawline.datasets.targets import IGNORE
from thawline.errors import UsageError
from thawline.preprocessing import Preprocessing
from thawline.specs import resolve
from thawline.transforms import Transform

V2 = "torchvision.transforms.v2."
SIZE = (48, 64)


def step(name, **arguments):
    return {"_target_": V2 + name, **arguments}


def moving(*steps, size=SIZE):
    node = {"_target_": "thawline.transforms.Transform", "augmentation": list(steps)}
    own = Preprocessing(size=size, interpolation="bilinear", crop_pct=0.9)
    return resolve(node).fitted(own, whole=True)


def masked(size=SIZE):
    """A mask of classes 1 to 4 in blocks, and an image whose red, green and blue are 50 times the class."""
    height, width = size
    rows, columns = torch.arange(height) * 2 // height, torch.arange(width) * 2 // width
    mask = (1 + rows[:, None] * 2 + columns).to(torch.uint8)
    return (mask * 50).expand(3, *size).contiguous(), mask


def objects(size=SIZE):
    """Two objects of brightness 100 and 200, with a number for each."""
    masks = torch.zeros((2, *size), dtype=torch.uint8)
    masks[0, 20:40, 10:30] = 1
    masks[1, 5:30, 35:55] = 1
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0], [35.0, 5.0, 55.0, 30.0]])
    image = (masks[0] * 100 + masks[1] * 200).expand(3, *size).contiguous()
    return image, {"boxes": boxes, "masks": masks, "labels": torch.tensor([7, 8]), "rows": torch.tensor([0, 1])}


# ---------------------------------------------------------------------------------------------- by hand, to the pixel


def line(column, size=(16, 16)):
    """A line that is one pixel wide: an image, its mask, its box."""
    mask = torch.zeros(size, dtype=torch.uint8)
    mask[:, column] = 1
    image = (mask * 200).expand(3, *size).contiguous()
    return image, mask, torch.tensor([[float(column), 0.0, column + 1.0, float(size[0])]])


@pytest.mark.parametrize(
    ("steps", "columns", "box"),
    [
        ([step("RandomHorizontalFlip", p=1.0)], [12], [12, 0, 13, 16]),
        ([step("RandomHorizontalFlip", p=1.0), step("RandomHorizontalFlip", p=1.0)], [3], [3, 0, 4, 16]),
        ([step("RandomVerticalFlip", p=1.0)], [3], [3, 0, 4, 16]),
        ([step("Pad", padding=[2, 0, 0, 0]), step("CenterCrop")], [4], [4, 0, 5, 16]),
        # 14 columns of 1 to 15, then 16 of them: the line of the third is now between 16/14 * 2 and 16/14 * 3.
        ([step("CenterCrop", size=[16, 14]), step("Resize", interpolation="nearest")], [3], [16 / 7, 0, 24 / 7, 16]),
        ([step("Resize", size=[32, 32], interpolation="nearest"), step("CenterCrop", size=[16, 32]),
          step("RandomCrop", padding=[8, 0, 0, 0], size=[16, 40]), step("CenterCrop")], [2, 3], [2, 0, 4, 16]),
    ],
)  # fmt: skip
def test_a_line_moves_to_where_the_steps_take_it(steps, columns, box):
    image, mask, boxes = line(3)
    transform = moving(*steps, size=(16, 16))
    view, moved = transform.augment(image, 0, 0, 0, {"mask": mask})
    assert (view[0, 8] == 200).nonzero().flatten().tolist() == columns
    assert (moved["mask"][8] == 1).nonzero().flatten().tolist() == columns
    view, moved = transform.augment(image, 0, 0, 0, {"boxes": boxes})
    assert torch.allclose(moved["boxes"], torch.tensor([box], dtype=torch.float32), atol=1e-5)


def test_a_random_shift_moves_image_mask_and_boxes_by_the_same_pixels():
    image, mask, boxes = line(7)
    transform, shifts = moving(step("RandomCrop", padding=4), size=(16, 16)), set()
    for epoch in range(30):
        view, moved = transform.augment(image, 0, epoch, 0, {"mask": mask, "boxes": boxes})
        row = int((moved["mask"] != IGNORE).any(dim=1).nonzero()[0])
        (column,) = (view[0, row] == 200).nonzero().flatten().tolist()
        shift = column - 7
        shifts.add(shift)
        expected = torch.zeros(16, dtype=torch.uint8)
        expected[column] = 1
        # What came in from outside is unlabelled.
        expected[:shift] = IGNORE if shift > 0 else expected[:shift]
        expected[16 + shift :] = IGNORE if shift < 0 else expected[16 + shift :]
        assert torch.equal(moved["mask"][row], expected)
        assert moved["boxes"][0, [0, 2]].tolist() == [column, column + 1]
    assert shifts == set(range(-4, 5))


# --------------------------------------------------------------------------------------- every class that moves pixels

CROP = step("RandomResizedCrop", scale=[0.2, 0.9], interpolation="nearest")
RESIZE = step("Resize", interpolation="nearest")
MOVES = {
    "flips": [step("RandomHorizontalFlip"), step("RandomVerticalFlip")],
    "resized crop": [CROP],
    "crop": [step("RandomCrop", padding=9)],
    "affine": [step("RandomAffine", degrees=30, translate=[0.2, 0.2], scale=[0.7, 1.3], shear=10)],
    "perspective": [step("RandomPerspective", p=0.8, interpolation="nearest")],
    "rotation": [step("RandomRotation", degrees=45)],
    "zoom out": [step("RandomZoomOut", p=0.8), RESIZE],
    "pad": [step("Pad", padding=[3, 5, 7, 9]), RESIZE],
    "centre crop": [step("CenterCrop", size=30), RESIZE],
    "centre crop of less": [step("Resize", size=[20, 20], interpolation="nearest"), step("CenterCrop")],
    "scale jitter": [step("ScaleJitter", target_size=[40, 40], interpolation="nearest"), step("CenterCrop")],
    "random resize": [step("RandomResize", min_size=20, max_size=70, interpolation="nearest"), step("CenterCrop")],
    "shortest size": [step("RandomShortestSize", min_size=[20, 50], interpolation="nearest"), step("CenterCrop")],
    "containers": [
        step("RandomApply", p=0.5, transforms=[CROP]),
        step("RandomChoice", transforms=[step("RandomAffine", degrees=20), step("RandomHorizontalFlip", p=1.0)]),
        step("RandomOrder", transforms=[step("RandomVerticalFlip"), step("RandomCrop", padding=5)]),
        step("Compose", transforms=[step("RandomZoomOut", p=1.0, side_range=[1.0, 2.0]), RESIZE]),
    ],
}  # fmt: skip
COLOURS = {
    "jitter": step("ColorJitter", brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1),
    "photometric": step("RandomPhotometricDistort"),
    "gray": step("Grayscale", num_output_channels=3),
    "random gray": step("RandomGrayscale", p=0.5),
    "rgb": step("RGB"),
    "blur": step("GaussianBlur", kernel_size=5),
    "noise": step("GaussianNoise"),
    "invert": step("RandomInvert"),
    "posterize": step("RandomPosterize", bits=2),
    "solarize": step("RandomSolarize", threshold=99),
    "contrast": step("RandomAutocontrast"),
    "equalize": step("RandomEqualize"),
    "sharpness": step("RandomAdjustSharpness", sharpness_factor=2.0),
    "channels": step("RandomChannelPermutation"),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_mask_lies_on_its_image_after_every_move(name):
    transform, (image, mask) = moving(*MOVES[name]), masked()
    transform.check_targets("mask")
    views = set()
    for epoch in range(20):
        view, moved = transform.augment(image, 3, epoch, 5, {"mask": mask})
        assert torch.equal(view[0], torch.where(moved["mask"] == IGNORE, 0, moved["mask"] * 50))
        assert torch.equal(view, transform.augment(image, 3, epoch, 5))
        assert (type(view), type(moved["mask"])) == (torch.Tensor, torch.Tensor)
        views.add(view.numpy().tobytes())
    assert len(views) == 1 if name in ("pad", "centre crop", "centre crop of less") else len(views) > 1


@pytest.mark.parametrize("name", MOVES)
def test_objects_lie_on_their_image_after_every_move(name):
    transform, (image, target) = moving(*MOVES[name]), objects()
    transform.check_targets("instances")
    seen = 0
    for epoch in range(20):
        view, moved = transform.augment(image, 3, epoch, 5, target)
        assert torch.equal(view, transform.augment(image, 3, epoch, 5))
        for box, mask, number, row in zip(*(moved[key] for key in ("boxes", "masks", "labels", "rows")), strict=True):
            assert number == row + 7
            assert torch.equal(mask == 1, view[0] == 100 * (row + 1))
            tight = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
            # The nearest pixels are up to one off for each step that resamples, of which the containers hold two, and
            # the edge may cut a corner off that held up the box of a turned object.
            assert (box - tight).abs().max() < 2
            seen += 1
        assert set(moved["rows"].tolist()) == set((view[0][view[0] > 0] // 100 - 1).tolist())
    assert seen > 10


@pytest.mark.parametrize("name", COLOURS)
def test_colours_leave_targets_alone_and_see_nothing_of_them(name):
    transform, (image, mask), (_, target) = moving(COLOURS[name]), masked(), objects()
    transform.check_targets("mask")
    transform.check_targets("instances")
    image[1] //= 2
    for epoch in range(5):
        expected = transform.augment(image, 0, epoch, 0)
        view, moved = transform.augment(image, 0, epoch, 0, {"mask": mask})
        assert torch.equal(view, expected)
        assert torch.equal(moved["mask"], mask)
        view, moved = transform.augment(image, 0, epoch, 0, target)
        assert torch.equal(view, expected)
        assert all(torch.equal(moved[key], target[key]) for key in target)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_blank_image_moves_a_target_as_the_real_one_does(colour):
    mixed = step("RandomApply", p=0.5, transforms=[COLOURS[colour]])
    for steps in MOVES.values():
        transform, (image, target) = moving(COLOURS[colour], mixed, *steps), objects()
        for epoch in range(2):
            _, moved = transform.augment(image, 0, epoch, 1, {**target, "mask": masked()[1]})
            _, again = transform.augment(torch.zeros_like(image), 0, epoch, 1, {**target, "mask": masked()[1]})
            assert moved.keys() == again.keys()
            assert all(torch.equal(moved[key], again[key]) for key in moved)


def test_an_elastic_mask_lies_on_its_image():
    transform, (image, mask) = moving(step("ElasticTransform", alpha=200.0, interpolation="nearest")), masked()
    transform.check_targets("mask")
    view, moved = transform.augment(image, 0, 0, 0, {"mask": mask})
    assert not torch.equal(view, image)
    assert torch.equal(view[0], torch.where(moved["mask"] == IGNORE, 0, moved["mask"] * 50))


def test_the_crop_by_boxes_keeps_what_it_was_chosen_for():
    transform, (image, target) = moving(step("RandomIoUCrop"), RESIZE), objects()
    transform.check_targets("boxes")
    transform.check_targets("instances")
    counts = set()
    for epoch in range(20):
        view, moved = transform.augment(image, 0, epoch, 0, target)
        assert view.shape == image.shape
        counts.add(len(moved["boxes"]))
        for mask, row in zip(moved["masks"], moved["rows"], strict=True):
            assert torch.equal(mask == 1, view[0] == 100 * (row + 1))
        _, again = transform.augment(torch.zeros_like(image), 0, epoch, 0, target)
        assert all(torch.equal(moved[key], again[key]) for key in moved)
    assert counts == {1, 2}


# -------------------------------------------------------------------------------------------- fills, and what is left


@pytest.mark.parametrize(
    "shift",
    [
        step("Pad", padding=[8, 0, 0, 0], fill=[10, 20, 30]),
        step("RandomApply", p=1.0, transforms=[
            step("RandomChoice", transforms=[step("Pad", padding=[8, 0, 0, 0], fill=[10, 20, 30])])]),
        step("Compose", transforms=[step("Pad", padding=[8, 0, 0, 0], fill={"others": [10, 20, 30]})]),
    ],
)  # fmt: skip
def test_a_fill_for_images_stays_off_masks(shift):
    transform = moving(shift, step("RandomCrop", size=[16, 24]), step("CenterCrop", size=[16, 24]), size=(16, 16))
    with pytest.raises(UsageError, match=r"must keep type and size: uint8 \(3, 16, 16\) became"):
        transform.check_targets("mask")
    image = torch.full((3, 16, 16), 77, dtype=torch.uint8)
    target = {"mask": torch.full((16, 16), 3, dtype=torch.uint8), "boxes": torch.tensor([[0.0, 0.0, 16.0, 16.0]]),
              "masks": torch.ones((1, 16, 16), dtype=torch.uint8)}  # fmt: skip
    view, moved = transform.augment(image, 0, 0, 0, target)
    assert view[:, 0, 0].tolist() == [10, 20, 30]
    assert moved["mask"][0].tolist() == [IGNORE] * 8 + [3] * 16
    assert moved["masks"][0, 0].tolist() == [0] * 8 + [1] * 16


def test_what_is_unlabelled_stays_unlabelled_and_no_class_is_mistaken_for_it():
    mask = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    transform = moving(step("RandomHorizontalFlip", p=1.0), size=(16, 16))
    _, moved = transform.augment(torch.zeros(3, 16, 16, dtype=torch.uint8), 0, 0, 0, {"mask": mask})
    assert torch.equal(moved["mask"], mask.flip(1))
    with pytest.raises(TypeError, match="a mask is uint8, not"):
        transform.augment(torch.zeros(3, 16, 16, dtype=torch.uint8), 0, 0, 0, {"mask": mask.long()})


def test_boxes_are_clipped_and_those_that_show_nothing_go_with_all_that_is_theirs():
    boxes = torch.tensor([
        [-5.0, 2.0, 4.0, 6.0],    # half outside
        [2.0, 3.0, 2.9, 9.0],     # thinner than a pixel
        [15.5, 0.0, 30.0, 9.0],   # half a pixel is inside
        [20.0, 0.0, 30.0, 9.0],   # outside
        [4.0, 4.0, 12.0, 12.0],   # nothing in its mask
        [6.0, 7.0, 7.0, 8.0],     # one pixel
    ])  # fmt: skip
    masks = torch.ones((6, 16, 16), dtype=torch.uint8)
    masks[4] = 0
    target = {"boxes": boxes, "masks": masks, "labels": torch.arange(6), "area": torch.arange(12.0).reshape(6, 2)}
    kept = {key: value.clone() for key, value in target.items()}
    transform = moving(step("RandomHorizontalFlip", p=1.0), size=(16, 16))
    _, moved = transform.augment(torch.zeros(3, 16, 16, dtype=torch.uint8), 0, 0, 0, target)
    assert moved["boxes"].tolist() == [[12.0, 2.0, 16.0, 6.0], [9.0, 7.0, 10.0, 8.0]]
    assert moved["labels"].tolist() == [0, 5]
    assert moved["area"].tolist() == [[0.0, 1.0], [10.0, 11.0]]
    assert moved["masks"].shape == (2, 16, 16)
    assert all(torch.equal(target[key], kept[key]) for key in kept)


@pytest.mark.parametrize("name", [*MOVES, "crop by boxes"])
def test_an_image_without_objects_moves_too(name):
    transform, (image, target) = moving(*MOVES.get(name, [step("RandomIoUCrop"), RESIZE])), objects()
    empty = {key: value[:0] for key, value in target.items()}
    for epoch in range(5):
        view, moved = transform.augment(image, 0, epoch, 0, empty)
        assert view.shape == image.shape
        assert {key: tuple(value.shape) for key, value in moved.items()} == {
            "boxes": (0, 4), "masks": (0, *SIZE), "labels": (0,), "rows": (0,)
        }  # fmt: skip


def test_without_augmentation_a_target_stays_as_it_is():
    image, target = objects()
    found = moving().augment(image, 0, 0, 0, target)
    assert found[0] is image
    assert found[1] is target


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", ["mask", "boxes", "instances"])
@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (step("AutoAugment"), "AutoAugment moves the image and cannot move masks and boxes with it"),
        (step("RandAugment"), "RandAugment moves the image and cannot"),
        (step("TrivialAugmentWide"), "TrivialAugmentWide moves the image and cannot"),
        (step("AugMix"), "AugMix moves the image and cannot"),
        (step("MixUp", num_classes=3), "MixUp mixes the images of a batch"),
        (step("CutMix", num_classes=3), "CutMix mixes the images of a batch"),
        (step("FiveCrop"), "FiveCrop makes several images of one"),
        (step("TenCrop"), "TenCrop makes several images of one"),
        (step("RandomErasing"), "RandomErasing erases pixels that masks and boxes go on showing"),
        (step("ToPureTensor"), "ToPureTensor makes plain tensors of masks and boxes"),
        (step("ConvertBoundingBoxFormat", format="XYWH"), "ConvertBoundingBoxFormat gives the numbers of a box"),
        (step("SanitizeBoundingBoxes"), "SanitizeBoundingBoxes removes boxes without all that belongs to them"),
        (step("RandomZoomOut"), r"must keep type and size: uint8 \(3, 48, 64\) became"),
        (step("RandomRotation", degrees=[90, 90], expand=True), "must keep type and size"),
        (step("ToPILImage"), "must keep type and size: uint8 .* became Image"),
        (step("Normalize", mean=[0.5], std=[0.5]), "does not work on one image"),
    ],
)
def test_what_cannot_move_targets_is_refused_by_name(kind, found, reason):
    for steps in ([found], [step("RandomHorizontalFlip"), step("RandomApply", p=0.9, transforms=[found])]):
        with pytest.raises(UsageError, match=reason) as error:
            moving(*steps).check_targets(kind)
        assert {problem.field for problem in error.value.problems} == {"transform.augmentation"}


@pytest.mark.parametrize(
    ("found", "kinds", "reason"),
    [
        (step("RandomIoUCrop"), ["mask"], "RandomIoUCrop chooses the crop by boxes"),
        (step("RandomIoUCrop"), ["boxes", "instances"], "must keep type and size"),
        (step("RandomIoUCrop", sampler_options=[0.1, 0.5]), ["boxes", "instances"], "needs 1.0 among sampler_options"),
        (step("ElasticTransform"), ["boxes", "instances"], "ElasticTransform moves a box by its corners alone"),
        (step("RandomCrop", padding=4, padding_mode="reflect"), ["boxes", "instances"], "by padding_mode=reflect"),
    ],
)
def test_what_some_kinds_of_target_cannot_follow_is_refused_for_those(found, kinds, reason):
    for kind in kinds:
        with pytest.raises(UsageError, match=reason):
            moving(found).check_targets(kind)


def test_a_mirrored_border_is_labelled_as_what_it_mirrors():
    transform, (image, mask) = moving(step("RandomCrop", padding=9, padding_mode="reflect")), masked()
    transform.check_targets("mask")
    view, moved = transform.augment(image, 0, 0, 0, {"mask": mask})
    assert not torch.equal(view, image)
    assert torch.equal(view[0], moved["mask"] * 50)


def test_everything_that_is_refused_is_said_at_once():
    steps = [step("RandAugment"), step("RandomChoice", transforms=[step("RandomErasing"), step("CutMix")])]
    with pytest.raises(UsageError) as error:
        moving(*steps).check_targets("mask")
    named = [problem.message.split()[0] for problem in error.value.problems]
    assert named == [V2 + "RandAugment", V2 + "RandomErasing", V2 + "CutMix"]


@pytest.mark.parametrize("kind", ["class", "classes", "number"])
def test_a_target_of_the_whole_image_goes_with_every_augmentation(kind):
    moving(step("RandAugment"), step("RandomErasing")).check_targets(kind)


def test_a_transform_is_still_found_by_the_name_of_its_class():
    assert resolve({"_target_": "thawline.transforms.Transform"}) == Transform()
    assert moving(CROP).deciding()["_target_"] == "thawline:Transform"
