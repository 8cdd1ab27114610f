"""How idle the processors were, read from what the kernel counts."""

from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pytest

from runner import linux_only
from runner.supervisor.outcome import ProcessorMeter


@pytest.fixture
def stat(tmp_path, monkeypatch):
    """Say what the kernel has counted: user and idle ticks of each processor."""
    file = tmp_path / "stat"
    monkeypatch.setattr(linux_only, "_STAT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)

    def count(*each):
        lines = [f"cpu{number} {user} 0 0 {idle} 0 0 0 0 7 7" for number, (user, idle) in enumerate(each)]
        file.write_text("\n".join(["cpu 1 2 3 4 5 6 7 8 9 10", *lines, "intr 1 2 3", "cpu9 broken"]) + "\n")

    return count


def test_only_the_processors_count_that_may_be_used(stat):
    stat((0, 0), (0, 0), (0, 0))
    seen = ProcessorMeter()
    stat((100, 0), (0, 100), (50, 50))
    assert seen.idle_share() == 0.25


def test_a_moment_says_nothing(stat):
    stat((0, 0), (0, 0), (0, 0))
    seen = ProcessorMeter()
    stat((5, 5), (0, 0), (5, 4))
    assert seen.idle_share() is None


@pytest.mark.parametrize("text", ["", "cpu0 many words\n", "cpu0 1 2\n", "\n"])
def test_what_cannot_be_read_is_unknown(text, stat, tmp_path):
    stat((0, 0), (0, 0), (0, 0))
    seen = ProcessorMeter()
    (tmp_path / "stat").write_text(text)
    assert seen.idle_share() is None


def test_without_the_file_psutil_tells(monkeypatch, tmp_path):
    seen = []
    for idle, user in ((100.0, 50.0), (101.0, 53.0)):
        seen.append(SimpleNamespace(_asdict=lambda idle=idle, user=user: {"user": user, "idle": idle, "guest": user}))
    monkeypatch.setattr(psutil, "cpu_times", lambda: seen.pop(0))
    monkeypatch.setattr(linux_only, "_STAT", tmp_path / "none")
    assert ProcessorMeter().idle_share() == 0.25
