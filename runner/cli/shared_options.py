"""Arguments that several verbs have: files, params, keys, plugins, runs; and their completion in shells."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from runner.errors import RunnerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.model import Config
    from runner.plugins import PluginPolicy
    from runner.runs import OutputOptions

DEFAULT_FILE = "tasks.toml"
DEFAULT_STATE = Path(".runner")
COLORS = ("auto", "always", "never")
DISPLAYS = ("auto", "live", "plain", "json", "none")


def complete_file(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return TOML files, and folders on the way to them."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    try:
        there = sorted(folder.iterdir())
    except OSError:
        return []
    shown = [f"{path}/" if path.is_dir() else str(path) for path in there if not path.name.startswith(".")]
    return [path for path in shown if path.endswith((".toml", "/")) and path.startswith(incomplete)]


def complete_task(ctx: Any, args: Any, incomplete: str) -> list[tuple[str, str]]:  # noqa: ARG001  typer's signature
    """Return names of tasks in the file that the command line names."""
    config = _examine_quietly(ctx)
    return [(task.name, task.help) for task in config.tasks.values()] if config else []


def complete_test(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return names of tests in the files that the command line names."""
    from runner.file_tests.reading import read_tests

    found: list[str] = []
    for file in ctx.params.get("files") or [DEFAULT_FILE]:
        with contextlib.suppress(RunnerError, OSError):
            found += [test.name for test in read_tests(file).tests if test.name.startswith(incomplete)]
    return found


def complete_param(ctx: Any, args: Any, incomplete: str) -> list[tuple[str, str]]:  # noqa: ARG001  typer's signature
    """`NAME=` of the file's params, and their choices once the name is there."""
    config = _examine_quietly(ctx)
    if config is None:
        return []
    name, equals, _ = incomplete.partition("=")
    if equals and name in config.declared_params:
        return [(f"{name}={choice}", "") for choice in config.declared_params[name].choices or ()]
    return [(f"{param.name}=", param.help) for param in config.declared_params.values()]


