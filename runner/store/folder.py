"""The folder of a project's runs: who may read it, and where each run's own files are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def make(state: Path, run: str) -> Path:
    """The folder of one run, made where it is missing: for its owner alone, and not for version control."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = state / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="ascii")
    folder = state / "runs" / run
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def having(state: Path, *files: str) -> list[str]:
    """The runs that have left one of these files, the oldest first."""
    when: dict[str, float] = {}
    for file in files if state.is_dir() else ():
        for path in (state / "runs").glob(f"*/{file}"):
            when[path.parent.name] = max(when.get(path.parent.name, 0.0), path.stat().st_mtime)
    return sorted(when, key=lambda run: (when[run], run))


def one(state: Path, known: Sequence[str], run: str, what: str) -> Path:
    """The folder of a run among those `known`: `last`, `last~1` (the one before it), an id, or how one begins.

    UsageError says what there is.
    """
    if not known:
        raise UsageError(f"no run in {state} has {what}")
    last, _, back = run.partition("~")
    if last == "last" and (back or "0").isdecimal() and len(back) < 10:
        if int(back or 0) >= len(known):
            raise UsageError(f"`{run}`: only {len(known)} in {state} {'has' if len(known) == 1 else 'have'} {what}")
        return state / "runs" / known[-1 - int(back or 0)]
    matching = [name for name in known if name == run] or [name for name in known if name.startswith(run)]
    if len(matching) != 1:
        listed = ", ".join(known[-10:])
        why = "is the beginning of several" if matching else "is none of them"
        raise UsageError(f"runs with {what}: {listed}; `{run}` {why}")
    return state / "runs" / matching[0]
