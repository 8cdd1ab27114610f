"""`runner explain`: the meaning of each code, with the mistake and the way out; the pages are in `codes.toml`."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Annotated, NamedTuple

import tomli
from typer import Argument

from runner.errors import UsageError
from runner.text import did_you_mean


class Explanation(NamedTuple):
    """One code; `wrong` is a whole file that has exactly this mistake, `right` what it should say instead."""

    code: str
    title: str
    text: str
    wrong: str = ""
    right: str = ""


EXPLANATIONS = {
    code: Explanation(code, **{key: text.rstrip("\n") for key, text in page.items()})
    for code, page in tomli.loads(Path(__file__).with_name("codes.toml").read_text(encoding="utf-8")).items()
}


def explain(
    code: Annotated[
        str | None,
        Argument(
            metavar="CODE",
            help="For instance E203. Default: list all.",
            autocompletion=lambda: [(page.code, page.title) for page in EXPLANATIONS.values()],
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what an error means, with an example and the way out.

    Examples:
      runner explain E203

      runner explain
    """
    if code is None:
        for page in EXPLANATIONS.values():
            print(f"{page.code}  {page.title}")
        return
    found = EXPLANATIONS.get(code.upper())
    if found is None:
        near = did_you_mean(code.upper(), EXPLANATIONS)
        raise UsageError(f"unknown code {code[:40]!r}; {near} `runner explain` lists all".replace(";  ", "; "))
    width = min(100, shutil.get_terminal_size().columns)
    print(f"{found.code}: {found.title}\n")
    print(textwrap.fill(found.text, width, break_long_words=False, break_on_hyphens=False))
    for title, example in (("Wrong", found.wrong), ("Right", found.right)):
        if example:
            print(f"\n{title}:\n\n{textwrap.indent(example, '    ')}")
