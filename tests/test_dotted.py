"""Nested mappings by dotted names."""

from __future__ import annotations

from thawline.dotted import dotted, leaves

CONFIG = {"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "regularizer": {}, "seed": None}


def test_every_value_has_its_name_and_a_mapping_comes_before_what_is_in_it():
    assert [name for name, _ in dotted(CONFIG)] == [
        "optimizer", "optimizer.lr", "optimizer.betas", "regularizer", "seed",
    ]  # fmt: skip


def test_leaves_hold_no_others_and_an_empty_mapping_is_one():
    assert dict(leaves(CONFIG)) == {
        "optimizer.lr": 0.1, "optimizer.betas": [0.9, 0.99], "regularizer": {}, "seed": None,
    }  # fmt: skip
