"""`runner list`: what a file has, and what its plugins offer; past runs; and `runner` alone: what can be done here."""

from __future__ import annotations

import inspect
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from typer import Argument, Option

from runner.cli import shared_options as shared
from runner.cli.shared_options import DEFAULT_FILE
from runner.cli.streams import claim_stdout
from runner.errors import ConfigError, UsageError
from runner.events import RunLife
from runner.store import records, run_folders
from runner.text import count_with_noun, count_workers, format_duration, format_table, printable_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.model import Config, TaskConfig
    from runner.plugins import Plugin, PluginSet


def list_(
    what: Annotated[
        str, Argument(metavar="|".join(_LISTS), help="What to list.", autocompletion=lambda: [*_LISTS])
    ] = "tasks",
    file: shared.FileArgument = None,
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
    no_plugin: shared.NoPluginOption = None,
    no_plugins: shared.NoPluginsOption = False,
    only_plugin: shared.OnlyPluginOption = None,
    load: Annotated[bool, Option("--load", help="plugins: import the installed ones too.")] = False,
    state: Annotated[
        Path, Option(metavar="FOLDER", help="runs: where they are kept (`state` in [run]).")
    ] = shared.DEFAULT_STATE,
    as_json: Annotated[bool, Option("--json", help="Write JSON.")] = False,
) -> None:
    """List tasks, tests, functions, params or plugins, with signatures and help, or past runs.

    `tasks`, `tests` and `params` execute nothing of the project; `functions` imports all plugins, `plugins` only those
    of the project, and the hooks of installed ones.

    Examples:
      runner list

      runner list params thumbs.toml

      runner list functions --json

      runner list runs
    """
    if what not in _LISTS:
        raise UsageError(f"list knows {', '.join(_LISTS)}, not {what[:40]!r}")
    document = claim_stdout() if as_json else None
    listed: Any = state
    if what == "tests":
        from runner.file_tests.reading import read_tests

        given = dict(shared.parse_pairs(param, "--param"))
        listed = read_tests(shared.file_or_default(file, "list tests"), given)
    elif what != "runs":
        listed = config = shared.examine_file(file, f"list {what}", param, set_)
    if what in {"functions", "plugins"}:
        from runner.plugins import PluginSet

        listed = PluginSet(config.folder, config.plugins, shared.plugin_choice(no_plugin, no_plugins, only_plugin))
        for plugin in listed.all_plugins if load or what == "functions" else ():
            plugin.load_functions()
    lines_of, records_of = _LISTS[what]
    if document is not None:
        document(json.dumps(records_of(listed), indent=2, default=str))
    else:
        for line in lines_of(listed):
            print(line)


def task_lines(config: Config) -> list[str]:
    """Return one line for each task: what it calls, how, and from where to where."""
    return format_table([_task_row(task) for task in config.tasks.values()])


def _task_row(task: TaskConfig) -> tuple[str, ...]:
    how = count_workers(task.workers, task.least_workers, task.mode or "worker")
    way = f"{', '.join(task.inputs)} -> {', '.join(task.outputs)}" if task.inputs or task.outputs else ""
    notes = [f"after {', '.join(task.after)}"] if task.after else []
    notes += [f"dead to {task.dead}"] if task.dead else []
    notes += [] if task.enabled else ["not enabled"]
    notes += [task.help] if task.help else []
    call = "" if task.call == task.name else task.call
    return task.name, call, how, way.strip(), "; ".join(notes)


def _task_records(config: Config) -> list[dict[str, Any]]:
    words = (
        "name",
        "call",
        "mode",
        "workers",
        "least_workers",
        "inputs",
        "outputs",
        "dead",
        "after",
        "enabled",
        "help",
    )
    return [
        {word: getattr(task, word) for word in words} | {"outputs": {port.name: port.queues for port in task.ports}}
        for task in config.tasks.values()
    ]


def test_lines(config: Config) -> list[str]:
    """Return one line for each test: its name, where it stands, and what it feeds, stubs and expects."""
    rows = []
    for test in config.tests:
        notes = [f"only {', '.join(test.only)}"] if test.only else []
        notes += [f"feeds {', '.join(test.feed)}"] if test.feed else []
        notes += [f"stubs {', '.join(test.stub)}"] if test.stub else []
        notes += [count_with_noun(len(test.fault), "fault")] if test.fault else []
        notes += [] if test.expect is not None else ["expects nothing but a good end"]
        rows.append((test.name, f"{test.place.file}:{test.place.line}", "; ".join(notes)))
    return format_table(rows) or ["the file has no tests"]


