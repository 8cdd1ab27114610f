"""`runner report`: what happened in a run, from its record or its events. Runs and imports nothing of the project."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from runner.cli.shared_options import DEFAULT_STATE, RunArgument, StateOption, complete_run
from runner.cli.streams import claim_stdout
from runner.errors import UsageError
from runner.store import records, run_folders
from runner.text import printable_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.report.record import RunRecord
    from runner.supervisor.plan import Plan


def report(
    run: RunArgument = "last",
    state: StateOption = DEFAULT_STATE,
    events: Annotated[
        str | None, Option(metavar="FILE", help="Of the run whose events are in this file (`run --events`).")
    ] = None,
    html: Annotated[str | None, Option(metavar="FILE", help="Write the page there; `-` is standard output.")] = None,
    show: Annotated[bool, Option("--open", help="Open the page in the browser.")] = False,
    compare: Annotated[
        str | None,
        Option(metavar="RUN", help="Show the differences from this earlier run.", autocompletion=complete_run),
    ] = None,
    trace: Annotated[
        str | None, Option(metavar="FILE", help="Write what each worker did as a trace, for Perfetto.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Write the record, or the comparison, as JSON.")] = False,
) -> None:
    """Say what happened in a run: as a page, a trace, JSON, or compared with another run.

    Without options it writes the page beside the run's record, and prints where that is.

    Examples:
      runner report --open

      runner report --html thumbs.html --compare last~1

      runner report --trace trace.json

      runner report --events events.jsonl --json
    """
    if [html == "-", trace == "-", as_json].count(True) > 1:
        raise UsageError("standard output takes only one of --html -, --trace - and --json")
    if show and html == "-":
        raise UsageError("--open wants a file: --html FILE")
    document = claim_stdout() if as_json else None
    record = record_of_events(events) if events is not None else find_record(state, run)
    before = None if compare is None else find_record(state, compare)
    if before is not None and html != "-":
        from runner.report.compare import compare_records, comparison_as_json, comparison_text

        found = compare_records(before, record)
        if document is None:
            print(comparison_text(found))
        else:
            document(json.dumps(comparison_as_json(found), indent=2))
    elif before is None and document is not None:
        from runner.report.journal import dump_json

        document(dump_json(record))
    if trace is not None:
        from runner.report.trace import trace_json

        if write_file(trace_json(record), trace) != "-":
            print(trace)
    if show or html is not None or not (as_json or trace is not None or before is not None):
        from runner.report.page import render_page

        beside = "" if events is None else str(Path(events).with_suffix(".html"))
        _write_page(render_page(record, before), html or beside, state, run, show=show)


def _write_page(page: str, to: str, state: Path, run: str, *, show: bool) -> None:
    """Write the page of a run, beside its record if not `to` another place; say where it is, and `show` it."""
    path = write_file(page, to) if to else records.write_page(state, records.find_record(state, run).parent.name, page)
    if path != "-":
        print(path)
    if show:
        import webbrowser

        if not webbrowser.open(Path(path).resolve().as_uri()):
            sys.stderr.write(f"no browser could be started; open {path}\n")


def find_record(state: Path, run: str) -> RunRecord:
    """Return the record of a run: `last`, `last~1`, an id, or the beginning of one. UsageError says what there is."""
    from runner.report.record import parse_record

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


def choose_page_writer(plan: Plan, html: str | None) -> Callable[[str], str]:
    """Return what writes the page of a run; UsageError, before the run, if that is not possible."""
    if html is None:
        if not plan.settings.record:
            raise UsageError("--report writes beside the run's record, and none is kept: say where, with --html FILE")
        return partial(records.write_page, plan.settings.state, plan.run_id)
    if html == "-":
        raise UsageError("--html - : standard output is for what the tasks print; name a file")
    if not Path(html).parent.is_dir():
        raise UsageError(f"{html}: the folder {Path(html).parent} does not exist")
    return partial(write_file, to=html)


def write_file(text: str, to: str) -> str:
    """Write a file whole or not at all, readable by its owner only; `-` is standard output. Returns its path."""
    if to == "-":
        sys.stdout.flush()
        shown = printable_text(text) if sys.stdout.isatty() else text
        # A page says that it is UTF-8, whatever the terminal is.
        sys.stdout.buffer.write(shown.encode("utf-8", "backslashreplace"))
        return to
    path = Path(to)
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a device or a pipe
        else:
            run_folders.replace_path(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(f"{to}: {error.strerror or error}") from None
    return to
