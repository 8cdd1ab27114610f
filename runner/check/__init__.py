"""What can be wrong with a file, each finding with its code.

    config (the text, key by key) ──▶ structure (the graph; loads nothing)
                                         │
    plugins (the functions) ─────────────┴──▶ arguments (signatures and type hints)

`check` needs the file alone and executes nothing; `check_functions` needs the functions that its tasks call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.check import structure
from runner.check.functions import check_functions
from runner.config.places import Places
from runner.config.problems import Problem, ordered, render
from runner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.config.model import Config, Place

__all__ = ["check", "check_functions", "problem", "raise_for"]


def check(config: Config) -> list[Problem]:
    """Everything that can be said of a file without executing any code of its project.

    What `config.examine` has found comes with it; nothing is concluded from values that are wrong for a known reason.
    """
    return ordered(shown(found, config) for found in (*config.problems, *structure.findings(config)))


def problem(code: str, text: str, place: Place) -> Problem:
    """An error that somebody else has found."""
    return Problem(code, text, place)


def raise_for(problems: Iterable[Problem], config: Config) -> None:
    """Raise `ConfigError` with all of them when one is an error; warnings alone raise nothing."""
    found = ordered(shown(each, config) for each in problems)
    if any(each.severity == "error" for each in found):
        raise ConfigError(render(found), found)


def shown(found: Problem, config: Config) -> Problem:
    """The problem with the line of the file that it stands in, and without secrets."""
    places = config.places
    if found.source or not isinstance(places, Places):
        return found
    mask = places.mask
    return replace(found, source=places.line(found.place), message=mask(found.message), hint=mask(found.hint))
