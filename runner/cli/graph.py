"""`runner graph`."""

from __future__ import annotations

import shutil
from typing import Annotated

from typer import Option

from runner.cli.report import find_record
from runner.cli.shared_options import (
    DEFAULT_STATE,
    FileArgument,
    ParamOptions,
    SetOptions,
    StateOption,
    complete_run,
    examine_file,
)
from runner.errors import UsageError

_FORMATS = ("text", "mermaid", "dot", "svg")


def graph(
    file: FileArgument = None,
    param: ParamOptions = None,
    set_: SetOptions = None,
    format_: Annotated[
        str, Option("--format", metavar="text|mermaid|dot|svg", help="How to draw.", autocompletion=lambda: _FORMATS)
    ] = "text",
    run: Annotated[
        str | None,
        Option(metavar="RUN", help="Draw a past run with its counts: an id, or `last`.", autocompletion=complete_run),
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
    if run is None:
        made = drawing.diagram_of_config(examine_file(file, "graph", param, set_))
    elif file is not None or param or set_:
        raise UsageError("--run draws what was run then: it takes no FILE, no -p and no --set")
    else:
        made = drawing.diagram_of_run(find_record(state, run))
    if format_ == "text":
        print(drawing.to_text(made, shutil.get_terminal_size().columns))
    elif format_ == "svg":
        from runner.report.graph_svg import DiagramTooLarge, to_svg

        try:
            print(to_svg(made))
        except DiagramTooLarge:
            size = f"{len(made.boxes):,} boxes and {len(made.edges):,} lines between them"
            raise UsageError(f"{size} are too many for a picture; `--format text` lists them") from None
    else:
        print(drawing.to_mermaid(made) if format_ == "mermaid" else drawing.to_dot(made))
