"""What can be wrong with a file, each finding with its code.

    config (the text, key by key) ──▶ structure (the graph; loads nothing)
                                         │
    plugins (the functions) ─────────────┴──▶ arguments (signatures and type hints)

`check` needs the file alone and executes nothing; `check_functions` needs the functions that its tasks call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.check import extensions, structure
from runner.check.extensions import notices
from runner.check.functions import Arguments, check_functions, where
from runner.config import function_defaults
from runner.config.problems import Problem, ordered, render
from runner.config.source_map import VALUE, Places
from runner.errors import ConfigError, PluginError
from runner.plugins import Plugins
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.config.model import Config, Place, TaskConfig
    from runner.plugins import Choice, TaskFunction

__all__ = ["Findings", "check", "check_functions", "everything", "notices", "problem", "raise_for"]


def check(config: Config) -> list[Problem]:
    """Everything that can be said of a file without executing any code of its project.

    What `config.examine` has found comes with it; nothing is concluded from values that are wrong for a known reason.
    """
    return ordered(shown(found, config) for found in (*config.problems, *structure.findings(config)))


@dataclass(frozen=True, slots=True)
class Findings:
    """What looking at a file and at its functions gives: for each enabled task what the file and its function say of
    it, the function, and its arguments, converted.
    """

    problems: list[Problem]
    tasks: dict[str, TaskConfig]
    functions: dict[str, TaskFunction]
    arguments: dict[str, Arguments]
    plugins: Plugins


def everything(config: Config, choice: Choice | None = None) -> Findings:
    """`check`, and what the functions and plugins say; this loads the plugins of the file.

    `choice`: which installed plugins may be used; default: what the environment says.
    """
    apart = [task for task in config.tasks.values() if task.enabled and task.mode != "thread"]
    env = {word: value for task in reversed(apart) for word, value in task.env.items()}
    plugins = Plugins(config.folder, config.plugins, choice, env)
    problems = [*check(config), *extensions.findings(config, plugins)]
    functions: dict[str, TaskFunction] = {}
    tasks: dict[str, TaskConfig] = {}
    for word, task in config.tasks.items():
        if task.enabled and not config.hole("tasks", word, "call"):
            place = config.place("tasks", word, "call", VALUE)
            try:
                function = functions[word] = plugins.find(task.call)
            except PluginError as error:
                problems.append(Problem(error.code, str(error), place, hint=error.hint))
            else:
                tasks[word], wrong = function_defaults.apply(config, word, function.options, where(function), place)
                problems += wrong
    found, arguments = check_functions(replace(config, tasks={**config.tasks, **tasks}), functions)
    problems += extensions.broken(config, plugins, problems)
    every = ordered(shown(each, config) for each in (*problems, *found))
    return Findings(every, tasks, functions, arguments, plugins)


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
