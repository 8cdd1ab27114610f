"""The problems that a file can have, each with its code.

    config (the text, key by key) ──▶ structure (the graph; loads nothing)
                                         │
    plugins (the functions) ─────────────┴──▶ arguments (signatures and type hints)

`check` needs the file alone and executes nothing; `check_functions` needs the functions that its tasks call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.check import structure
from runner.check.functions import check_functions, function_location
from runner.check.tests import find_test_problems
from runner.config import grammar
from runner.config.reader import Reader
from runner.config.source_map import VALUE_PART, SourceMap
from runner.config.value_types import are_auto_workers, choose_workers
from runner.error_text import describe_error
from runner.errors import ConfigError, PluginError
from runner.model import CLUSTER_ENGINES, OWN_ENGINES
from runner.plugins import PluginSet
from runner.plugins.hooks import offered_engines
from runner.plugins.plugin import add_hook_note
from runner.problems import Problem, quote_name, render_problems, sorted_problems
from runner.structs import dataclass
from runner.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from runner.check.convert import Arguments
    from runner.model import Config, TaskConfig
    from runner.plugins import Plugin, PluginPolicy, TaskFunction
    from runner.problems import Location

__all__ = ["Findings", "check_everything", "check_file", "check_functions", "find_test_problems", "raise_if_errors"]

#: A plugin that finds more than this in one file is not read.
_MOST = 100
#: Of a plugin that a run goes on without.
BROKEN_PLUGIN = "W406"


def check_file(config: Config) -> list[Problem]:
    """Return everything that can be said of a file without executing any code of its project.

    What `config.examine` has found comes with it; nothing is concluded from values that are wrong for a known reason.
    """
    found = [*config.problems, *structure.find_structure_problems(config)]
    if all(each.severity != "error" for each in found):  # else what a test names may be what is wrong
        found += find_test_problems(config)
    return _shown_problems(config, found)


@dataclass(frozen=True, slots=True)
class Findings:
    """The problems of a file; for each enabled task its table with declared options, its function, its arguments."""

    problems: list[Problem]
    tasks: dict[str, TaskConfig]
    functions: dict[str, TaskFunction]
    arguments: dict[str, Arguments]
    plugins: PluginSet


def check_everything(config: Config, choice: PluginPolicy | None = None) -> Findings:
    """Return what `check_file`, the functions and plugins say, which are loaded; `choice`: those that may be used."""
    apart = [task for task in config.tasks.values() if task.enabled and task.mode != "thread"]
    env = {word: value for task in reversed(apart) for word, value in task.env.items()}
    plugins = PluginSet(config.folder, config.plugins, choice, env)
    problems = [*check_file(config), *_check_names(config, plugins), *_check_engine(config, plugins)]
    if all(each.severity != "error" for each in config.problems):  # else plugins would meet a file that is half known
        problems += (found for asked in plugins.hooks.calls_of("runner_check") for found in _ask_plugin(config, *asked))
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
                tasks[word], wrong = _apply_declared_options(config, word, function, place)
                problems += wrong
    found, arguments = check_functions(replace(config, tasks={**config.tasks, **tasks}), functions)
    problems += _find_broken_plugins(config, plugins, problems)
    return Findings(_shown_problems(config, (*problems, *found)), tasks, functions, arguments, plugins)


def _apply_declared_options(
    config: Config, name: str, function: TaskFunction, place: Location
) -> tuple[TaskConfig, list[Problem]]:
    """Return the task with what its function declares; problems stand at `place`, which calls it."""
    task = config.tasks[name]
    if not function.options:
        return task, []
    made, problems = _convert_declared_options(config, function, "the declaration")
    if problems:  # to find the line of a class takes 10 ms
        made, problems = _convert_declared_options(
            config, function, f"the declaration at {function_location(function)}"
        )
    found = [Problem("E309", each.message, place, hint=each.hint) for each in problems]
    keys = {key: value for key, value in made.items() if not structure.is_set_in_file(config, name, key)}
    if "workers" in keys:
        keys["auto_workers"] = are_auto_workers(keys["workers"])
        has_inputs = bool(keys.get("inputs", task.inputs))
        keys["workers"], keys["least_workers"] = choose_workers(keys["workers"], name, has_inputs=has_inputs)
    return replace(task, **keys), found


def _convert_declared_options(
    config: Config, function: TaskFunction, owner: str
) -> tuple[dict[str, Any], list[Problem]]:
    """Return what a function declares, and the problems of that, which name `owner`."""
    reader = Reader(SourceMap(config.file, ""))
    reader.names = {"queue": config.queues, "task": config.tasks}
    made = reader.convert_table(dict(function.options), grammar.TASK_DEFAULTS, ("defaults", "task"), owner)
    return made, reader.problems


def raise_if_errors(problems: Iterable[Problem], config: Config) -> None:
    """Raise `ConfigError` with all of them when one is an error; warnings alone raise nothing."""
    found = _shown_problems(config, problems)
    if any(each.severity == "error" for each in found):
        raise ConfigError(render_problems(found), found)


def _shown_problems(config: Config, problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems, sorted by place, each with the line of the file that it stands in, without secrets."""
    places = config.locations
    return sorted_problems(map(places.complete, problems) if isinstance(places, SourceMap) else problems)


