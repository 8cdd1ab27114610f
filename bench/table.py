"""Markdown tables of what was measured."""

from __future__ import annotations

import os
import platform
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.suite import Line, Sheet

MIB = 1 << 20


def number(value: float) -> str:
    """Three digits that count.

    >>> number(5_312_345), number(231.44), number(0.01234), number(0)
    ('5,310,000', '231', '0.0123', '0')
    """
    if value == 0:
        return "0"
    digits = 3 - 1 - _exponent(value)
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, digits)}f}"


def _exponent(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])


def render(sheet: Sheet) -> str:
    """One workload as Markdown."""
    workload = sheet.workload
    heads = ["", workload.unit, "min–max", "× limit", *workload.extra, "wall s", "CPU s", "peak MB", "items"]
    out = [f"## {workload.title}", "", workload.about, "", _line(heads), _line(["---"] + ["--:"] * (len(heads) - 1))]
    out += [_line(_cells(sheet, line, len(heads))) for line in sheet.lines]
    return "\n".join(out) + "\n"


def _cells(sheet: Sheet, line: Line, width: int) -> list[str]:
    name = f"**{line.row.name}**" if line.row.toml else line.row.name
    if line.problem or not line.figures:
        return [name, line.problem.replace("|", "/").replace("\n", " ") or "not run", *[""] * (width - 2)]
    ratios = sheet.ratios(line)
    return [
        name,
        number(statistics.median(line.figures)),
        f"{number(min(line.figures))}–{number(max(line.figures))}",
        f"{statistics.median(ratios):.2f}" if ratios else "",
        *(number(line.median(lambda each, of=value: of(each, line.count))) for value in sheet.workload.extra.values()),
        number(line.median(lambda each: each.wall)),
        number(line.median(lambda each: each.cpu)),
        number(line.median(lambda each: each.peak) / MIB),
        f"{line.count:,}",
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine(rounds: int) -> str:
    """What it was measured on."""
    return (
        f"Python {platform.python_version()}, Linux, {os.cpu_count()} cores; median of {rounds}, contenders in turn, "
        "each in a fresh process; × limit: the figure divided by the limit row's of the same round.\n"
    )
