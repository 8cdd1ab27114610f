"""`runner show`."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from runner.cli.shared_options import FileArgument, ParamOptions, SetOptions, examine_file


def show(
    file: FileArgument = None,
    param: ParamOptions = None,
    set_: SetOptions = None,
    origins: Annotated[bool, Option("--origins", help="Say where each value comes from.")] = False,
) -> None:
    """Show the resolved file in its long form, with all defaults. Executes nothing of the project.

    Secrets stay references, and so do required params that are not given.

    Examples:
      runner show

      runner show thumbs.toml -p list=images.txt --origins
    """
    from runner.config import resolved

    print(resolved.render_resolved(examine_file(file, "show", param, set_), origins=origins))
