"""Corrupted images: the same bits for the same key, stronger with the strength, and what each one is."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from thawline.evaluation.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from thawline.randomness import generator

RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise"}


def random_image(height: int = 64, width: int = 48) -> torch.Tensor:
    """A scene of rectangles of every size on a gradient, no pixel black or white."""
    y, x = np.mgrid[0:height, 0:width]
    planes = np.stack([60 + 100 * y / height, 200 - 120 * x / width, 90 + 0 * x])
    random = generator("scene", height, width)
    for _ in range(60):
        top, left = random.integers(0, height), random.integers(0, width)
        tall, wide = (height / 4 * random.random(2) ** 3 + 1).astype(int)
        planes[:, top : top + tall, left : left + wide] = random.integers(10, 246, (3, 1, 1))
    return torch.from_numpy(planes.astype(np.uint8))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).square().mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_keeps_type_and_size_and_leaves_its_input_alone(name):
    image = random_image()
    before = image.clone()
    for strength in STRENGTHS:
        changed = corrupt(image, name, strength, 0)
        assert changed.dtype == torch.uint8
        assert changed.shape == image.shape
        assert changed.is_contiguous()
        assert not torch.equal(changed, image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_grows_with_its_strength(name):
    image = random_image(224, 224)
    far = [distance(corrupt(image, name, strength, 3), image) for strength in STRENGTHS]
    assert far == sorted(far)
    assert far[0] < far[-1] / 1.5


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_bits_depend_on_name_strength_and_index_alone(name):
    image = random_image()
    first = corrupt(image, name, 3, 17)
    torch.manual_seed(5)
    np.random.default_rng(1).random(100)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda index: corrupt(image, name, 3, index), [17, 18, 17, 18, 17, 18]))
    assert all(torch.equal(copy, first) for copy in again[::2])
    assert all(torch.equal(copy, again[1]) for copy in again[1::2])
    assert torch.equal(again[0], again[1]) == (name not in RANDOM)


def test_the_noise_is_the_same_in_every_version():
    """Other bits here are other numbers for unchanged configurations."""
    digests = {
        name: hashlib.sha256(corrupt(random_image(), name, 2, 5).numpy().tobytes()).hexdigest()[:16] for name in RANDOM
    }
    assert digests == {
        "gaussian_noise": "f8d5daf253458126",
        "shot_noise": "586b69da5cfff80e",
        "impulse_noise": "6efd971bc5dbb909",
    }


def test_gaussian_noise_has_its_width():
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    noises = {strength: corrupt(grey, "gaussian_noise", strength, 0).float() - 128 for strength in (1, 2, 3)}
    widths = {strength: float(noise.std()) / 255 for strength, noise in noises.items()}
    assert widths == pytest.approx({1: 0.08, 2: 0.12, 3: 0.18}, rel=0.02)
    noise = noises[1]
    assert noise.mean().abs() < 0.5
    assert abs(float(torch.corrcoef(noise.reshape(3, -1))[0, 1])) < 0.02


def test_shot_noise_counts_photons():
    grey = torch.full((3, 200, 200), 51, dtype=torch.uint8)
    shot = corrupt(grey, "shot_noise", 3, 0).float() / 255
    assert shot.mean() == pytest.approx(0.2, rel=0.02)
    assert shot.var() == pytest.approx(0.2 / 12, rel=0.05)


def test_impulse_noise_hits_its_share_with_black_and_white():
    grey = torch.full((3, 200, 200), 128, dtype=torch.uint8)
    hit = corrupt(grey, "impulse_noise", 4, 0)
    assert set(hit.unique().tolist()) == {0, 128, 255}
    assert (hit != 128).float().mean() == pytest.approx(0.17, rel=0.05)
    assert (hit == 255).sum() / (hit != 128).sum() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur"])
def test_blurs_leave_a_plain_picture_alone_and_widen_with_its_side(name):
    grey = torch.full((3, 40, 60), 90, dtype=torch.uint8)
    assert torch.equal(corrupt(grey, name, 5, 0), grey)
    # 448 pixels are blurred twice as wide as 224, 32 as the authors' small images: by about a pixel.
    widths = {side: _blurred_columns(corrupt(_edge(side), name, 4, 0)) for side in (32, 224, 448)}
    assert widths[448] == pytest.approx(2 * widths[224], abs=2)
    assert 2 <= widths[32] <= 4


def _blurred_columns(edge: torch.Tensor) -> int:
    """The columns of a blurred edge that are neither black nor white."""
    return int(((edge[0, 0] > 12) & (edge[0, 0] < 243)).sum())


def _edge(side: int) -> torch.Tensor:
    edge = torch.zeros((3, side, side), dtype=torch.uint8)
    edge[:, :, side // 2 :] = 255
    return edge


def test_defocus_spreads_a_point_over_a_disc():
    square = torch.zeros((3, 224, 224), dtype=torch.uint8)
    square[:, 100:125, 100:125] = 255
    spread = corrupt(square, "defocus_blur", 3, 0)
    assert spread[:, 112, 112].tolist() == [255, 255, 255]
    reach = (spread[0, 112] > 0).nonzero().flatten()
    assert (100 - int(reach[0]), int(reach[-1]) - 124) == (6, 6)


def test_contrast_and_brightness_are_their_formulas():
    image = random_image().float() / 255
    mean = image.mean(dim=(1, 2), keepdim=True)
    expected = ((image - mean) * 0.2 + mean) * 255
    assert (corrupt(random_image(), "contrast", 3, 0).float() - expected).abs().max() <= 0.51
    black = torch.zeros((3, 4, 4), dtype=torch.uint8)
    assert set(corrupt(black, "brightness", 2, 0).unique().tolist()) == {51}
    red = torch.zeros((3, 4, 4), dtype=torch.uint8)
    red[0] = 102
    red[1] = 51
    # Hue and saturation stay: 0.4 becomes 0.7, and the smaller channel keeps its share.
    assert corrupt(red, "brightness", 3, 0)[:, 0, 0].tolist() == [178, 89, 0]


def test_jpeg_is_pillows_at_the_authors_quality():
    stream = io.BytesIO()
    Image.fromarray(random_image().permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=15)
    expected = torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)
    assert torch.equal(corrupt(random_image(), "jpeg", 3, 0), expected)


def test_pixelate_leaves_blocks():
    blocks = corrupt(random_image(64, 48), "pixelate", 5, 0)
    expected = blocks[:, ::4, ::4].repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    assert torch.equal(blocks, expected)
    assert len(blocks.flatten(1).unique(dim=1)[0]) <= 16 * 12


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (3, 200), (2, 2)])
def test_small_and_narrow_pictures_go_too(name, size):
    assert corrupt(random_image(*size), name, 5, 0).shape == (3, *size)
