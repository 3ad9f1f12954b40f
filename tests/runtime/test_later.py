"""What another library imports for what is not used is imported when it is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from thawline.runtime.later import imported_later

HEAVY = """
class Model:
    def __init__(self, size):
        self.size = size

    @classmethod
    def of_size(cls, size):
        return cls(size)
"""
USER = """
from heavy_models import Model


def build(size) -> Model:
    return Model.of_size(size)


def is_model(value, kind: type[Model] | None = None):
    return isinstance(value, Model)
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    (tmp_path / "heavy_models.py").write_text(HEAVY)
    (tmp_path / "user_of_models.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("heavy_models", "user_of_models"):
        sys.modules.pop(name, None)


def test_a_class_is_imported_when_it_is_used(packages):
    with imported_later("heavy_models"):
        user_of_models = import_module("user_of_models")
    assert "heavy_models" not in sys.modules
    made = user_of_models.build(3)
    heavy_models = import_module("heavy_models")
    assert type(made) is heavy_models.Model
    assert made.size == user_of_models.Model(3).size == 3
    assert (user_of_models.is_model(made), user_of_models.is_model(3)) == (True, False)
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = user_of_models.Model.nothing_such


def test_a_library_that_is_there_already_is_left_alone(packages):
    heavy_models = import_module("heavy_models")
    with imported_later("heavy_models"), imported_later("no_such_library"):
        user_of_models = import_module("user_of_models")
    assert user_of_models.Model is heavy_models.Model
    assert "no_such_library" not in sys.modules


@pytest.mark.slow
def test_training_imports_no_language_models_and_metrics_of_texts_work():
    pytest.importorskip("transformers", reason="the extra thawline[lora] is not installed")
    script = """
import sys
import thawline.execution.run, pytorch_lightning, torchmetrics
assert "transformers" not in sys.modules
from torchmetrics.functional.text import bert
from torchmetrics.text import BERTScore
from transformers import AutoTokenizer
assert bert.AutoTokenizer.from_pretrained == AutoTokenizer.from_pretrained
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
