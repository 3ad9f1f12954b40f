"""Drawings of what is true and what was predicted: which pixels are tinted how, and colours that can be told apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from thawline.tasks.drawing import COLOURS, Marked, jpeg, legend, palette, scaled, with_boxes, with_mask

GREY = 120


def flat(height, width):
    return Image.new("RGB", (width, height), (GREY,) * 3)


def lab(colour, vision):
    """CIELAB of an sRGB colour as it is seen with a kind of vision (Machado et al. 2009, severity 1)."""
    rows = {
        "normal": ([1, 0, 0], [0, 1, 0], [0, 0, 1]),
        "protanopia": (
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ),
        "deuteranopia": (
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ),
    }
    values = np.array(colour) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(rows[vision]) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ linear / [0.9505, 1, 1.089]
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("vision", ["normal", "protanopia", "deuteranopia"])
def test_colours_are_told_apart(vision):
    distances = [
        np.linalg.norm(lab(one, vision) - lab(other, vision)) for one, other in itertools.combinations(COLOURS, 2)
    ]
    # a difference of 2.3 is just noticeable
    assert len(COLOURS) == 10 and min(distances) > 15


def test_a_mask_tints_each_class_and_hatches_what_is_ignored():
    mask = np.full((40, 60), 255, dtype=np.uint8)
    mask[:20, :30], mask[:20, 30:], mask[20:, :30] = 0, 1, 12
    names = ["Background", *(f"class {index}" for index in range(1, 13))]
    image = with_mask(flat(40, 60), mask, names, side=60)
    drawn = np.asarray(image)
    assert image.width == 60 and image.height > 40
    # an area without a number, an outline or a stripe
    assert (drawn[1:4, 1:8] == GREY).all()
    assert np.abs(drawn[1:4, 50:58] - (0.5 * GREY + 0.5 * np.array(COLOURS[1]))).max() <= 1
    rows, columns = np.indices((40, 60))
    stripes = (rows + columns) % 8 < 2
    tinted = 0.5 * GREY + 0.5 * np.array(COLOURS[2])
    striped = 0.4 * tinted + 0.6 * 255
    corner = (rows >= 36) & (rows < 39) & (columns < 8)
    assert np.abs(drawn[:40][corner & ~stripes] - tinted).max() <= 1
    assert np.abs(drawn[:40][corner & stripes] - striped).max() <= 1
    ignored = (rows >= 22) & (columns >= 32) & (rows < 38) & (columns < 58)
    values = drawn[:40][ignored & ~stripes]
    assert (values == values[0]).all() and (values[0] == values[0][0]).all()
    assert (drawn[:40][ignored & stripes] < values[0] - 20).all()
    assert (drawn[19, 5:25] <= GREY // 4 + 40).all()


def test_found_boxes_are_solid_and_true_ones_dashed():
    box = (10.0, 20.0, 90.0, 70.0)
    sides = {}
    for line in ("solid", "dashed", "dotted"):
        drawn = np.asarray(with_boxes(flat(100, 100), [Marked(box, 0, "", line=line)], side=100))
        sides[line] = (drawn[20, 12:88] == COLOURS[0]).all(axis=1).mean()
        assert (drawn[40:60, 30:70] == GREY).all()
    assert sides["solid"] == 1
    assert 0.5 < sides["dashed"] < 0.8
    assert sides["dotted"] < sides["dashed"]


def test_boxes_follow_the_scale_and_pixels_of_objects_are_tinted():
    inside = np.zeros((50, 100), dtype=bool)
    inside[10:30, 40:80] = True
    drawn = np.asarray(with_boxes(flat(50, 100), [Marked((40, 10, 80, 30), 3, "", inside)], side=200))
    assert drawn.shape == (100, 200, 3)
    assert np.abs(drawn[30:50, 100:140] - (0.5 * GREY + 0.5 * np.array(COLOURS[3]))).max() <= 1
    assert (drawn[30:50, 165:190] == GREY).all()
    assert (drawn[20, 82:158] == COLOURS[3]).all()


def test_text_stays_inside_the_image():
    corners = [(0, 0, 5, 5), (95, 0, 100, 5), (0, 95, 5, 100), (95, 95, 100, 100)]
    for box in corners:
        image = with_boxes(flat(100, 100), [Marked(box, 1, "a name 0.98")], side=100)
        filled = (np.asarray(image) == COLOURS[1]).all(axis=2)
        # the ground of the text is twelve pixels high or more, and whole
        assert filled.sum() > 12 * 40


def test_an_image_is_enlarged_four_times_at_most():
    assert scaled(flat(10, 20), 400)[0].size == (80, 40)
    assert scaled(flat(1000, 2000), 400)[0].size == (400, 200)
    assert scaled(flat(1, 5000), 400)[0].size == (400, 1)


def test_a_palette_has_the_colours_of_the_classes():
    colours = np.frombuffer(palette(), dtype=np.uint8).reshape(256, 3)
    assert colours[:10].tolist() == [list(colour) for colour in COLOURS]
    assert colours[23].tolist() == list(COLOURS[3]) and colours[255].tolist() == [128] * 3


def test_names_of_any_length_and_script_do_not_break_a_legend():
    from thawline.tasks.drawing import Entry

    entries = [Entry(index + 1, name) for index, name in enumerate(["x" * 300, "Straße", "道路", "a\nb", ""] * 8)]
    assert legend(120, entries, ignored=True).width == 120


def test_a_file_is_as_small_as_it_has_to_be():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 900, 3), dtype=np.uint8))
    assert len(jpeg(noise)) > 200_000
    assert len(jpeg(noise, 80_000)) <= 80_000
