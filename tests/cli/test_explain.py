"""Every field says what it takes, in the words of the class that takes it."""

from __future__ import annotations

import pytest

from tests.conftest import REPOSITORY
from thawline.cli.explain import fields
from thawline.errors import nearest


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        (
            "dataset.n_per_class",
            [
                (
                    "dataset.n_per_class: a whole number or null, at least 1; default null (not of coco, "
                    "coco_instances, instance_folder, mask_folder, multi_hot_csv, number_csv, pet_segmentation, "
                    "voc_boxes, voc_segmentation, yolo)"
                ),
                "  Training images kept of each class; null keeps all",
            ],
        ),
        (
            "loss.label_smoothing",
            [
                "loss.label_smoothing: a number, at least 0, less than 1; default 0",
                "  `label_smoothing` mixes a class with the uniform distribution",
            ],
        ),
        (
            "head=mlp",
            [
                "head=OPTION",
                "  mlp  Hidden layers, then a linear layer.",
                "head.hidden: a list of a whole number; default [512]",
                "  width of each hidden layer",
            ],
        ),
    ],
)
def test_a_field_says_its_type_bounds_default_and_meaning(thawline, path, lines):
    for command in (("explain", path), ("train", "--help", path) if "=" not in path else ("explain", path)):
        result = thawline(*command)
        assert (result.status, result.err) == (0, "")
        assert result.out.splitlines()[: len(lines)] == lines


def test_a_field_that_does_not_exist(thawline):
    assert thawline("explain", "n_per_clas").err == (
        "error: there is no field or group 'n_per_clas'; nearest: dataset.n_per_class\n"
    )
    assert thawline("explain", "lr").err == "error: there is no field or group 'lr'; nearest: optimizer.lr\n"


def test_the_page_of_all_fields_is_up_to_date(thawline):
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert thawline("explain", "--markdown").out == page, "thawline explain --markdown > docs/configuration.md"


def test_every_written_field_is_explained(thawline):
    """The fields of the default configuration, as Hydra composes it."""
    import yaml

    composed = yaml.safe_load(thawline("train", "--cfg", "job").out)
    known = {field.path for field in fields()}
    for group, node in composed.items():
        if isinstance(node, dict) and group not in ("regularizer", "shift"):
            assert {f"{group}.{name}" for name in node if name != "_target_"} <= known
        elif node is not None and not isinstance(node, dict):
            assert group in known


def test_what_was_refused_is_not_suggested():
    assert nearest("sgd", ["sgd", "SGD", "adamw"]) == "; nearest: SGD"
    assert nearest("sgd", ["sgd"]) == ""
