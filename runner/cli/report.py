"""`runner report`: what happened in a run, from its record or its events. Runs and imports nothing of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from runner.report.record import Record

Run = Annotated[
    str, typer.Argument(metavar="[RUN]", help="A run's id, or the beginning of one. Default: the last run.")
]
State = Annotated[Path, typer.Option("--state", metavar="FOLDER", help="Where runs are kept (`state` in [run]).")]
DEFAULT_STATE = Path(".runner")


def report(
    run: Run = "last",
    state: State = DEFAULT_STATE,
    events: Annotated[
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Option("--events", metavar="FILE", help="Of the run whose events are in this file (`run --events`)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the record as JSON.")] = False,
) -> None:
    """Say what happened in a run.

    Examples:
      runner report

      runner report last --json

      runner report --events events.jsonl --json
    """
    record = of_events(events) if events is not None else find(state, run)
    if as_json:
        from runner.report.journal import dumps

        print(dumps(record))
        return


def find(state: Path, run: str) -> Record:
    """The record of a run: `last`, an id, or the beginning of one. UsageError says what there is."""
    from runner.report.record import parse
    from runner.store import records

    path = records.find(state, run)
    return parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def of_events(path: str) -> Record:
    """The record of the run whose events are in a file."""
    from runner.report import journal
    from runner.report.fold import Fold

    fold = Fold()
    for event in journal.read(path):
        fold.event(event)
    return fold.record()
