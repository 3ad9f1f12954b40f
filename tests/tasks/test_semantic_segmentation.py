"""Semantic segmentation: losses and metrics by hand, the same over any batches and devices, without ignored pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from thawline.datasets import IGNORE
from thawline.datasets.targets import as_objects
from thawline.errors import UsageError
from thawline.preprocessing import Preprocessing
from thawline.specs import resolve, validate
from thawline.tasks.semantic_segmentation import SemanticSegmentation
from thawline.tasks.targets import Views

CLASSES = ("sky", "road", "tree", "car")


class Resized:
    """Where an image that fills the input lies in it."""

    def __init__(self, original):
        self.original = original

    def maps_to_original(self, maps):
        return F.interpolate(maps[None], self.original, mode="bilinear", align_corners=False)[0]


def target(mask):
    mask = np.asarray(mask, dtype=np.uint8)
    return {"mask": torch.from_numpy(mask), "placement": Resized(mask.shape)}


def logits_for(predicted, size=None):
    """Logits (1, C, H, W) whose largest is that of the class."""
    logits = F.one_hot(torch.tensor(predicted), len(CLASSES)).permute(2, 0, 1).float()[None] * 4.0
    return logits if size is None else F.interpolate(logits, size, mode="nearest")


def random_batch(images, seed=0, height=6, width=5, classes=4):
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(size=(images, classes, height, width)).astype(np.float32)) * 3
    masks = random.integers(classes, size=(images, height, width)).astype(np.uint8)
    masks[random.random(masks.shape) < 0.3] = IGNORE
    return logits, masks


def computed(task, batches, classes=CLASSES):
    metrics = task.metrics(classes)
    for logits, targets in batches:
        metrics.update(logits, targets)
    return {name: float(value) for name, value in metrics.compute().items()}


# Metrics --------------------------------------------------------------------------------------------------------------


def test_intersection_and_union_are_summed_over_the_images():
    task = SemanticSegmentation()
    first = logits_for([[0, 0, 1], [1, 1, 0]]), [target([[0, 1, 1], [1, IGNORE, IGNORE]])]
    second = logits_for([[0, 2, 2], [0, 0, 1]]), [target([[0, 0, 0], [0, 0, IGNORE]])]
    found = computed(task, [first, second])
    # sky: 1 + 3 of (1, 2 predicted) and (5, 3); road: 2 of 2 and 3; tree is predicted twice and nowhere; car never.
    iou = [4 / 7, 2 / 3, 0.0]
    dice = [2 * 4 / (5 + 6), 2 * 2 / (2 + 3), 0.0]
    assert found["mean_iou"] == pytest.approx(sum(iou) / 3, abs=1e-12)
    assert found["dice"] == pytest.approx(sum(dice) / 3, abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(6 / 9, abs=1e-12)
    right = math.log(math.exp(4.0) + 3) - 4.0
    assert found["loss"] == pytest.approx((6 * right + 3 * (right + 4.0)) / 9, rel=1e-6)


def test_logits_are_brought_back_to_the_images_own_pixels():
    mask = np.zeros((4, 8), dtype=np.uint8)
    mask[:, 4:] = 1
    logits = logits_for([[0, 1]], size=(2, 2))  # the left half of the input is sky
    found = computed(SemanticSegmentation(), [(logits, [target(mask)])])
    assert found["mean_iou"] == found["pixel_accuracy"] == 1.0


def test_images_of_different_sizes_go_into_one_batch():
    logits, _ = random_batch(2)
    small, large = target(np.zeros((3, 3))), target(np.ones((9, 7)))
    task = SemanticSegmentation()
    together = computed(task, [(logits, [small, large])])
    assert together == computed(task, [(logits[:1], [small]), (logits[1:], [large])])
    assert task.predictions(logits, [small, large])["truth"].tolist() == [[9, 0, 0, 0], [0, 63, 0, 0]]


def test_uneven_batches_and_two_devices_give_the_same_sums():
    logits, masks = random_batch(7)
    targets = [target(mask) for mask in masks]
    task = SemanticSegmentation()
    whole = computed(task, [(logits, targets)])
    uneven = [(logits[a:b], targets[a:b]) for a, b in ((0, 1), (1, 5), (5, 7))]
    assert computed(task, uneven) == pytest.approx(whole, abs=1e-9)
    devices = [task.metrics(CLASSES), task.metrics(CLASSES)]
    devices[0].update(logits[::2], targets[::2])
    devices[1].update(logits[1::2], targets[1::2])
    states = [{name: getattr(metrics, name) for name in metrics._defaults} for metrics in devices]
    total = task.metrics(CLASSES)
    for name, reduce in total._reductions.items():
        setattr(total, name, reduce(torch.stack([state[name] for state in states])))
    total._update_count = 2
    assert {name: float(value) for name, value in total.compute().items()} == pytest.approx(whole, abs=1e-9)


def test_metrics_equal_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score, jaccard_score, log_loss

    logits, masks = random_batch(5, seed=1)
    counted = masks != IGNORE
    truth = masks[counted]
    by_pixel = logits.permute(0, 2, 3, 1).numpy()[counted]
    predicted = by_pixel.argmax(1)
    found = computed(SemanticSegmentation(), [(logits, [target(mask) for mask in masks])])
    probabilities = np.exp(by_pixel) / np.exp(by_pixel).sum(1, keepdims=True)
    assert found == pytest.approx(
        {
            "mean_iou": jaccard_score(truth, predicted, average="macro"),
            "dice": f1_score(truth, predicted, average="macro"),
            "pixel_accuracy": accuracy_score(truth, predicted),
            "loss": log_loss(truth, probabilities),
        },
        abs=1e-6,
    )


def test_the_record_and_verification_follow_from_what_is_kept_of_each_image():
    task = SemanticSegmentation()
    logits = torch.cat([logits_for([[0, 0, 1], [1, 1, 0]]), logits_for([[0, 2, 2], [0, 0, 1]])])
    targets = [target([[0, 1, 1], [1, IGNORE, IGNORE]]), target([[0, 0, 0], [0, 0, IGNORE]])]
    arrays = {name: value.numpy() for name, value in task.predictions(logits, targets).items()}
    found = computed(task, [(logits, targets)])
    again = task.recomputed(arrays, CLASSES)
    assert again.keys() == found.keys()
    for name, value in found.items():
        assert again[name] == (pytest.approx(value), pytest.approx(value))
    table = task.record_fields(arrays, CLASSES)["per_class"]
    assert table == {
        "sky": {"iou": 4 / 7, "dice": 8 / 11},
        "road": {"iou": 2 / 3, "dice": 4 / 5},
        "tree": {"iou": 0.0, "dice": 0.0},
        "car": {"iou": None, "dice": None},
    }
    assert task.per_output_on_file(arrays, CLASSES) == [2, 1, 0, 0]
    raw = np.array([SimpleNamespace(present=frozenset({0, 1, IGNORE})), SimpleNamespace(present=frozenset({0}))])
    assert task.per_output(raw, CLASSES) == [2, 1, 0, 0]


def test_where_every_pixel_is_ignored_there_is_no_metric():
    ignored = target(np.full((3, 4), IGNORE))
    task = SemanticSegmentation()
    logits = random_batch(1)[0]
    assert all(math.isnan(value) for value in computed(task, [(logits, [ignored])]).values())
    arrays = {name: value.numpy() for name, value in task.predictions(logits, [ignored]).items()}
    assert task.recomputed(arrays, CLASSES) == {}


# Targets ------------------------------------------------------------------------------------------------------------


@dataclass
class Held:
    pixels: np.ndarray

    def read(self):
        return self.pixels


def masks_of(*masks):
    return as_objects([Held(np.asarray(mask, dtype=np.uint8)) for mask in masks])


def fitted(**fields):
    own = Preprocessing(size=(4, 6), interpolation="bilinear", crop_pct=1.0)
    return resolve({"_target_": "thawline.transforms.Transform", **fields}).fitted(own, whole=True)


def test_training_masks_lie_in_the_input_and_move_with_their_image():
    task = SemanticSegmentation()
    left, square = np.zeros((8, 12)), np.full((8, 8), 2)
    left[:, 4:] = 1
    flip = {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip", "p": 1.0}
    padded = Views(fitted(resize="pad"), data_seed=0)
    flipped = Views(fitted(augmentation=[flip]), data_seed=0)
    read = task.training_targets(masks_of(left, square), padded).read(0, np.array([1, 0]))
    # A square of 8 fills 4 of the 6 columns; 12 columns are halved.
    assert read.dtype == torch.int64
    assert read[:, 0].tolist() == [[IGNORE, 2, 2, 2, 2, IGNORE], [0, 0, 1, 1, 1, 1]]
    targets = task.training_targets(masks_of(left), flipped)
    assert targets.placed(0)["mask"][0].tolist() == [0, 0, 1, 1, 1, 1]
    assert targets.read(0, np.array([0]))[0, 0].tolist() == [1, 1, 1, 1, 0, 0]


def test_evaluation_masks_are_the_images_own():
    mask = np.arange(16).reshape(2, 8) % 3
    (found,) = SemanticSegmentation().evaluation_targets(masks_of(mask), fitted(resize="pad")).read(0, np.array([0]))
    assert found["mask"].tolist() == mask.tolist()
    # 8 columns to 6, so 2 rows to 2 of 4: what is predicted above and below the image is not seen.
    logits = logits_for(np.pad([[0, 0, 0, 1, 1, 1]] * 2, ((1, 1), (0, 0)), constant_values=3).tolist())
    counts = SemanticSegmentation().predictions(logits, [found])
    assert counts["predicted"].tolist() == [[8, 8, 0, 0]]
    assert counts["truth"].tolist() == [[6, 5, 5, 0]]


# Losses ---------------------------------------------------------------------------------------------------------------


def by_hand(logits, masks, gamma):
    """The plain cross-entropies and focal losses of counted pixels, and each image's dice loss, by NumPy."""
    logits = logits.double().numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropies, focal, dice = [], [], []
    for image, mask in zip(probabilities, masks, strict=True):
        for y, x in np.argwhere(mask != IGNORE):
            p = image[mask[y, x], y, x]
            entropies.append(-np.log(p))
            focal.append(-((1 - p) ** gamma) * np.log(p))
        counted = mask != IGNORE
        shown = sorted(set(mask[counted].tolist()))
        scores = [2 * image[c][mask == c].sum() / (image[c][counted].sum() + (mask == c).sum()) for c in shown]
        if scores:
            dice.append(1 - np.mean(scores))
    return entropies, focal, dice


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_each_loss_is_its_formula(gamma):
    logits, masks = random_batch(3, seed=2)
    masks[1] = IGNORE
    masks[2][masks[2] == 3] = 0
    entropies, focal, dice = by_hand(logits, masks, gamma)
    task = SemanticSegmentation(cross_entropy=1.0, focal=0.5, dice=2.0, focal_gamma=gamma)
    terms = task.losses(logits, torch.from_numpy(masks).long())
    assert float(terms["cross_entropy"].mean) == pytest.approx(np.mean(entropies), rel=1e-5)
    assert float(terms["focal"].mean) == pytest.approx(0.5 * np.mean(focal), rel=1e-5)
    assert float(terms["dice"].mean) == pytest.approx(2.0 * np.mean(dice), rel=1e-5)
    counted = int((masks != IGNORE).sum())
    assert {name: term.count for name, term in terms.items()} == {"cross_entropy": counted, "focal": counted, "dice": 2}


