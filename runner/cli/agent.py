"""`runner agent`."""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option


def agent(
    join: Annotated[
        str, Option(metavar="FILE", help="The join file of a run: .runner/runs/RUN/join; RUN may be last.")
    ],
    places: Annotated[
        float,
        Option(min=0, max=100_000, metavar="N", help="The CPUs to lend, one to a worker. Default: all of them."),
    ] = 0.0,
    memory: Annotated[int, Option(min=0, metavar="BYTES", help="The memory to lend. Default: all of it.")] = 0,
    name: Annotated[str, Option(metavar="NAME", help="The name of this node. Default: that of the machine.")] = "",
    wait: Annotated[float, Option(min=0, metavar="SECONDS", help="How long the run may take to be there.")] = 60.0,
) -> None:
    """Lend this machine to a run: the workers of its process tasks live here, too.

    Examples:
      runner agent --join .runner/runs/last/join

      srun runner agent --join .runner/runs/last/join
    """
    from runner.agent.program import AgentOptions, run_program

    raise typer.Exit(run_program(AgentOptions(join, places, memory, name, wait)))
