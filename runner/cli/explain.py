"""`runner explain`."""

from __future__ import annotations

import shutil
import textwrap
from typing import Annotated, Optional

import typer

from runner.cli.shared_options import complete_code
from runner.errors import UsageError


def explain(
    code: Annotated[
        Optional[str],  # noqa: UP045  typer reads the annotation at run time
        typer.Argument(
            metavar="CODE",
            help="For instance E203. Default: list all.",
            autocompletion=complete_code,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what an error means, with an example and the way out.

    Examples:
      runner explain E203

      runner explain
    """
    from runner.cli.explanations import EXPLANATIONS

    if code is None:
        for page in EXPLANATIONS.values():
            print(f"{page.code}  {page.title}")
        return
    found = EXPLANATIONS.get(code.upper())
    if found is None:
        from runner.text import did_you_mean

        near = did_you_mean(code.upper(), EXPLANATIONS)
        raise UsageError(f"unknown code {code[:40]!r}; {near} `runner explain` lists all".replace(";  ", "; "))
    width = min(100, shutil.get_terminal_size().columns)
    print(f"{found.code}: {found.title}\n")
    print(textwrap.fill(found.text, width, break_long_words=False, break_on_hyphens=False))
    for title, example in (("Wrong", found.wrong), ("Right", found.right)):
        if example:
            print(f"\n{title}:\n\n{textwrap.indent(example, '    ')}")
