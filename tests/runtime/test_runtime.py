"""Stopping from outside, and what is measured of the process."""

from __future__ import annotations

import os
import signal

import psutil
import pytest
import torch

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


def test_the_peak_of_memory_is_in_bytes_and_that_of_the_device(monkeypatch):
    """A GPU that an earlier run of this process has used says nothing of a run on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 7)
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < peak_memory_bytes(torch.device("cpu")) < psutil.virtual_memory().total
    assert peak_memory_bytes(torch.device("cuda", 0)) == 7