def _test_records(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "name": test.name,
            "file": test.place.file,
            "line": test.place.line,
            "only": test.only,
            "feed": list(test.feed),
            "stub": list(test.stub),
            "faults": len(test.fault),
            "expects_nothing": test.expect is None,
        }
        for test in config.tests
    ]


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
    words = ("name", "type", "required", "default", "min", "max", "choices", "env", "secret", "help")
    return [
        {word: getattr(param, word) for word in words} | ({"default": "***"} if param.secret and param.default else {})
        for param in config.declared_params.values()
    ]


def function_lines(found: PluginSet) -> list[str]:
    """Return the task functions of every plugin: signature, file and line, first line of the docstring."""
    from runner.check.functions import function_location, written_signature

    lines = []
    for plugin in found.all_plugins:
        for function in plugin.functions.values():
            lines.append(f"{plugin.name}.{function.name}{written_signature(function.obj)}")
            doc = (inspect.getdoc(function.obj) or "").partition("\n")[0]
            lines.append("    " + f"{doc}  ({function_location(function)})".lstrip())
        if plugin.error:
            lines.append(f"{plugin.name}: could not be loaded: {plugin.error_line}")
    return lines or ["no plugin has a task function; any callable can be named package.module:function"]


def _function_records(found: PluginSet) -> list[dict[str, Any]]:
    from runner.check.functions import written_signature

    return [
        {
            "name": function.name,
            "plugin": plugin.name,
            "signature": written_signature(function.obj),
            "doc": inspect.getdoc(function.obj) or "",
            "file": function.file,
            "line": function.line,
            "options": function.options,
        }
        for plugin in found.all_plugins
        for function in plugin.functions.values()
    ]


def plugin_lines(found: PluginSet) -> list[str]:
    """Return a line for each plugin, and why it is broken or blocked below it."""
    shown = [each for each in found.all_plugins if each.name != "std" or each.loaded]
    lines = []
    for row, plugin in zip(format_table([_plugin_row(each) for each in shown]), shown, strict=True):
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
            "functions": None if plugin.module and plugin.status in {"lazy", "blocked"} else list(plugin.functions),
            "hooks": list(plugin.hooks),
            "command": plugin.name if plugin.commands_module else None,
            "error": plugin.error,
        }
        for plugin in found.all_plugins
    ]


_ENDS = {0: "ended", 1: "failed", 4: "some dead", 5: "halted", 70: "runner's fault", 124: "deadline"}
_KINDS: dict[str, Any] = {
    "title": str,
    "began": int | float,
    "seconds": int | float,
    "exit_code": int,
    "balance": dict[str, int],
    "unfinished": list,
}


def past_runs(state: Path) -> list[dict[str, Any]]:
    """Return one entry for each run, the last one first: how it ended, or "going on", or "killed".

    `ledger` is null unless the run is durable and its ledger is there; `lives` is how many its record knows.
    """
    found = []
    durable = set(run_folders.runs_with_files(state, run_folders.LEDGER_FILE))
    for run in reversed(run_folders.runs_with_files(state, records.RECORD_FILE, run_folders.LEDGER_FILE)):
        path = state / "runs" / run / records.RECORD_FILE
        record = records.read_unchecked(path)
        told = {key: _checked_value(record, key) for key in _KINDS}
        ledger, title = _ledger_record(path.parent) if run in durable else (None, None)
        told["title"] = told["title"] or title
        end, lives = _describe_end(path, record, ledger), _count_lives(record)
        more = {"outcome": describe_outcome_of(record), "lives": lives, "ledger": ledger}
        found.append({"run": run, "end": end, **told, **more})
    return found