def test_the_losses_of_uneven_batches_add_up_exactly():
    logits, masks = random_batch(7, seed=3)
    masks[0] = IGNORE
    classes = torch.from_numpy(masks).long()
    task = SemanticSegmentation(dice=1.0, focal=1.0, class_weights=[1, 2, 0.5, 3], label_smoothing=0.1)
    whole = task.losses(logits, classes)
    parts = [task.losses(logits[a:b], classes[a:b]) for a, b in ((0, 1), (1, 2), (2, 7))]
    for name, term in whole.items():
        assert sum(part[name].count for part in parts) == term.count
        total = sum(float(part[name].mean) * part[name].count for part in parts)
        assert total / term.count == pytest.approx(float(term.mean), rel=1e-6)


def test_class_weights_are_factors_on_the_pixels_of_a_class():
    logits, masks = random_batch(2, seed=4)
    weights = (0.0, 1.0, 2.0, 4.0)
    task = SemanticSegmentation(class_weights=weights)
    counted = masks != IGNORE
    log_p = logits.double().log_softmax(1).permute(0, 2, 3, 1).numpy()[counted]
    truth = masks[counted]
    expected = np.mean([-weights[c] * row[c] for c, row in zip(truth, log_p, strict=True)])
    (term,) = task.losses(logits, torch.from_numpy(masks).long()).values()
    assert float(term.mean) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_a_counted_pixel_has_loss_and_gradient_0():
    logits = random_batch(2)[0].requires_grad_()
    task = SemanticSegmentation(dice=1.0, focal=1.0, focal_gamma=0.5)
    terms = task.losses(logits, torch.full((2, 6, 5), IGNORE))
    assert [(float(term.mean.detach()), term.count) for term in terms.values()] == [(0.0, 0)] * 3
    torch.stack([term.mean for term in terms.values()]).sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert float(task.training_scores(logits, torch.full((2, 6, 5), IGNORE))[0]) == 0.0


