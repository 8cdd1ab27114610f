"""After a power cut at any moment the ledger is what it was after a transaction, and none that was kept is lost."""

from __future__ import annotations

import errno
from itertools import count
from typing import TYPE_CHECKING

import power_cuts
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

IMAGES = 50


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 22))])
def test_a_power_cut_leaves_a_transaction_that_was_kept_or_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    power_cuts.check_cuts(tmp_path, monkeypatch, seed, IMAGES)


@pytest.mark.slow
def test_a_kill_before_any_operation_leaves_what_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    power_cuts.check_kills(tmp_path, monkeypatch, 1)


def failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: Iterable[int], error: int) -> int:
    """Let each of these operations fail in a run of its own; return the first number that nothing has."""
    for number in numbers:
        if not power_cuts.check_failure(tmp_path / f"{number}", monkeypatch, number, error, steps=10, lives=2):
            return number
    return 0


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_once_leaves_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    assert not failures(tmp_path, monkeypatch, range(2, 130, 9), error)


@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_whichever_operation_fails_what_was_kept_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    assert failures(tmp_path, monkeypatch, count(1), error) > 100
