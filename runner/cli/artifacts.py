"""Files made of a run's record: its page, its trace, its difference from another run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runner.errors import UsageError
from runner.structs import dataclass
from runner.text import printable_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.report.record import RunRecord
    from runner.supervisor import Plan


@dataclass(frozen=True, slots=True)
class BesideRecord:
    """The default place of a run's page: beside its record, in a folder of its owner alone."""

    state: Path
    run: str

    def __str__(self) -> str:
        from runner.store import records

        return str(self.state / "runs" / self.run / records.PAGE_FILE)


def write_file(text: str, to: str | BesideRecord) -> str:
    """Write a file whole or not at all, readable by its owner only; `-` is standard output. Returns its path."""
    if isinstance(to, BesideRecord):
        from runner.store import records

        records.write_page(to.state, to.run, text)
        return str(to)
    if to == "-":
        sys.stdout.flush()
        shown = printable_text(text) if sys.stdout.isatty() else text
        # A page says that it is UTF-8, whatever the terminal is.
        sys.stdout.buffer.write(shown.encode("utf-8", "backslashreplace"))
        return to
    from runner.store import run_folders

    path = Path(to)
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a device or a pipe
            return to
        run_folders.replace_path(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(f"{to}: {error.strerror or error}") from None
    return to


def write_page(record: RunRecord, before: RunRecord | None, to: str | BesideRecord, *, show: bool = False) -> None:
    """Write the page of a run, and say where it is; `show` it in a browser."""
    from runner.report.page import render_page

    if show and to == "-":
        raise UsageError("--open wants a file: --html FILE")
    path = write_file(render_page(record, before), to)
    if path == "-":
        return
    print(path)
    if show:
        import webbrowser

        if not webbrowser.open(Path(path).resolve().as_uri()):
            sys.stderr.write(f"no browser could be started; open {path}\n")


def choose_page_target(plan: Plan, html: str | None, *, report: bool) -> str | BesideRecord | None:
    """Return where the page of a run is to be, if anywhere; UsageError, before the run, if that is not possible."""
    if html is None and not report:
        return None
    if html is None:
        if not plan.settings.record:
            raise UsageError("--report writes beside the run's record, and none is kept: say where, with --html FILE")
        return BesideRecord(plan.settings.state, plan.run_id)
    if html == "-":
        raise UsageError("--html - : standard output is for what the tasks print; name a file")
    if not Path(html).parent.is_dir():
        raise UsageError(f"{html}: the folder {Path(html).parent} does not exist")
    return html


def write_trace(record: RunRecord, to: str) -> None:
    """Write a run's trace, and say where it is."""
    from runner.report.trace import trace_json as text

    if write_file(text(record), to) != "-":
        print(to)


def write_comparison(before: RunRecord, after: RunRecord, document: Callable[[str], None] | None) -> None:
    """Print what is different; or write it as JSON, with `document`."""
    from runner.report import compare

    found = compare.compare_records(before, after)
    if document is None:
        print(compare.comparison_text(found))
    else:
        document(json.dumps(compare.comparison_as_json(found), indent=2))
