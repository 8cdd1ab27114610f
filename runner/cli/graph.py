"""`runner graph`."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from runner.cli.report import DEFAULT_STATE, StateOption, find_record
from runner.cli.shared_options import FileArgument, ParamOptions, SetOptions, examine_file, raise_for_problems
from runner.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from runner.report.graph import Diagram

_FORMATS = ("text", "mermaid", "dot", "svg")


def graph(
    file: FileArgument = None,
    param: ParamOptions = None,
    set_: SetOptions = None,
    format_: Annotated[
        str,
        typer.Option("--format", metavar="text|mermaid|dot|svg", help="How to draw.", autocompletion=lambda: _FORMATS),
    ] = "text",
    run: Annotated[
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Option("--run", metavar="RUN", help="Draw a past run with its counts: an id, or `last`."),
    ] = None,
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Draw the tasks and queues of a file, or of a past run. Executes nothing of the project.

    A reader that is marked `(above)`, or a line that points upwards, closes a cycle; dotted lines are `after`.

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
        print(drawing.to_text(made, shutil.get_terminal_size().columns))
    elif format_ == "svg":
        print(_draw_svg(made))
    else:
        print(drawing.to_mermaid(made) if format_ == "mermaid" else drawing.to_dot(made))


def _draw_svg(made: Diagram) -> str:
    from runner.report.graph_svg import DiagramTooLarge, to_svg

    try:
        return to_svg(made)
    except DiagramTooLarge:
        size = f"{len(made.boxes):,} boxes and {len(made.edges):,} lines between them"
        raise UsageError(f"{size} are too many for a picture; `--format text` lists them") from None


def _of_file(file: str | None, param: list[str] | None, set_: list[str] | None) -> Diagram:
    from runner.report.graph import diagram_of_config

    config = examine_file(file, "graph", param, set_)
    raise_for_problems(config)
    return diagram_of_config(config)


def _of_run(run: str, state: Path, file: str | None, given: list[str]) -> Diagram:
    """Draw the tasks and queues that the record knows; the file may be another one by now."""
    from runner.report.graph import diagram_of_run

    if file is not None or given:
        raise UsageError("--run draws what was run then: it takes no FILE, no -p and no --set")
    return diagram_of_run(find_record(state, run))