def test_certain_pixels_have_finite_gradients():
    logits = (logits_for([[0, 1], [2, 3]]) * 100).requires_grad_()
    task = SemanticSegmentation(cross_entropy=0.0, focal=1.0, focal_gamma=0.5)
    (term,) = task.losses(logits, torch.tensor([[[0, 1], [3, IGNORE]]])).values()
    term.mean.backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad[..., 1, 1], torch.zeros(1, 4))


def test_the_loss_of_a_constant_is_log_c_where_it_is_cross_entropy_alone():
    assert SemanticSegmentation(label_smoothing=0.1).constant_loss(CLASSES) == pytest.approx(math.log(4))
    assert SemanticSegmentation(dice=1.0).constant_loss(CLASSES) is None
    assert SemanticSegmentation(class_weights=[1, 1, 1, 9]).constant_loss(CLASSES) is None


def test_what_is_wrong_with_a_loss_is_named():
    for values, said in (
        ({"cross_entropy": 0.0}, "nothing to minimise"),
        ({"class_weights": [1.0, -1.0]}, "task.class_weights"),
        ({"dise": 1.0}, "task.dise: unknown field; nearest: dice"),
    ):
        with pytest.raises(UsageError, match=said):
            validate(SemanticSegmentation, values, "task")
    weighted = SemanticSegmentation(class_weights=(1.0, 2.0))
    with pytest.raises(UsageError, match=r"task\.class_weights: 2 weights for 4 classes"):
        weighted.outputs(CLASSES)
    assert weighted.outputs(("a", "b")) == ("a", "b")


