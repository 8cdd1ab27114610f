"""`runner graph`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.report import DEFAULT_STATE, State, find
from runner.cli.shared_options import File, Params, Sets, examined, refuse
from runner.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from runner.report.graph import Graph

_FORMATS = ("text", "mermaid", "dot", "svg")


def graph(
    file: File = None,
    param: Params = None,
    set_: Sets = None,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="text|mermaid|dot|svg", help="How to draw.", autocompletion=lambda: _FORMATS),
    ] = "text",
    run: Annotated[
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Option("--run", metavar="RUN", help="Draw a past run with its counts: an id, or `last`."),
    ] = None,
    state: State = DEFAULT_STATE,
) -> None:
    """Draw the tasks and queues of a file, or of a past run. Executes nothing of the project.

    Dotted lines are `after`; a line that points upwards closes a cycle.

    Examples:
      runner graph

      runner graph thumbs.toml --format svg > thumbs.svg

      runner graph --format mermaid

      runner graph --run last
    """
    from runner.report import graph as drawing

    if format_ not in _FORMATS:
        raise UsageError(f"--format is one of {', '.join(_FORMATS)}, not {format_[:40]!r}")
    made = (
        _of_run(run, state, file, [*(param or ()), *(set_ or ())]) if run is not None else _of_file(file, param, set_)
    )
    if format_ == "text":
        from runner.report.graph_text import draw

        print(draw(made, shutil.get_terminal_size().columns))
    elif format_ == "svg":
        print(_svg(made))
    else:
        print(drawing.mermaid(made) if format_ == "mermaid" else drawing.dot(made))


def _svg(made: Graph) -> str:
    from runner.report.graph_svg import svg
    from runner.report.layout import TooLarge

    try:
        return svg(made)
    except TooLarge:
        size = f"{len(made.boxes):,} boxes and {len(made.edges):,} lines between them"
        raise UsageError(f"{size} are too many for a picture; `--format text` lists them") from None


def _of_file(file: str | None, param: list[str] | None, set_: list[str] | None) -> Graph:
    from runner.report.graph import graph_of

    config = examined(file, "graph", param, set_)
    refuse(config)
    return graph_of(config)


def _of_run(run: str, state: Path, file: str | None, given: list[str]) -> Graph:
    """A record knows its own tasks and queues; the file may be another one by now."""
    from runner.report.graph import graph_of_run

    if file is not None or given:
        raise UsageError("--run draws what was run then: it takes no FILE, no -p and no --set")
    return graph_of_run(find(state, run))
