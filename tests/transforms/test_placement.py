"""Where an image lies in the input, and that boxes, masks and maps find the way there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from thawline.errors import UsageError
from thawline.preprocessing import Preprocessing
from thawline.transforms import Placement, Transform

OWN = Preprocessing(size=(64, 96), interpolation="bilinear", crop_pct=0.875, resize="border", fill=(1, 2, 3))
ODD = [(67, 101), (101, 67), (33, 200), (64, 96), (7, 5), (1, 1), (333, 501)]


def placed(original, size=(64, 96), resize="squash"):
    return Transform(size=size, resize=resize).fitted(OWN, whole=True).placement(original)


def white(height, width):
    return Image.new("RGB", (width, height), "white")


def test_squash_fills_the_input_and_pad_lies_in_its_centre():
    assert placed((67, 101)) == Placement((67, 101), (64, 96), 0, 0, 64, 96)
    assert placed((20, 40), (20, 20), "pad") == Placement((20, 40), (20, 20), 5, 0, 10, 20)
    # 100 / 67 of 64 rows and 96 columns: the rows are the tighter ones, round(40 * 64 / 67) = 38 columns are shown.
    assert placed((67, 40), resize="pad") == Placement((67, 40), (64, 96), 0, 29, 64, 38)


@pytest.mark.parametrize("original", ODD)
def test_an_image_is_decoded_to_where_it_is_said_to_lie(original):
    place = placed(original, resize="pad")
    pixels = Transform(size=(64, 96), resize="pad").fitted(OWN, whole=True).decode(white(*original))
    expected = torch.zeros(64, 96, dtype=torch.uint8)
    expected[place.top : place.top + place.height, place.left : place.left + place.width] = 255
    assert torch.equal(pixels[0], expected)


def test_boxes_are_scaled_and_moved_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 101.0, 67.0], [10.0, 20.0, 30.0, 40.0]])
    down, right = 64 / 67, 96 / 101
    scaled = torch.tensor([[0, 0, 96, 64], [10 * right, 20 * down, 30 * right, 40 * down]])
    assert torch.allclose(placed((67, 101)).boxes_to_input(boxes), scaled, atol=1e-5)
    moved = placed((20, 40), (20, 20), "pad").boxes_to_input(torch.tensor([[4.0, 6.0, 40.0, 20.0]]))
    assert moved.tolist() == [[2.0, 8.0, 20.0, 15.0]]


@pytest.mark.parametrize("resize", ["squash", "pad"])
@pytest.mark.parametrize("original", ODD)
def test_boxes_come_back_where_they_were(original, resize):
    height, width = original
    corners = np.random.default_rng(0).uniform(0, 1, (50, 2, 2)) * [width, height]
    boxes = torch.tensor(np.sort(corners, axis=1).reshape(50, 4), dtype=torch.float32)
    place = placed(original, resize=resize)
    back = place.boxes_to_original(place.boxes_to_input(boxes))
    assert back.dtype == torch.float32
    assert (back - boxes).abs().max() < 1e-4


def test_boxes_that_reach_into_the_border_are_clipped_to_the_image():
    place = placed((20, 40), (20, 20), "pad")
    back = place.boxes_to_original(torch.tensor([[-3.0, 0.0, 25.0, 20.0], [1.0, 6.0, 2.0, 7.0]]))
    assert back.tolist() == [[0.0, 0.0, 40.0, 20.0], [2.0, 2.0, 4.0, 4.0]]


@pytest.mark.parametrize("original", ODD)
def test_a_mask_is_scaled_by_the_nearest_pixel_as_pillow_does(original):
    mask = np.random.default_rng(0).integers(0, 255, original, dtype=np.uint8)
    place = placed(original)
    expected = np.asarray(Image.fromarray(mask).resize((96, 64), Image.Resampling.NEAREST))
    assert np.array_equal(place.mask_to_input(mask, 255).numpy(), expected)
    padded = placed(original, resize="pad")
    inner = Image.fromarray(mask).resize((padded.width, padded.height), Image.Resampling.NEAREST)
    canvas = Image.new("L", (96, 64), 255)
    canvas.paste(inner, (padded.left, padded.top))
    assert np.array_equal(padded.mask_to_input(torch.from_numpy(mask), 255).numpy(), np.asarray(canvas))


@pytest.mark.parametrize(("resize", "size"), [("squash", (14, 10)), ("squash", (21, 20)), ("pad", (14, 16))])
def test_a_mask_comes_back_at_a_whole_factor(resize, size):
    mask = torch.from_numpy(np.random.default_rng(1).integers(0, 4, (7, 5), dtype=np.uint8))
    place = placed((7, 5), size, resize)
    scaled = place.mask_to_input(mask, 255)
    assert (scaled.dtype, tuple(scaled.shape)) == (torch.uint8, size)
    shown = torch.stack([scaled == index for index in range(4)]).float()
    assert torch.equal(place.maps_to_original(shown).argmax(dim=0), mask.long())


def test_maps_are_bilinear_between_the_centres_of_pixels():
    values = torch.tensor([[[0.0, 1.0]]])
    assert placed((1, 4), (1, 2)).maps_to_original(values).tolist() == [[[0.0, 0.25, 0.75, 1.0]]]
    rows = torch.tensor([9.0, 1.0, 2.0, 9.0])[:, None].expand(4, 4)
    assert placed((2, 4), (4, 4), "pad").maps_to_original(rows).tolist() == [[1.0] * 4, [2.0] * 4]


def test_a_box_a_mask_and_the_pixels_stay_together():
    image = Image.new("RGB", (20, 10))
    image.paste((255, 255, 255), (3, 2, 7, 5))
    mask = (np.asarray(image)[:, :, 0] == 255).astype(np.uint8)
    transform = Transform(size=(40, 40), resize="pad", interpolation="nearest").fitted(OWN, whole=True)
    place = transform.placement((10, 20))
    assert place.boxes_to_input(torch.tensor([[3.0, 2.0, 7.0, 5.0]])).tolist() == [[6.0, 14.0, 14.0, 20.0]]
    expected = torch.zeros(40, 40, dtype=torch.uint8)
    expected[14:20, 6:14] = 1
    assert torch.equal(place.mask_to_input(mask, 0), expected)
    assert torch.equal(transform.decode(image)[0] // 255, expected)


def test_no_objects_are_no_trouble():
    place = placed((67, 40), resize="pad")
    assert place.boxes_to_input(torch.zeros(0, 4)).shape == (0, 4)
    assert place.boxes_to_original(torch.zeros(0, 4)).shape == (0, 4)
    assert place.mask_to_input(np.zeros((0, 67, 40), dtype=np.uint8), 0).shape == (0, 64, 96)
    assert place.maps_to_original(torch.zeros(0, 1, 64, 96)).shape == (0, 1, 67, 40)


def test_masks_and_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"a mask of \(40, 67\) on an image of \(67, 40\)"):
        placed((67, 40)).mask_to_input(np.zeros((40, 67), dtype=np.uint8), 255)
    with pytest.raises(ValueError, match=r"maps of \(16, 24\) for an input of \(64, 96\)"):
        placed((67, 40)).maps_to_original(torch.zeros(2, 16, 24))


def test_the_whole_image_is_squashed_unless_padding_is_asked_for():
    fitted = Transform().fitted(OWN, whole=True)
    assert (fitted.resize, fitted.crop_pct, fitted.fill) == ("squash", 1.0, None)
    assert (fitted.output_size, fitted.interpolation) == ((64, 96), "bilinear")
    assert fitted.fitted(OWN, whole=True) == fitted
    padded = Transform(resize="pad", fill=(9, 9, 9)).fitted(OWN, whole=True)
    assert (padded.resize, padded.crop_pct, padded.fill) == ("pad", 1.0, (9, 9, 9))
    assert Transform().fitted(OWN).resize == "border"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"resize": "crop"}, {"transform.resize"}),
        ({"resize": "border"}, {"transform.resize"}),
        ({"resize": "squash", "crop_pct": 0.9}, {"transform.crop_pct"}),
        ({"crop_pct": 1.1}, {"transform.crop_pct"}),
        ({"resize": "crop", "crop_pct": 0.5}, {"transform.resize", "transform.crop_pct"}),
    ],
)
def test_what_cuts_pixels_off_is_refused_by_its_field(fields, named):
    with pytest.raises(UsageError) as error:
        Transform(**fields).fitted(OWN, whole=True)
    assert {problem.field for problem in error.value.problems} == named


def test_a_cut_image_has_no_placement():
    for transform in (Transform(resize="crop"), Transform(resize="squash", crop_pct=0.9)):
        with pytest.raises(ValueError, match="does not show the whole image"):
            transform.fitted(OWN).placement((10, 10))
    with pytest.raises(ValueError, match="the size is not known"):
        Transform(resize="pad").placement((10, 10))
