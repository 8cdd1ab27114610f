"""`runner list`: what a file has, and what its plugins offer."""

from __future__ import annotations

import inspect
import json
from functools import partial
from pathlib import Path  # noqa: TC003  typer reads the annotation at run time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.cli.plugins import NoPluginOption, NoPluginsOption, OnlyPluginOption, plugin_choice
from runner.cli.report import DEFAULT_STATE
from runner.cli.shared_options import FileArgument, ParamOptions, SetOptions, examine_file, raise_for_problems
from runner.errors import UsageError
from runner.text import count_with_noun, format_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.model import Config, TaskConfig
    from runner.plugins import Plugin, PluginSet, TaskFunction

_WHAT = ("tasks", "functions", "plugins", "params", "runs")


def list_(
    what: Annotated[
        str,
        typer.Argument(metavar="|".join(_WHAT), help="What to list.", autocompletion=lambda: _WHAT),
    ] = "tasks",
    file: FileArgument = None,
    param: ParamOptions = None,
    set_: SetOptions = None,
    no_plugin: NoPluginOption = None,
    no_plugins: NoPluginsOption = False,
    only_plugin: OnlyPluginOption = None,
    load: Annotated[bool, typer.Option("--load", help="plugins: import the installed ones too.")] = False,
    state: Annotated[
        Path, typer.Option("--state", metavar="FOLDER", help="runs: where they are kept (`state` in [run]).")
    ] = DEFAULT_STATE,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """List tasks, functions, params or plugins, with signatures and help, or past runs.

    `tasks` and `params` execute nothing of the project; `functions` imports all plugins, `plugins` only those of the
    project, and the hooks of installed ones.

    Examples:
      runner list

      runner list params thumbs.toml

      runner list functions --json

      runner list runs
    """
    if what not in _WHAT:
        raise UsageError(f"list knows {', '.join(_WHAT)}, not {what[:40]!r}")
    document = None
    if as_json:
        from runner.cli.json_stdout import claim_stdout

        document = claim_stdout()
    if what == "runs":
        _print_runs(state, document)
        return
    config = examine_file(file, f"list {what}", param, set_)
    raise_for_problems(config)
    if what in _OF_PLUGINS:
        from runner.plugins import PluginSet

        found = PluginSet(config.folder, config.plugins, plugin_choice(no_plugin, no_plugins, only_plugin))
        if load or what == "functions":
            found.load_all()
        text, records = (partial(function, found) for function in _OF_PLUGINS[what])
    else:
        text, records = (partial(function, config) for function in _LISTS[what])
    if document is not None:
        document(json.dumps(records(), indent=2, default=str))
        return
    for line in text():
        print(line)


def _print_runs(state: Path, document: Callable[[str], None] | None) -> None:
    from runner.cli import run_history

    found = run_history.past_runs(state)
    if document is not None:
        document(json.dumps(found, indent=2))
        return
    for line in format_table(run_history.table_rows(found)) or [f"no run in {state} has a record"]:
        print(line)


# -- tasks ------------------------------------------------------------------------------------


def task_lines(config: Config) -> list[str]:
    """Return one line for each task: what it calls, how, and from where to where."""
    return format_table([_task_row(task) for task in config.tasks.values()])


def _task_row(task: TaskConfig) -> tuple[str, ...]:
    count = task.workers.count
    how = count_with_noun(count, task.mode or "worker")
    way = f"{', '.join(task.inputs)} -> {', '.join(task.outputs)}" if task.inputs or task.outputs else ""
    notes = [f"after {', '.join(task.after)}"] if task.after else []
    notes += [f"dead to {task.dead}"] if task.dead else []
    notes += [] if task.enabled else ["not enabled"]
    notes += [task.help] if task.help else []
    call = "" if task.call == task.name else task.call
    return task.name, call, how, way.strip(), "; ".join(notes)


def _task_records(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "name": task.name,
            "call": task.call,
            "mode": task.mode,
            "workers": list(task.workers.names),
            "inputs": list(task.inputs),
            "outputs": {port.name: list(port.queues) for port in task.ports},
            "dead": task.dead,
            "after": task.after,
            "enabled": task.enabled,
            "help": task.help,
        }
        for task in config.tasks.values()
    ]


# -- params -----------------------------------------------------------------------------------


