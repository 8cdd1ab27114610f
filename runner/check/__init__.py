"""The problems that a file can have, each with its code.

    config (the text, key by key) ──▶ structure (the graph; loads nothing)
                                         │
    plugins (the functions) ─────────────┴──▶ arguments (signatures and type hints)

`check` needs the file alone and executes nothing; `check_functions` needs the functions that its tasks call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.check import extensions, structure
from runner.check.extensions import plugin_notices
from runner.check.functions import check_functions, function_location
from runner.config.overrides import apply_declared_options
from runner.config.source_map import VALUE_PART, SourceMap
from runner.errors import ConfigError, PluginError
from runner.plugins import PluginSet
from runner.problems import Problem, render_problems, sorted_problems
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.check.convert import Arguments
    from runner.model import Config, TaskConfig
    from runner.plugins import PluginPolicy, TaskFunction

__all__ = [
    "Findings",
    "check_everything",
    "check_file",
    "check_functions",
    "plugin_notices",
    "raise_if_errors",
]


def check_file(config: Config) -> list[Problem]:
    """Return everything that can be said of a file without executing any code of its project.

    What `config.examine` has found comes with it; nothing is concluded from values that are wrong for a known reason.
    """
    return sorted_problems(
        with_source_line(found, config) for found in (*config.problems, *structure.find_structure_problems(config))
    )


@dataclass(frozen=True, slots=True)
class Findings:
    """The problems of a file; for each enabled task its table with declared options, its function, its arguments."""

    problems: list[Problem]
    tasks: dict[str, TaskConfig]
    functions: dict[str, TaskFunction]
    arguments: dict[str, Arguments]
    plugins: PluginSet


def check_everything(config: Config, choice: PluginPolicy | None = None) -> Findings:
    """Return what `check_file` and the functions and plugins say; this loads the plugins of the file.

    `choice`: which installed plugins may be used; default: what the environment says.
    """
    apart = [task for task in config.tasks.values() if task.enabled and task.mode != "thread"]
    env = {word: value for task in reversed(apart) for word, value in task.env.items()}
    plugins = PluginSet(config.folder, config.plugins, choice, env)
    problems = [*check_file(config), *extensions.find_plugin_problems(config, plugins)]
    functions: dict[str, TaskFunction] = {}
    tasks: dict[str, TaskConfig] = {}
    for word, task in config.tasks.items():
        if task.enabled and not config.is_unknown("tasks", word, "call"):
            place = config.place("tasks", word, "call", VALUE_PART)
            try:
                function = functions[word] = plugins.find_function(task.call)
            except PluginError as error:
                problems.append(Problem(error.code, str(error), place, hint=error.hint))
            else:
                where = function_location(function)
                tasks[word], wrong = apply_declared_options(config, word, function.options, where, place)
                problems += wrong
    found, arguments = check_functions(replace(config, tasks={**config.tasks, **tasks}), functions)
    problems += extensions.find_broken_plugins(config, plugins, problems)
    every = sorted_problems(with_source_line(each, config) for each in (*problems, *found))
    return Findings(every, tasks, functions, arguments, plugins)


def raise_if_errors(problems: Iterable[Problem], config: Config) -> None:
    """Raise `ConfigError` with all of them when one is an error; warnings alone raise nothing."""
    found = sorted_problems(with_source_line(each, config) for each in problems)
    if any(each.severity == "error" for each in found):
        raise ConfigError(render_problems(found), found)


def with_source_line(found: Problem, config: Config) -> Problem:
    """Return the problem with the line of the file that it stands in, and without secrets."""
    return config.locations.complete(found) if isinstance(config.locations, SourceMap) else found