def _ledger_record(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Return what a run's ledger says of it, and the title that it notes."""
    from runner.store import ledger_summary  # few runs need SQLite

    found = ledger_summary.summarize_ledger(folder)
    if found is None:
        return None, None
    holder = None if found.holder is None else {"pid": found.holder.pid, "host": found.holder.host}
    shown = {
        "going_on": holder,
        "left": found.left,
        "unfinished": list(found.unfinished),
        "bytes": found.bytes,
        "resumable": found.holder is None and not found.is_complete,
    }
    return shown, found.title or None


def _count_lives(record: dict[str, Any]) -> int:
    try:
        return sum(life.count for life in msgspec.convert(record.get("lives", ()), list[RunLife])) or 1
    except msgspec.ValidationError:  # written by another program, or by hand
        return 1


def _checked_value(record: dict[str, Any], key: str) -> Any:
    """Return a value of a record, or None if it has another type: other programs and hands can write records."""
    try:
        return msgspec.convert(record.get(key), _KINDS[key])
    except msgspec.ValidationError:
        return None


def _describe_end(path: Path, record: dict[str, Any], ledger: dict[str, Any] | None) -> str:
    if ledger is not None and ledger["going_on"] is not None:
        return "going on"
    code = record.get("exit_code")
    if isinstance(code, int):
        return _ENDS.get(code, "stopped")
    if not record:
        return "no record" if ledger is not None and not path.exists() else "unreadable"
    return "going on" if records.is_going_on(path, record) else "killed"


def describe_outcome_of(record: dict[str, Any]) -> str:
    """Return the last line of its summary; without a name of a task that was not written by runner."""
    from runner.ledger.balance import Balance
    from runner.report.console import describe_outcome

    try:
        hows = {str(task["name"]): task["how"] for task in record["tasks"]}
        cut = [str(name) for name in record.get("unfinished", ())]
        return describe_outcome(Balance(**record["balance"]), hows, cut, queues=bool(record["queues"]))
    except (TypeError, ValueError, KeyError, AttributeError):  # written by another program, or by hand
        return "?"


def _run_lines(state: Path) -> list[str]:
    rows = []
    for entry in past_runs(state):
        try:
            began = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(entry["began"])))
            took = format_duration(float(entry["seconds"]))
        except (TypeError, ValueError, KeyError, OverflowError, OSError):  # written by another program, or by hand
            began = took = "?"
        took += f" in {entry['lives']:,} lives" if entry["lives"] > 1 else ""
        title, end, outcome = printable_line(entry["title"] or "?")[:30], entry["end"], entry["outcome"]
        if (ledger := entry["ledger"]) is not None:
            if (holder := ledger["going_on"]) is not None:
                end = f"going on ({holder['pid'] or '?'}, {printable_line(holder['host'] or '?')})"
            elif ledger["resumable"]:
                outcome = _resumable_line(state, entry["run"], ledger)
        rows.append((entry["run"], began, end, took, title, outcome))
    return format_table(rows) or [f"no run in {state} has a record"]


def _resumable_line(state: Path, run: str, ledger: dict[str, Any]) -> str:
    """Return what is left of a durable run, and the command that goes on with it."""
    from runner.report.console import list_names

    left = "left ?" if ledger["left"] is None else f"left {ledger['left']:,}"
    if not ledger["left"] and ledger["unfinished"]:
        left = f"{list_names(ledger['unfinished'])} had not ended"
    return f"{left} · {_format_megabytes(ledger['bytes'])} · {resume_command(state, run)}"


def _format_megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size >= 9_950_000 else f"{size / 1e6:.1f} MB"


def resume_command(state: Path, run: str) -> str:
    """Return the command that goes on with a run."""
    is_here = state.resolve() == shared.DEFAULT_STATE.resolve()
    return f"runner resume {run}" if is_here else f"runner resume {run} --state {shlex.quote(str(state))}"


_LISTS: dict[str, tuple[Callable[[Any], list[str]], Callable[[Any], list[dict[str, Any]]]]] = {
    "tasks": (task_lines, _task_records),
    "tests": (test_lines, _test_records),
    "functions": (function_lines, _function_records),
    "plugins": (plugin_lines, plugin_records),
    "params": (param_lines, _param_records),
    "runs": (_run_lines, past_runs),
}


_NO_FILE = f"""\
There is no {DEFAULT_FILE} here. The smallest useful one runs a function of plugins/*.py that is marked with `@task`:

  [tasks.hello]
  call = "hello"

  runner run FILE        run another file
  runner check FILE      show every error in it
  runner --help          all commands"""


def show_overview() -> None:
    """Print the tasks of ./tasks.toml, and three commands to go on with."""
    from runner import config

    if not Path(DEFAULT_FILE).exists():
        print(_NO_FILE)
        return
    name = None
    try:
        loaded = config.examine(DEFAULT_FILE, lenient=True)
    except ConfigError as error:
        print(f"{error}\n")
    else:
        print(f"{loaded.display_title}\n")
        print("\n".join(task_lines(loaded)))
        print()
        name = next(iter(loaded.declared_params), None)
    print("  runner run             run it" + (f"; with a param: runner run -p {name}=VALUE" if name else ""))
    print("  runner graph           draw it")
    print("  runner --help          all commands")