def param_lines(config: Config) -> list[str]:
    """Return one line for each param: its type, its value, its bounds, its help."""
    rows = []
    for record in _param_records(config):
        bounds = [f"{key} {record[key]}" for key in ("min", "max") if record[key] is not None]
        bounds += [f"one of {', '.join(map(str, record['choices']))}"] if record["choices"] else []
        bounds += [f"or ${record['env']}"] if record["env"] else []
        value = "required" if record["required"] else f"= {record['default']}"
        rows.append((f"-p {record['name']}=", record["type"], value, "; ".join([*bounds, record["help"]]).strip("; ")))
    return format_table(rows) or ["the file has no params"]


def _param_records(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "name": param.name,
            "type": param.type,
            "required": param.required,
            "default": "***" if param.secret and param.default else param.default,
            "min": param.low,
            "max": param.high,
            "choices": None if param.choices is None else list(param.choices),
            "env": param.env,
            "secret": param.secret,
            "help": param.help,
        }
        for param in config.declared_params.values()
    ]


# -- functions and plugins --------------------------------------------------------------------


def _doc_line(target: Any) -> str:
    return (inspect.getdoc(target) or "").partition("\n")[0]


def function_lines(found: PluginSet) -> list[str]:
    """Return the task functions of every plugin: signature, file and line, first line of the docstring."""
    from runner.check.functions import function_location, written_signature

    lines = []
    for plugin in found.all_plugins:
        for function in plugin.functions.values():
            lines.append(f"{plugin.name}.{function.name}{written_signature(function.obj)}")
            doc = _doc_line(function.obj)
            lines.append(
                f"    {doc}  ({function_location(function)})" if doc else f"    ({function_location(function)})"
            )
        if plugin.error:
            lines.append(f"{plugin.name}: could not be loaded: {plugin.error_line}")
    return lines or ["no plugin has a task function; any callable can be named package.module:function"]


def _function_records(found: PluginSet) -> list[dict[str, Any]]:
    from runner.check.functions import written_signature

    def record(plugin: str, function: TaskFunction) -> dict[str, Any]:
        return {
            "name": function.name,
            "plugin": plugin,
            "signature": written_signature(function.obj),
            "doc": inspect.getdoc(function.obj) or "",
            "file": function.file,
            "line": function.line,
            "options": function.options,
        }

    return [record(plugin.name, function) for plugin in found.all_plugins for function in plugin.functions.values()]


def plugin_lines(found: PluginSet) -> list[str]:
    """Return a line for each plugin, and why it is broken or blocked below it."""
    shown = [each for each in found.all_plugins if each.name != "std" or each.loaded]
    rows = format_table([_plugin_row(each) for each in shown])
    lines = []
    for row, plugin in zip(rows, shown, strict=True):
        lines.append(row)
        if plugin.error_line:
            lines.append(f"    {plugin.name}: could not be loaded: {plugin.error_line}")
        if plugin.blocked_by:
            lines.append(f"    blocked by {plugin.blocked_by}")
    return lines or ["no plugins"]


def _plugin_row(plugin: Plugin) -> tuple[str, ...]:
    parts = [f"{len(plugin.functions)} functions"] if plugin.loaded or plugin.functions else []
    parts += ["functions unknown until loaded"] if plugin.module and plugin.status == "lazy" else []
    parts += list(plugin.hooks)
    parts += [f"command {plugin.name}"] if plugin.commands_module else []
    return plugin.name, plugin.version or "-", plugin.status, ", ".join(parts), plugin.origin


def plugin_records(found: PluginSet) -> list[dict[str, Any]]:
    """Return the same for programs; `functions` is null if the plugin is not loaded."""
    return [
        {
            "name": plugin.name,
            "version": plugin.version or None,
            "distribution": plugin.distribution.display_name if plugin.distribution else None,
            "origin": plugin.origin,
            "file": plugin.source_file or None,
            "status": plugin.status,
            "why": plugin.blocked_by or plugin.error_line,
            "functions": _function_names(plugin),
            "hooks": list(plugin.hooks),
            "command": plugin.name if plugin.commands_module else None,
            "error": plugin.error,
        }
        for plugin in found.all_plugins
    ]


def _function_names(plugin: Plugin) -> list[str] | None:
    return None if plugin.module and plugin.status in {"lazy", "blocked"} else list(plugin.functions)


_Lister = tuple["Callable[[Config], list[str]]", "Callable[[Config], list[dict[str, Any]]]"]
_LISTS: dict[str, _Lister] = {"tasks": (task_lines, _task_records), "params": (param_lines, _param_records)}
_OF_PLUGINS = {
    "functions": (function_lines, _function_records),
    "plugins": (plugin_lines, plugin_records),
}
