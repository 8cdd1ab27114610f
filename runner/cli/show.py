"""`runner show`."""

from __future__ import annotations

from typing import Annotated

import typer

from runner.cli.shared_options import File, Params, Sets, examined, refuse


def show(
    file: File = None,
    param: Params = None,
    set_: Sets = None,
    origins: Annotated[bool, typer.Option("--origins", help="Say where each value comes from.")] = False,
) -> None:
    """Show the resolved file in its long form, with all defaults. Executes nothing of the project.

    Secrets stay references, and so do required params that nobody has given.

    Examples:
      runner show

      runner show thumbs.toml -p list=images.txt --origins
    """
    from runner.config import resolved

    config = examined(file, "show", param, set_)
    refuse(config)
    print(resolved.render(config, origins=origins))
