"""A run's record as one HTML file that needs nothing else: no network, no other file, and nothing of it is code
but what ships with runner.

    record ──▶ figures, plots, graph ──▶ assets/report.html.jinja ──▶ one file
                                          report.css, report.js, uPlot (drawn with, on a canvas)

Who does what: `_Text` shows foreign text as it is, without what steers a reader's eye (bidi marks, control characters);
Jinja escapes it for HTML; data for the plots is JSON in which no tag can end; and should all of that fail, the policy
in the page's head lets a browser load nothing and run only the two scripts whose hashes it names. A page that is served
while its run goes on may ask its own server for the next one, and nobody else for anything.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
from bisect import bisect_left
from collections import Counter
from dataclasses import astuple, replace
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files
from math import ceil, isfinite, log2
from typing import TYPE_CHECKING, Any

from runner.error_text import item_name
from runner.events import STATES
from runner.report.compare import compare_records
from runner.report.graph import diagram_of_run, to_text
from runner.report.graph_svg import SVG_STYLE, DiagramTooLarge, to_svg
from runner.report.record import describe_exit_code
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
    from collections.abc import Iterable, Mapping, Sequence

    from runner.events import RunLife, TaskSummary
    from runner.report.record import FailureGroup, RunRecord, Series

#: So much text of each kind goes into a page; with the plots and the program it stays below a megabyte.
_MOST_TRACEBACKS = 320_000
_MOST_RESOLVED = 80_000
_MOST_SHOWN, _MOST_WORKERS = 100, 200
#: How the page colours an end; any other is bad.
_RANKS: dict[int | None, str] = {None: "warn", 0: "ok", 4: "warn", 130: "warn", 143: "warn"}
_WAITS = {
    "starting": "starting",
    "item": "waiting for an item",
    "executing": "executing",
    "encoding": "encoding",
    "room": "waiting for room",
    "turn": "waiting for its turn",
    "ended": "ended",
}
#: From the bottom to the top of a worker's row; the rest is `ended`, and stays empty.
STACKED_STATES = ("executing", "encoding", "room", "turn", "item", "starting")
CELL_LEVELS = 12
_SIGNS = "0123456789abc"
_ORDER = tuple(STATES.index(state) for state in STACKED_STATES)
#: More rows than this nobody tells apart, so neighbours share one; and so many intervals in all keep a page small.
MAX_TIMELINE_ROWS = 128
_MOST_CELLS = 32_000
_MOST_POINTS = 16_000
_PER_OCTAVE = 2
#: Rows of the table over time: a longer one is not read.
_TABLE_ROWS = 12
_QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)


def render_page(
    record: RunRecord, before: RunRecord | None = None, *, live: bool = False, goes_on: bool | None = None
) -> str:
    """Write the page of a run; with a comparison when there is another run to compare with.

    `live`: the page is served, and asks its server for the next one whenever there is one. `goes_on`: of a run that has
    not noted its end, if that is known; False: it was killed.
    """
    scripts = (_read_asset("uPlot.iife.min.js"), _read_asset("report.js"))
    style = "\n".join((_read_asset("uPlot.min.css"), SVG_STYLE, _read_asset("report.css")))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"script-src {' '.join(_script_hash(script) for script in scripts)}; style-src {_script_hash(style)}"
    )
    if live:
        policy += "; connect-src 'self'"
    drawn = build_plots(record)
    results = [(task.name, worker, text) for task in record.tasks for worker, text in task.results.items()]
    view = {
        "record": record,
        "live": live,
        "lines": bool(drawn["rates"] or drawn["fill"]),
        "status": _describe_status(record.exit_code, goes_on=goes_on),
        "began": _local_time(record.began),
        "picture": _draw_picture(record) if record.plan.tasks else "",
        "plots": {**drawn, "states": _WAITS},
        "over_time": over_time_table(record),
        "stacked": STACKED_STATES,
        "workers": [(task, worker, sum(astuple(worker.spent))) for task in record.tasks for worker in task.workers][
            :_MOST_WORKERS
        ],
        "nodes": record.nodes[:_MOST_SHOWN],
        "failures": _shown_failures(record.failures),
        "results": [(task, worker, fit_escaped(text, 1000)) for task, worker, text in results[:_MOST_SHOWN]],
        "resolved": fit_escaped(record.plan.resolved, _MOST_RESOLVED),
        "moments": [replace(moment, text=fit_escaped(moment.text, 600)) for moment in record.moments[:_MOST_SHOWN]],
        "comparison": None if before is None else compare_records(before, record),
        "lives": _shown_lives(record.lives),
        "bounds": {queue.name: queue for queue in record.plan.queues},
    }
    return str(_page_template().render(policy=policy, scripts=scripts, style=style, **view))


def _describe_status(code: int | None, *, goes_on: bool | None) -> tuple[str, str]:
    """Return the colour of the badge, and how the run has ended in words."""
    if code is None and goes_on is not None:
        return ("warn", "going on") if goes_on else ("bad", "was killed")
    return _RANKS.get(code, "bad"), describe_exit_code(code)


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
        "quantiles": time_quantiles,
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


def _shown_lives(lives: Sequence[RunLife]) -> list[dict[str, Any]]:
    """Return the rows of the table of lives; none if there is one life."""
    ends = list(itertools.accumulate(life.count for life in lives))
    rows = [
        {
            "number": f"{end:,}" if life.count == 1 else f"{end - life.count + 1:,} to {end:,}",
            "began": _local_time(life.began),
            "done": life.done_before,
            "seconds": life.seconds,
            "end": fit_escaped(life.end, 300),
        }
        for life, end in zip(lives, ends, strict=True)
    ]
    return rows[-_MOST_SHOWN:] if len(rows) > 1 else []


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


def build_plots(record: RunRecord) -> dict[str, Any]:
    """Return everything that is drawn, for JSON."""
    series = record.series
    width = ceil((len(series.done) + len(series.queues)) * len(series.at) / _MOST_POINTS) or 1
    return {
        "at": [round(at, 3) for at in series.at],
        "every": width,
        "lives": life_marks(record),
        "rates": throughput_plot(record, width),
        "fill": queue_fill_plot(record, width),
        "timeline": timeline_rows(series, worker_nodes(record)),
        "times": item_times_plot(record.tasks),
    }


def life_marks(record: RunRecord) -> list[list[float]]:
    """Return where in the run each life but the first began, and the number of that life."""
    ends = itertools.accumulate(life.seconds for life in record.lives)
    counts = itertools.accumulate(life.count for life in record.lives)
    return [[round(at, 3), number + 1] for at, number in zip(ends, counts, strict=True)][:-1]


def task_rates(record: RunRecord, picks: Iterable[int]) -> dict[str, list[float]]:
    """Return the items a second that each task has done (a source: sent) from one picked interval to the next."""
    series, rates = record.series, {}
    takes = {planned.name: bool(planned.inputs) for planned in record.plan.tasks}
    ends = list(picks)
    for name, done in series.done.items():
        sent = series.sent.get(name, ())
        counts = done if takes.get(name, any(done)) or not any(sent) else sent
        points = [(0.0, 0), *((series.at[end], counts[end]) for end in ends)]
        rates[name] = [
            max(0, count - last) / (at - before) if at > before else 0.0
            for (before, last), (at, count) in itertools.pairwise(points)
        ]
    return rates


def throughput_plot(record: RunRecord, width: int = 1) -> list[dict[str, Any]]:
    """Return the items a second of each task that has moved any, over `width` intervals at a time."""
    length = len(record.series.at)
    rates = task_rates(record, (min(start + width, length) - 1 for start in range(0, length, width)))
    return [
        {"name": printable_text(name), "values": [_round_value(rate) for rate in found]}
        for name, found in rates.items()
        if any(found)
    ]


def queue_fill_plot(record: RunRecord, width: int = 1) -> list[dict[str, Any]]:
    """Return the length of each queue: in per cent of its bound, or in items when it has none."""
    bounds = {queue.name: queue.size for queue in record.plan.queues}
    queues = []
    for name, lengths in record.series.queues.items():
        bound = bounds.get(name)
        most = [max(lengths[start : start + width]) for start in range(0, len(lengths), width)]
        values = [_round_value(100 * length / bound) for length in most] if bound else most
        queues.append({"name": printable_text(name), "unit": " %" if bound else "", "values": values})
    return queues


def worker_nodes(record: RunRecord) -> dict[tuple[str, str], str]:
    """Return the machine on which each worker was last, by task and worker; none of those that were here."""
    return {(task.name, worker.name): worker.node for task in record.tasks for worker in task.workers if worker.node}


def timeline_rows(series: Series, nodes: Mapping[tuple[str, str], str] | None = None) -> list[dict[str, Any]]:
    """Return a row for each worker, or for a few neighbours of one task when there are too many.

    Workers on other machines (`nodes`) stand below those that are here, together with those of their machine.
    """
    nodes = nodes or {}
    count = sum(len(workers) for workers in series.workers.values())
    together = ceil(count / MAX_TIMELINE_ROWS) or 1
    weights = [end - before for before, end in itertools.pairwise((0.0, *series.at))]
    groups: dict[str, dict[str, list[str]]] = {}
    for task, workers in series.workers.items():
        for worker in workers:
            groups.setdefault(nodes.get((task, worker), ""), {}).setdefault(task, []).append(worker)
    rows = []
    placed = [(node, task, names) for node, tasks in sorted(groups.items()) for task, names in tasks.items()]
    for node, task, names in placed:
        workers = series.workers[task]
        for start in range(0, len(names), together):
            part = names[start : start + together]
            name = part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"
            each_interval = zip(*(workers[one] for one in part), strict=False)
            shares = [_mean_shares(each, [1.0] * len(each)) for each in each_interval]
            rows.append((node, task, name, shares))
    width = ceil(len(rows) * len(series.at) / _MOST_CELLS) or 1
    starts = range(0, len(series.at), width)
    return [
        {
            "task": printable_text(task),
            "name": printable_text(name),
            **({"node": printable_text(node)} if groups.keys() - {""} else {}),
            "every": width,
            "cells": encode_cells(
                _mean_shares(shares[start : start + width], weights[start : start + width]) for start in starts
            ),
        }
        for node, task, name, shares in rows
    ]


def _mean_shares(shares: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, ...]:
    if len(shares) == 1:  # a page of 64 workers: without it 0.53 s, with it 0.16
        return tuple(shares[0])
    total = sum(weights) or 1.0
    return tuple(
        sum(share * weight for share, weight in zip(column, weights, strict=True)) / total
        for column in zip(*shares, strict=True)
    )


def encode_cells(shares: Iterable[Sequence[float]]) -> str:
    """Write one row as text, six signs for each interval and a dot for one that is as the one before it.

    The signs say how far each state reaches, in twelfths, the ones before it included.

    >>> encode_cells([(0, 0, 1, 0, 0, 0, 0), (0, 0, 1, 0, 0, 0, 0), (0, 0.5, 0.5, 0, 0, 0, 0)])
    'cccccc.6666cc'
    """
    found, last = [], ""
    for share in shares:
        reach, cell = 0.0, ""
        for state in _ORDER:
            reach += share[state]
            cell += _SIGNS[min(CELL_LEVELS, max(0, round(CELL_LEVELS * reach)))]
        found.append("." if cell == last else cell)
        last = cell
    return "".join(found)


def item_times_plot(tasks: Iterable[TaskSummary]) -> dict[str, Any]:
    """Return the times that items took: the share of each task's items in each class, on one grid for all.

    `edges` are the upper edges in seconds, each a half octave above the one before it.
    """
    counts: dict[str, Counter[int]] = {}
    for task in tasks:
        for edge, items in task.times:
            if edge > 0 and isfinite(edge) and items > 0:
                counts.setdefault(task.name, Counter())[ceil(round(log2(edge) * _PER_OCTAVE, 6))] += items
    if not counts:
        return {"edges": [], "tasks": []}
    keys = set().union(*counts.values())
    grid = range(min(keys) - 1, max(keys) + 2)
    return {
        "edges": [_round_value(2.0 ** (key / _PER_OCTAVE)) for key in grid],
        "tasks": [
            {"name": printable_text(name), "values": [_round_value(100 * mine[key] / mine.total()) for key in grid]}
            for name, mine in counts.items()
        ],
    }


def _round_value(value: float) -> float:
    """Return a value with four digits, which are more than a plot shows.

    >>> _round_value(1234567.0), _round_value(0.0123456), _round_value(3.0)
    (1234567, 0.01235, 3)
    """
    short = float(f"{value:.4g}") if abs(value) < 10_000 else round(value)
    return int(short) if short == int(short) else short


def over_time_table(record: RunRecord) -> dict[str, Any]:
    """Return about a dozen moments: what each task did since the one before, how long each queue was."""
    series = record.series
    count = len(series.at)
    picks = sorted({round((count - 1) * step / (_TABLE_ROWS - 1)) for step in range(_TABLE_ROWS)}) if count else []
    rates = task_rates(record, picks)
    rows = [
        {
            "at": series.at[pick],
            "rates": [found[row] for found in rates.values()],
            "lengths": [lengths[pick] for lengths in series.queues.values()],
        }
        for row, pick in enumerate(picks)
    ]
    return {"tasks": list(series.done), "queues": list(series.queues), "rows": rows}


def time_quantiles(task: TaskSummary) -> list[str]:
    """Return the times that a tenth, half, nine tenths, 99 % and all of the items did not exceed."""
    times = sorted(task.times)
    reached = list(itertools.accumulate(items for _, items in times))
    return [time_or_empty(times[bisect_left(reached, share * reached[-1])][0]) for share in _QUANTILES if times]
