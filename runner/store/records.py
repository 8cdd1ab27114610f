"""Records of past runs: one file each, replaced as a whole, and only so many kept."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from runner.store import folder

if TYPE_CHECKING:
    from pathlib import Path

FILE = "record.json"
#: What else is made of a record, and goes with it.
PAGE = "report.html"


class Records:
    """The record of one run. What the disk refuses is remembered in `trouble`; the run goes on."""

    def __init__(self, state: Path, run: str) -> None:
        self.trouble = ""
        self._state, self._run = state, run

    def write(self, text: str) -> None:
        """Replace the record; whoever reads meanwhile sees the old one or the new one."""
        if self.trouble:
            return
        try:
            path = folder.make(self._state, self._run) / FILE
            new = path.with_suffix(".new")
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
            new.replace(path)
        except OSError as error:
            self.trouble = f"the record of this run cannot be kept in {self._state}: {error.strerror or error}"

    def prune(self, keep: int) -> None:
        """Only the last `keep` runs keep their records; dead letters stay, and so does what is going on."""
        for run in runs(self._state)[: -keep or None]:
            path = self._state / "runs" / run
            if run != self._run and not is_going_on(brief(path / FILE)):
                with contextlib.suppress(OSError):  # another runner may do the same just now
                    for name in (FILE, PAGE):
                        (path / name).unlink(missing_ok=True)
                    path.rmdir()


def runs(state: Path) -> list[str]:
    """The runs that have a record, the oldest first; of runs that began together, by name."""
    return folder.having(state, FILE)


def find(state: Path, run: str = "last") -> Path:
    """The file of a run's record: `last`, an id, or the beginning of one; UsageError says what there is."""
    return folder.one(state, runs(state), run, "a record") / FILE


def brief(path: Path) -> dict[str, Any]:
    """What a record says, unchecked; nothing when it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_going_on(record: dict[str, Any]) -> bool:
    """Whether the process of an unfinished run is still there: the same one, not one that has its number now."""
    if record.get("exit_code") is not None or not isinstance(record.get("pid"), int):
        return False
    import psutil

    try:
        return bool(psutil.Process(record["pid"]).create_time() <= float(record.get("began") or 0.0) + 1.0)
    except (psutil.Error, ValueError, TypeError, OverflowError):
        return False