def complete_set(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return `tasks.NAME.key=` and the like."""
    from runner.config import grammar

    config = _examine_quietly(ctx)
    if config is None:
        return []
    found = [f"run.{key}=" for key in grammar.RUN]
    found += [f"tasks.{task}.{key}=" for task in config.tasks for key in grammar.TASK]
    return found + [f"queues.{queue}.{key}=" for queue in config.queues for key in grammar.QUEUE]


def complete_queue(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return names of queues in the file that the command line names."""
    config = _examine_quietly(ctx)
    return list(config.queues) if config else []


def complete_plugin(ctx: Any, args: Any, incomplete: str) -> list[tuple[str, str]]:  # noqa: ARG001  typer's signature
    """Return names of plugins, those of the project first; none is imported."""
    from runner.plugins import discovery

    config = _examine_quietly(ctx)
    local = discovery.local_plugins(config.folder, config.plugins) if config else []
    found = {each.name: each.origin for each in (*local, *discovery.installed_plugins())}
    return [*found.items()]


def complete_run(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return ids of runs that have left a record or a ledger, the last one first, and `last`."""
    from runner.store import records, run_folders

    return _newest_first(ctx, records.RECORD_FILE, run_folders.LEDGER_FILE)


def complete_durable_run(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return ids of runs that have left a ledger, the last one first, and `last`."""
    from runner.store import run_folders

    return _newest_first(ctx, run_folders.LEDGER_FILE)


def complete_run_with_letters(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return ids of runs that have left dead letters, the last one first, and `last`."""
    from runner.store import dead_letters

    return [*reversed(dead_letters.runs_with_dead_letters(_state_folder(ctx))), "last"]


def complete_running(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return ids of runs that are going on."""
    from runner.store import running_runs

    return [each.run for each in running_runs.find_running(_state_folder(ctx))]


def _newest_first(ctx: Any, *files: str) -> list[str]:
    from runner.store import run_folders

    return [*reversed(run_folders.runs_with_files(_state_folder(ctx), *files)), "last"]


def _state_folder(ctx: Any) -> Path:
    return Path(ctx.params.get("state") or DEFAULT_STATE)


def _examine_quietly(ctx: Any) -> Config | None:
    from runner import config

    # After an option whose value is being typed, the words are not parsed yet.
    unparsed = (word for word in ctx.args if word.endswith(".toml") and Path(word).is_file())
    given = ctx.params.get("file") or ctx.params.get("files") or next(unparsed, DEFAULT_FILE)
    try:
        return config.examine(given if isinstance(given, str) else given[0], env={}, lenient=True)
    except (RunnerError, OSError, IndexError):
        return None


FileArgument = Annotated[
    str | None,
    Argument(
        metavar="FILE",
        help="The file; `-` is standard input. Default: tasks.toml here.",
        autocompletion=complete_file,
        show_default=False,
    ),
]
ParamOptions = Annotated[
    list[str] | None,
    Option("--param", "-p", metavar="NAME=VALUE", help="Set a param of the file.", autocompletion=complete_param),
]
SetOptions = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="PATH=VALUE",
        help="Set any key of the file, in TOML: tasks.bake.workers=2",
        autocompletion=complete_set,
    ),
]
NoPluginOption = Annotated[
    list[str] | None,
    Option(metavar="NAME", help="Use no plugin of this name, or of this distribution.", autocompletion=complete_plugin),
]
NoPluginsOption = Annotated[bool, Option("--no-plugins", help="Use no installed plugin.")]
OnlyPluginOption = Annotated[
    list[str] | None,
    Option(metavar="NAME", help="Of the installed plugins, use only this one.", autocompletion=complete_plugin),
]
RunArgument = Annotated[
    str,
    Argument(
        metavar="[RUN]",
        help="A run's id, or the beginning of one; `last~1` is the one before the last. Default: the last run.",
        autocompletion=complete_run,
    ),
]
RunWithLettersArgument = Annotated[
    str,
    Argument(
        metavar="[RUN]",
        help="A run's id, or the beginning of one; `last~1` is the one before the last. Default: the last run.",
        autocompletion=complete_run_with_letters,
    ),
]
GraceOption = Annotated[str | None, Option(metavar="TIME", help="Time to drain after the first Ctrl-C, e.g. 30s.")]
HaltOption = Annotated[
    str | None, Option(metavar="N|P%|first|never", help="Stop once N items, or P % of a task's items, are dead.")
]
DeadlineOption = Annotated[str | None, Option(metavar="TIME", help="Stop after this time, e.g. 2h; exit 124.")]
DeadOkOption = Annotated[bool, Option("--dead-ok", help="Exit 0 although some items are dead.")]
EventsOption = Annotated[str | None, Option(metavar="FILE", help="Write the run's events to FILE, as JSON lines.")]
JsonOption = Annotated[
    bool, Option("--json", help="Write the summary as JSON to standard output, all else to standard error.")
]
ProgressOption = Annotated[
    str,
    Option(
        metavar="auto|live|plain|json|none",
        help="How to show how far it is: on the terminal, as lines for people or programs, not at all.",
        autocompletion=lambda: DISPLAYS,
    ),
]
NoRecordOption = Annotated[bool, Option("--no-record", help="Keep no record of this run.")]
WatchOption = Annotated[
    bool, Option("--watch", help="Run again when the file, a plugin or a path param changes, until Ctrl-C.")
]
QuietOption = Annotated[bool, Option("--quiet", "-q", help="Only errors, and the balance when something is wrong.")]
VerboseOption = Annotated[
    bool, Option("--verbose", "-v", help="Print what each task did, even if the run was short and went well.")
]
PortOption = Annotated[int, Option(metavar="N", min=0, max=65535, help="The port of --web. Default: any that is free.")]
NotifyOption = Annotated[
    str | None,
    Option(metavar="COMMAND", help="Execute COMMAND of the shell at the end, with the outcome in its environment."),
]
ColorOption = Annotated[
    str,
    Option(
        metavar="auto|always|never",
        help="Color what is shown: on a terminal unless NO_COLOR is set, always, or never.",
        autocompletion=lambda: COLORS,
    ),
]
StateOption = Annotated[Path, Option(metavar="FOLDER", readable=False, help="Where runs are kept (`state` in [run]).")]


def file_or_default(file: str | None, verb: str) -> str:
    """Return the file that is meant; UsageError when none is."""
    if file is not None:
        return file
    if not Path(DEFAULT_FILE).exists():
        raise UsageError(f"there is no {DEFAULT_FILE} here; name a file: runner {verb} FILE")
    return DEFAULT_FILE


def check_progress(progress: str) -> None:
    """UsageError for a display that there is not."""
    if progress not in DISPLAYS:
        raise UsageError(f"--progress knows {', '.join(DISPLAYS)}, not {progress[:40]!r}")


def run_settings(**values: str | None) -> list[tuple[str, str]]:
    """Return what options say of `[run]`, as `--set` would: TOML, in which a number stays one.

    >>> run_settings(halt="20", grace="5s", log=None)
    [('run.halt', '20'), ('run.grace', '"5s"')]
    """
    given = {key: value for key, value in values.items() if value is not None}
    return [(f"run.{key}", value if value.isdigit() else json.dumps(value)) for key, value in given.items()]


def parse_pairs(texts: Iterable[str] | None, option: str) -> list[tuple[str, str]]:
    """Return `NAME=VALUE` texts; UsageError for any other text."""
    pairs = [text.partition("=") for text in texts or ()]
    if not all(name and equals for name, equals, _ in pairs):
        raise UsageError(f"{option} needs NAME=VALUE")  # a value may be a secret: none is repeated
    return [(name, value) for name, _, value in pairs]


def absolute_file(path: str | None) -> str | None:
    """Return a file for output that keeps its place when this process goes to another folder; `-` is no file.

    >>> absolute_file("-"), absolute_file(None), absolute_file("/a/b")
    ('-', None, '/a/b')
    """
    return os.path.abspath(path) if path and path != "-" else path  # noqa: PTH100  a str may be any path


def output_options(*, color: str = "auto", **chosen: Any) -> OutputOptions:
    """Return what the options of a command say of its output; colors where a terminal is, and nobody forbids them.

    `color` is the option, which goes before NO_COLOR; programs that the tasks start are told by that variable.
    """
    from runner import runs

    if color not in COLORS:
        raise UsageError(f"--color knows {', '.join(COLORS)}, not {color[:40]!r}")
    if color == "never":
        os.environ["NO_COLOR"] = "1"
    elif color == "always":
        os.environ.pop("NO_COLOR", None)
    is_colored = color == "always" or (sys.stdout.isatty() and "NO_COLOR" not in os.environ)
    return runs.OutputOptions(color=is_colored, **chosen)


def plugin_choice(no_plugin: list[str] | None, no_plugins: bool, only_plugin: list[str] | None) -> PluginPolicy:
    """Return the policy that the options and the environment make together."""
    from runner.plugins import PluginPolicy

    return PluginPolicy.read(blocked=no_plugin or (), none=no_plugins, only=only_plugin or ())


def examine_file(file: str | None, verb: str, params: list[str] | None, sets: list[str] | None) -> Config:
    """Return the file, read for a verb that runs nothing; ConfigError if it has errors in its keys."""
    from runner import check, config

    given, keys = dict(parse_pairs(params, "--param")), parse_pairs(sets, "--set")
    found = config.examine(file_or_default(file, verb), params=given, sets=keys, lenient=True)
    check.raise_if_errors(found.problems, found)
    return found
