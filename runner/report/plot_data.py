"""The data that a page draws and the tables beside it: small, whatever the run's length and however many its workers.

A worker's states are written as text, six signs for each interval (how far each state reaches, in twelfths, the ones
before it included) and a dot for an interval that is as the one before it.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from math import ceil, isfinite, log2
from typing import TYPE_CHECKING, Any

from runner.events import STATES
from runner.text import printable_text, time_or_empty

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from runner.events import TaskSummary
    from runner.report.record import RunRecord, Series

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


def build_plots(record: RunRecord) -> dict[str, Any]:
    """Return everything that is drawn, for JSON."""
    series = record.series
    width = ceil((len(series.done) + len(series.queues)) * len(series.at) / _MOST_POINTS) or 1
    return {
        "at": [round(at, 3) for at in series.at],
        "every": width,
        "rates": throughput_plot(record, width),
        "fill": queue_fill_plot(record, width),
        "timeline": timeline_rows(series),
        "times": item_times_plot(record.tasks),
    }


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


def timeline_rows(series: Series) -> list[dict[str, Any]]:
    """Return a row for each worker, or for a few neighbours of one task when there are too many."""
    count = sum(len(workers) for workers in series.workers.values())
    together = ceil(count / MAX_TIMELINE_ROWS) or 1
    weights = [end - before for before, end in itertools.pairwise((0.0, *series.at))]
    rows = []
    for task, workers in series.workers.items():
        for start in range(0, len(workers), together):
            part = list(workers)[start : start + together]
            name = part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"
            each_interval = zip(*(workers[one] for one in part), strict=False)
            rows.append((task, name, [_mean_shares(shares, [1.0] * len(shares)) for shares in each_interval]))
    width = ceil(len(rows) * len(series.at) / _MOST_CELLS) or 1
    starts = range(0, len(series.at), width)
    return [
        {
            "task": printable_text(task),
            "name": printable_text(name),
            "every": width,
            "cells": encode_cells(
                _mean_shares(shares[start : start + width], weights[start : start + width]) for start in starts
            ),
        }
        for task, name, shares in rows
    ]


def _mean_shares(shares: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, ...]:
    total = sum(weights) or 1.0
    return tuple(
        sum(share * weight for share, weight in zip(column, weights, strict=True)) / total
        for column in zip(*shares, strict=True)
    )


def encode_cells(shares: Iterable[Sequence[float]]) -> str:
    """Write one row as text.

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