def _check_names(config: Config, plugins: PluginSet) -> Iterator[Problem]:
    """Yield names that two plugins have, and plugins that are not there."""
    owners: dict[str, Plugin] = {}
    for each in plugins.local_plugins:
        other = owners.setdefault(each.name, each)
        if other is not each and not each.blocked_by:
            text = f"two plugins have the name {quote_name(each.name)}: {other.origin} and {each.origin}"
            yield Problem("E311", text, config.place("plugins"), hint="rename one of the files")
    for number, word in enumerate(config.plugins or ()):
        missing = f"ModuleNotFoundError: No module named {word.partition('.')[0]!r}"
        if any(each.module == word and each.error.rstrip().endswith(missing) for each in plugins.local_plugins):
            place = config.place("plugins", str(number))
            yield Problem("E312", f"plugin {quote_name(word)} is neither a file, a folder nor a module", place)


def _check_engine(config: Config, plugins: PluginSet) -> Iterator[Problem]:
    word = config.run.engine
    if word in OWN_ENGINES:
        return
    place = config.place("run", "engine")
    found, wrong = offered_engines(plugins.hooks)
    for plugin, text, error in wrong:
        trace = describe_error(error).traceback.rstrip() if error else "block one of them: --no-plugin NAME"
        yield Problem("E313", f"plugin {plugin.label} has a wrong engine: {text}", place, hint=trace)
    if word not in found:
        known = [
            "`local`",
            *(f"`{each}`" for each in CLUSTER_ENGINES),
            *(f"`{each}` (of plugin {of.label})" for each, (of, _) in sorted(found.items())),
        ]
        hint = f"{did_you_mean(word, [*OWN_ENGINES, *found])} engines: {', '.join(known)}".lstrip()
        yield Problem("E313", f"unknown engine {quote_name(word)}", place, hint=hint)
    elif not callable(found[word][1]):
        text = f"engine {quote_name(word)} of plugin {found[word][0].label} is not an engine: it cannot be called"
        yield Problem("E313", text, place)


def _ask_plugin(config: Config, plugin: Plugin, call: Any) -> Iterator[Problem]:
    """Yield what one plugin's `runner_check` finds; if it raises, only the plugin is broken."""
    count = 0
    try:
        for given in call(config=config):
            for found in given or ():
                if not isinstance(found, Problem):
                    raise TypeError(f"it must give what `config.problem(...)` returns, not {found!r:.80}")  # noqa: TRY301
                count += 1
                if count <= _MOST:
                    yield replace(found, message=f"{found.message} (says plugin `{plugin.name}`)")
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a plugin raises
        told = describe_error(add_hook_note(error, "runner_check", plugin))
        plugin.mark_broken(f"its hook runner_check raised {told}", told.traceback)


def _find_broken_plugins(config: Config, plugins: PluginSet, problems: Sequence[Problem]) -> Iterator[Problem]:
    """Yield plugins that were to be loaded for this file and could not be, apart from those that are errors already."""
    told = {each.hint for each in problems if each.code == "E310"}
    for plugin in plugins.all_plugins:
        if not plugin.error or plugin.error.rstrip() in told or not _has_hooks(plugin):
            continue
        text = f"plugin {plugin.label} is left out: {plugin.error_line}"
        hint = "" if plugin.error == plugin.error_line else plugin.error.rstrip()
        yield Problem(BROKEN_PLUGIN, text, config.place(), "warning", hint=hint)


def _has_hooks(plugin: Plugin) -> bool:
    """Return True if the plugin would act in a run that names none of its functions."""
    if plugin.distribution is not None:
        return bool(plugin.hooks_module)
    if not plugin.loaded or plugin.error == plugin.error_line:
        return True
    # It was not imported, so only its text can tell.
    return plugin.path is not None and "hookimpl" in plugin.source_text
