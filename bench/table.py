"""What was measured, as Markdown tables and as a picture."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def number(value: float) -> str:
    """Three digits that count.

    >>> number(5_312_345), number(231.44), number(0.01234), number(0)
    ('5,310,000', '231', '0.0123', '0')
    """
    if value == 0 or value != value:
        return "0" if value == 0 else "?"
    digits = 2 - int(f"{abs(value):e}".split("e")[1])
    return f"{round(value, digits):,.{max(0, digits)}f}"


_EFFORTS = ["wall s", "CPU s", "peak MB", "PSS MB", "faults, 1,000", "switches, 1,000"]


def render(sheet: dict[str, Any]) -> str:
    """One workload as Markdown."""
    heads = ["", sheet["unit"], "min–max", "× limit", *sheet["extra"], *_EFFORTS, "items"]
    out = [f"## {sheet['title']}", "", sheet["about"], ""]
    out += [_line(heads), _line(["---"] + ["--:"] * (len(heads) - 1))]
    out += [_line(_cells(line, len(heads))) for line in sheet["lines"]]
    return "\n".join(out) + "\n"


def _cells(line: dict[str, Any], width: int) -> list[str]:
    name = f"**{line['name']}**" if line["runner"] else line["name"]
    if "problem" in line:
        return [name, line["problem"].replace("|", "/").replace("\n", " "), *[""] * (width - 2)]
    return [
        name,
        number(line["figure"]),
        f"{number(min(line['figures']))}–{number(max(line['figures']))}",
        "" if line["ratio"] is None else number(line["ratio"]),
        *(number(value) for value in line["extra"].values()),
        number(line["wall"]),
        number(line["cpu"]),
        number(line["peak"] / MIB),
        number(line["pss"] / MIB) if line.get("pss") else "",
        number(line["faults"] / 1000) if line.get("faults") else "",
        number(line["switches"] / 1000) if line.get("switches") else "",
        f"{line['count']:,}",
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def machine() -> str:
    """What it was measured on, and how to read it."""
    return (
        f"Python {platform.python_version()}, Linux, {os.cpu_count()} cores. Medians of several rounds, the contenders "
        "in turn, each run in a fresh process and its results checked. × limit: the figure divided by the limit row's "
        "of the same round. CPU and memory: the whole process tree; in the peak shared pages count in each process, in "
        "PSS once. Page faults and context switches, in thousands: of all processes.\n"
    )


def document(sheets: list[dict[str, Any]]) -> str:
    """All tables."""
    return "\n".join([machine(), *(render(sheet) for sheet in sheets)])


def write(file: Path, text: str) -> None:
    """Write the tables to a file: between its two marks when it has them, else as the whole file."""
    if file.exists() and BEGIN in (old := file.read_text()) and END in old:
        head, tail = old.split(BEGIN)[0], old.split(END)[1]
        text = f"{head}{BEGIN}\n\n{text}\n{END}{tail}"
    file.write_text(text)


def plot(file: Path, sheets: list[dict[str, Any]]) -> None:
    """A bar for each contender, a panel for each workload; runner's in colour, the limit dark."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "runner"
    from matplotlib import pyplot as plt

    # One bar alone compares nothing.
    panels = [sheet for sheet in sheets if sum("figure" in line for line in sheet["lines"]) > 1]
    heights = [0.9 + 0.22 * len(sheet["lines"]) for sheet in panels]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axis, sheet in zip(axes.flat, panels, strict=True):
        lines = [line for line in sheet["lines"] if "figure" in line][::-1]
        values = [max(line["figure"], 1e-9) for line in lines]
        colours = [
            "#d9480f" if each["runner"] else "#343a40" if each["name"] == sheet["limit"] else "#adb5bd"
            for each in lines
        ]
        bars = axis.barh([line["name"] for line in lines], values, color=colours)
        axis.bar_label(bars, [number(value) for value in values], padding=3, fontsize=7)
        if max(values) > 20 * min(values):
            axis.set_xscale("log")
        axis.margins(x=0.15)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(
            f"{sheet['title']}: {sheet['unit']}" + (", less is better" if sheet["smaller"] else ""), fontsize=9
        )
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