def test_the_training_score_is_the_share_of_right_pixels_of_each_image():
    logits = torch.cat([logits_for([[0, 0, 1], [1, 1, 0]]), logits_for([[0, 2, 2], [0, 0, 1]])])
    classes = torch.tensor([[[0, 1, 1], [1, IGNORE, IGNORE]], [[0, 0, 0], [0, 0, IGNORE]]])
    (score,) = SemanticSegmentation().training_scores(logits, classes)
    assert float(score) == pytest.approx(3 / 4 + 3 / 5)


def test_classes_are_compared_a_few_at_a_time(monkeypatch):
    from thawline.tasks.semantic_segmentation import shown

    logits, _ = random_batch(1, height=7, width=9, classes=5)
    placement = Resized((23, 31))
    expected = placement.maps_to_original(logits[0]).argmax(dim=0).numpy()
    for most in (1, 2 * 23 * 31, 2**24):
        monkeypatch.setattr(shown, "_VALUES_AT_ONCE", most)
        assert np.array_equal(shown.predicted_classes(logits[0], placement), expected)


def test_the_score_of_an_image_is_the_mean_over_the_classes_that_it_shows_or_is_said_to_show():
    predicted = [[[0, 0], [1, 1]], [[3, 3], [3, 3]]]
    truth = [[[0, 1], [1, 1]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]]
    batch = torch.cat([logits_for(mask) for mask in predicted])
    task = SemanticSegmentation()
    kept = task.predictions(batch, [target(mask) for mask in truth])
    scores = task.image_scores({name: value.numpy() for name, value in kept.items()}, CLASSES)
    # sky 1 of 2 pixels, road 2 of 3; the other image has no pixel that counts
    assert scores[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert math.isnan(scores[1])
