"""`runner report`: what happened in a run, from its record or its events. Runs and imports nothing of the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.cli import artifacts
    from runner.report.record import RunRecord

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="[RUN]",
        help="A run's id, or the beginning of one; `last~1` is the one before the last. Default: the last run.",
    ),
]
StateOption = Annotated[Path, typer.Option("--state", metavar="FOLDER", help="Where runs are kept (`state` in [run]).")]
DEFAULT_STATE = Path(".runner")


def report(
    run: RunArgument = "last",
    state: StateOption = DEFAULT_STATE,
    events: Annotated[
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Option("--events", metavar="FILE", help="Of the run whose events are in this file (`run --events`)."),
    ] = None,
    html: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--html", metavar="FILE", help="Write the page there; `-` is standard output."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    compare: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--compare", metavar="RUN", help="Show the differences from this earlier run."),
    ] = None,
    trace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--trace", metavar="FILE", help="Write what each worker did as a trace, for Perfetto."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write the record, or the comparison, as JSON.")] = False,
) -> None:
    """Say what happened in a run: as a page, a trace, JSON, or compared with another run.

    Without options it writes the page beside the run's record, and prints where that is.

    Examples:
      runner report --open

      runner report --html thumbs.html --compare last~1

      runner report --trace trace.json

      runner report --events events.jsonl --json
    """
    from runner.cli import artifacts
    from runner.cli.json_stdout import claim_stdout

    _refuse_two(html, trace, as_json=as_json)
    document = claim_stdout() if as_json else None
    record = record_of_events(events) if events is not None else find_record(state, run)
    before = None if compare is None else find_record(state, compare)
    if document is not None and before is None:
        from runner.report.journal import dump_json

        document(dump_json(record))
    elif before is not None and html != "-":
        artifacts.write_comparison(before, record, document)
    if trace is not None:
        artifacts.write_trace(record, trace)
    if show or html is not None or not (as_json or trace is not None or before is not None):
        artifacts.write_page(record, before, html or _default_page(state, run, events), show=show)


def _refuse_two(html: str | None, trace: str | None, *, as_json: bool) -> None:
    if [html == "-", trace == "-", as_json].count(True) > 1:
        raise UsageError("standard output takes only one of --html -, --trace - and --json")


def _default_page(state: Path, run: str, events: str | None) -> str | artifacts.BesideRecord:
    """Beside the run's record, or beside the events; it goes when the record goes."""
    from runner.cli import artifacts
    from runner.store import records

    if events is not None:
        return str(Path(events).with_suffix(".html"))
    return artifacts.BesideRecord(state, records.find_record(state, run).parent.name)


def find_record(state: Path, run: str) -> RunRecord:
    """Return the record of a run: `last`, `last~1`, an id, or the beginning of one. UsageError says what there is."""
    from runner.report.record import parse_record
    from runner.store import records

    path = records.find_record(state, run)
    return parse_record(records.read_record(path), str(path))


def record_of_events(path: str) -> RunRecord:
    """Return the record of the run whose events are in a file."""
    from runner.report import journal
    from runner.report.record_builder import RecordBuilder

    fold = RecordBuilder()
    for event in journal.read(path):
        fold.handle_event(event)
    return fold.build_record()
