"""What `runner resume` says of a run that has nothing left to go on with, and of one that never had."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from runner.errors import LedgerRefused
from runner.store import records, run_folders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_DURABLE = "durable = true"


def select_durable_run(state: Path, run: str) -> Path:
    """Return the folder of the run that is meant, which has a ledger, or had one until it ended well.

    UsageError: there is none, and which there are; LedgerRefused: it was not durable.
    """
    from runner.store.durable_folder import resumable_runs

    known = resumable_runs(state)
    if run and not run.startswith("last") and not any(name.startswith(run) for name in known):
        recorded = [name for name in records.recorded_runs(state) if name.startswith(run)]
        if len(recorded) == 1:
            return _ended_well(state / "runs" / recorded[0])
    return run_folders.select_run(state, known, run, "a ledger to go on with")


def _ended_well(folder: Path) -> Path:
    record = records.read_unchecked(folder / records.RECORD_FILE)
    plan = record.get("plan")
    resolved = plan.get("resolved") if isinstance(plan, dict) else None
    if not isinstance(resolved, str) or _DURABLE not in resolved.splitlines():
        raise LedgerRefused(f"run {folder.name} was not durable: it has no ledger to go on with")
    if record.get("exit_code") is None:
        raise LedgerRefused(f"run {folder.name} has no ledger to go on with")
    return folder


def leave_ended_run(
    folder: Path, outcome: str, *, dead_ok: bool, document: Callable[[str], None] | None, others: bool
) -> NoReturn:
    """Say how a run had ended that has nothing left, and end as it had; `outcome` is what its ledger notes of that.

    `others`: name the last run that does have something left.
    """
    from runner.cli.listing import describe_outcome_of, resume_command
    from runner.store.durable_folder import last_unfinished_run
    from runner.supervisor.outcome import EXIT_DEAD

    record = records.read_unchecked(folder / records.RECORD_FILE)
    state, code = folder.parents[1], record.get("exit_code")
    if outcome or not isinstance(code, int):  # of an ended run the ledger knows more than its record
        code = EXIT_DEAD if outcome and "+ 0 dead " not in outcome else 0
    lines = [f"nothing is left of run {folder.name} to go on with: it has ended"]
    if others and (other := last_unfinished_run(state, {})) is not None:
        lines.append(f"another run has something left: {resume_command(state, other)}")
    sys.stderr.write("\n".join([*lines, outcome or describe_outcome_of(record), ""]))
    if document is not None:
        shown = {key: value for key, value in record.items() if key != "series"}
        document(json.dumps(shown or {"run": folder.name, "exit_code": code}, indent=2))
    raise typer.Exit(0 if dead_ok and code == EXIT_DEAD else code)


def describe_ended_run(folder: Path) -> tuple[int | None, str]:
    """Return the exit code of a run that goes on no more, None where it has left none, and its end in words."""
    from runner.cli.listing import describe_outcome_of, resume_command
    from runner.report.record import describe_exit_code
    from runner.store.ledger_file import LEDGER_FILE
    from runner.store.ledger_summary import summarize_ledger

    record = records.read_unchecked(folder / records.RECORD_FILE)
    code = record.get("exit_code")
    text = f"run {folder.name} has ended without a word: it was killed, or its record was not kept"
    if isinstance(code, int):
        text = f"run {folder.name} {describe_exit_code(code)} (exit {code})  {describe_outcome_of(record)}"
    if (folder / LEDGER_FILE).exists():
        ledger = summarize_ledger(folder)
        if ledger is not None and ledger.holder is None and not ledger.is_complete:
            text += f"\ngo on with it: {resume_command(folder.parents[1], folder.name)}"
    return code if isinstance(code, int) else None, text
