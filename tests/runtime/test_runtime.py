"""Stopping from outside, and what is measured of the process."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from thawline.runtime import signals
from thawline.runtime.memory import peak_memory_bytes


@pytest.fixture
def _nothing_asked():
    yield
    with signals.listening():
        pass


@pytest.mark.usefixtures("_nothing_asked")
def test_the_second_signal_stops_at_once():
    with signals.listening(), signals.deferring():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested() == signal.SIGTERM
        with pytest.raises(signals.Interrupted, match="SIGUSR1"):
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.usefixtures("_nothing_asked")
def test_outside_of_a_fit_the_first_signal_stops_and_is_not_forgotten():
    with signals.listening():
        with pytest.raises(signals.Interrupted) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert caught.value.exit_status == 143
        with pytest.raises(signals.Interrupted, match="SIGTERM"):
            signals.check()


def test_the_peak_of_memory_is_in_bytes():
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < peak_memory_bytes() < psutil.virtual_memory().total
