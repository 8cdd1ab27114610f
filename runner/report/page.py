"""A run's record as one HTML file that needs nothing else: no network, no other file, and nothing of it is code
but what ships with runner.

    record ──▶ figures, plots, graph ──▶ assets/report.html.jinja ──▶ one file
                                          report.css, report.js, uPlot (drawn with, on a canvas)

Who does what: `_Text` shows foreign text as it is, without what steers a reader's eye (bidi marks, control characters);
Jinja escapes it for HTML; data for the plots is JSON in which no tag can end; and should all of that fail, the policy
in the page's head lets a browser load nothing and run only the two scripts whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import astuple, replace
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from runner.error_text import item_name
from runner.report import plot_data
from runner.report.compare import compare_records
from runner.report.graph import diagram_of_run, to_text
from runner.report.graph_svg import SVG_STYLE, DiagramTooLarge, to_svg
from runner.text import (
    count_with_noun,
    cut_middle,
    format_duration,
    format_percentage,
    format_rate,
    printable_text,
    size_or_empty,
    time_or_empty,
)

if TYPE_CHECKING:
    from runner.report.record import FailureGroup, RunRecord

#: So much text of each kind goes into a page; with the plots and the program it stays below a megabyte.
_MOST_TRACEBACKS = 320_000
_MOST_RESOLVED = 80_000
_MOST_SHOWN, _MOST_WORKERS = 100, 200
#: Ends of a run by its exit code; none of a run that goes on, or whose runner was killed.
_MEANING: dict[int | None, tuple[str, str]] = {
    None: ("warn", "going on, or was killed"),
    0: ("ok", "ended well"),
    1: ("bad", "failed"),
    4: ("warn", "ended, and some items are dead"),
    5: ("bad", "stopped: too many items were dead"),
    70: ("bad", "a fault of runner's own"),
    124: ("bad", "stopped by its deadline"),
    130: ("warn", "stopped by Ctrl-C"),
    143: ("warn", "stopped by SIGTERM"),
}
_WAITS = {
    "starting": "starting",
    "item": "waiting for an item",
    "executing": "executing",
    "encoding": "encoding",
    "room": "waiting for room",
    "turn": "waiting for its turn",
    "ended": "ended",
}


def render_page(record: RunRecord, before: RunRecord | None = None) -> str:
    """Write the page of a run; with a comparison when there is another run to compare with."""
    scripts = (_read_asset("uPlot.iife.min.js"), _read_asset("report.js"))
    style = "\n".join((_read_asset("uPlot.min.css"), SVG_STYLE, _read_asset("report.css")))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src {' '.join(_script_hash(script) for script in scripts)}; style-src {_script_hash(style)}"
    )
    drawn = plot_data.build_plots(record)
    results = [(task.name, worker, text) for task in record.tasks for worker, text in task.results.items()]
    view = {
        "record": record,
        "lines": bool(drawn["rates"] or drawn["fill"]),
        "status": _MEANING.get(record.exit_code, ("bad", f"ended with exit code {record.exit_code}")),
        "began": _local_time(record.began),
        "picture": _draw_picture(record) if record.plan.tasks else "",
        "plots": {**drawn, "states": _WAITS},
        "over_time": plot_data.over_time_table(record),
        "stacked": plot_data.STACKED_STATES,
        "workers": [(task, worker, sum(astuple(worker.spent))) for task in record.tasks for worker in task.workers][
            :_MOST_WORKERS
        ],
        "failures": _shown_failures(record.failures),
        "results": [(task, worker, fit_escaped(text, 1000)) for task, worker, text in results[:_MOST_SHOWN]],
        "resolved": fit_escaped(record.plan.resolved, _MOST_RESOLVED),
        "moments": [replace(moment, text=fit_escaped(moment.text, 600)) for moment in record.moments[:_MOST_SHOWN]],
        "comparison": None if before is None else compare_records(before, record),
        "bounds": {queue.name: queue for queue in record.plan.queues},
    }
    return str(_page_template().render(policy=policy, scripts=scripts, style=style, **view))


def _draw_picture(record: RunRecord) -> str:
    """Draw the graph with its counts; or write lines, when it is too large for a picture."""
    graph = diagram_of_run(record)
    try:
        return to_svg(graph, alone=False)
    except DiagramTooLarge:
        return f"<pre>{escape(to_text(graph))}</pre>"


@cache
def _page_template() -> Any:
    import jinja2  # 60 ms, for a page only

    environment = jinja2.Environment(
        autoescape=True,
        finalize=_printed_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters |= {
        "duration": format_duration,
        "number": count_with_noun,
        "span": time_or_empty,
        "size": size_or_empty,
        "share": format_percentage,
        "rate": format_rate,
        "quantiles": plot_data.time_quantiles,
    }
    return environment.from_string(_read_asset("report.html.jinja"))


def _printed_value(value: Any) -> Any:
    """Return what a template prints: foreign text made safe, numbers in groups of thousands."""
    if isinstance(value, str):
        return value if hasattr(value, "__html__") else printable_text(value)
    return f"{value:,}" if isinstance(value, int) else value


def _read_asset(name: str) -> str:
    return (files("runner.report") / "assets" / name).read_text(encoding="utf-8")


def _script_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _local_time(seconds: float) -> datetime | None:
    """Return a time of day; None for one that no clock shows, in a record that another program has written."""
    try:
        return datetime.fromtimestamp(seconds).astimezone() if seconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def _shown_failures(groups: tuple[FailureGroup, ...]) -> list[FailureGroup]:
    """Return the first groups, each text within its share of the page, and the first item with its value."""
    shown = groups[:_MOST_SHOWN]
    most = min(16_000, _MOST_TRACEBACKS // max(1, len(shown)))
    return [
        replace(
            group,
            first_item=group.first_item and item_name(group.preview, group.first_item, 60),
            error=fit_escaped(group.error, 600),
            traceback=fit_escaped(group.traceback, most),
            preview=fit_escaped(group.preview, 400),
        )
        for group in shown
    ]


def fit_escaped(text: str, most: int) -> str:
    """Cut foreign text to at most `most` characters of the page: what is escaped takes several."""
    from markupsafe import escape

    text = printable_text(cut_middle(text, most, most // 4))
    while len(text) > 80 and (taken := len(escape(text))) > most:
        shorter = int(len(text) * most / taken) - 40
        text = cut_middle(text, shorter, shorter // 4)  # a traceback's last lines say what has happened
    return text
