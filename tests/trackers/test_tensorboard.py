"""TensorBoard shows the rows of the record."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import records


def test_every_number_of_the_history_is_a_curve(train):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = train("logger=tensorboard")
    (folder,) = records()
    shown = EventAccumulator(str(folder / "tensorboard"))
    shown.Reload()
    numbers = {name for row in record.history for name, value in row.items() if isinstance(value, int | float)}
    assert {"val_top1", "train_loss"} <= {name.replace("/", "_") for name in numbers}
    for name in numbers:
        points = [(point.step, point.value) for point in shown.Scalars(name)]
        assert points == [(row["epoch"], float(np.float32(row[name]))) for row in record.history if name in row]
