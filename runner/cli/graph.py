"""`runner graph`."""

from __future__ import annotations

import shutil
from typing import Annotated

import typer

from runner.cli.inputs import File, Params, Sets, examined, refuse
from runner.errors import UsageError

_FORMATS = ("text", "mermaid", "dot", "svg")


def graph(
    file: File = None,
    param: Params = None,
    set_: Sets = None,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="text|mermaid|dot|svg", help="How to draw.", autocompletion=lambda: _FORMATS),
    ] = "text",
) -> None:
    """Draw the tasks and queues of a file. Executes nothing of the project.

    Dotted lines are `after`; a line that points upwards closes a cycle.

    Examples:
      runner graph

      runner graph thumbs.toml --format svg > thumbs.svg

      runner graph --format mermaid
    """
    from runner.report import graph as drawing

    if format_ not in _FORMATS:
        raise UsageError(f"--format is one of {', '.join(_FORMATS)}, not {format_[:40]!r}")
    config = examined(file, "graph", param, set_)
    refuse(config)
    made = drawing.graph_of(config)
    if format_ == "text":
        from runner.report.graph_text import draw

        print(draw(made, shutil.get_terminal_size().columns))
    elif format_ == "svg":
        from runner.report.graph_svg import svg

        print(svg(made))
    else:
        print(drawing.mermaid(made) if format_ == "mermaid" else drawing.dot(made))
