"""`runner check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from runner.cli import shared_options as shared
from runner.cli.streams import claim_stdout
from runner.errors import ConfigError, UsageError
from runner.text import count_with_noun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plugins import PluginPolicy
    from runner.problems import Problem

_FORMATS = ("text", "json", "github")
#: What the texts and the properties of a command for GitHub's runner may not contain as it is.
_ESCAPED_TEXT = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
_ESCAPED_PROPERTY = _ESCAPED_TEXT | str.maketrans({":": "%3A", ",": "%2C"})


def check(
    files: Annotated[
        list[str] | None,
        Argument(
            metavar="FILE",
            help="The files; `-` is standard input. Default: tasks.toml here.",
            autocompletion=shared.complete_file,
            show_default=False,
        ),
    ] = None,
    param: shared.ParamOptions = None,
    set_: shared.SetOptions = None,
    strict: Annotated[bool, Option("--strict", help="Warnings are errors.")] = False,
    static: Annotated[
        bool, Option("--static", help="Execute no code of the project: functions are not looked at.")
    ] = False,
    no_plugin: shared.NoPluginOption = None,
    no_plugins: shared.NoPluginsOption = False,
    only_plugin: shared.OnlyPluginOption = None,
    format_: Annotated[
        str, Option("--format", metavar="text|json|github", help="How to write.", autocompletion=lambda: _FORMATS)
    ] = "text",
) -> None:
    """Show all errors of the files, and start nothing.

    Exit 0: no errors; 3: errors (with --strict, or warnings).

    Examples:
      runner check

      runner check jobs/*.toml --strict

      runner check --static --format github
    """
    if format_ not in _FORMATS:
        raise UsageError(f"--format is one of {', '.join(_FORMATS)}, not {format_}")
    from runner.problems import render_problems

    write = print if format_ == "text" else claim_stdout()
    chosen = None if static else shared.plugin_choice(no_plugin, no_plugins, only_plugin)
    given, sets = dict(shared.parse_pairs(param, "--param")), shared.parse_pairs(set_, "--set")
    found: list[Problem] = []
    good: list[str] = []
    for file in files or [shared.file_or_default(None, "check")]:
        problems, summary = _check_one(file, given, sets, chosen)
        found += problems
        if not problems:
            good.append(f"{file}: no problems ({summary})")
    if format_ == "json":
        lines = [json.dumps([_problem_record(problem) for problem in found], indent=2)]
    elif format_ == "github":
        lines = [_github_command(problem) for problem in found]
    else:
        lines = ([render_problems(found)] if found else []) + good
    if lines:
        write("\n".join(lines))
    raise typer.Exit(3 if any(strict or each.severity == "error" for each in found) else 0)


def _check_one(
    file: str, params: dict[str, str], sets: list[tuple[str, str]], chosen: PluginPolicy | None
) -> tuple[Sequence[Problem], str]:
    from runner import check as checks
    from runner import config
    from runner.file_tests.reading import TEST_FILE_ENDING, read_tests

    try:
        if file.endswith(TEST_FILE_ENDING):
            loaded = read_tests(file, params)
            return (), f"{count_with_noun(len(loaded.tests), 'test')} of {loaded.file}"
        loaded = config.examine(file, params=params, sets=sets, lenient=True)
    except ConfigError as error:
        return error.problems, ""
    problems = checks.check_file(loaded) if chosen is None else checks.check_everything(loaded, chosen).problems
    summary = f"{count_with_noun(len(loaded.tasks), 'task')}, {count_with_noun(len(loaded.queues), 'queue')}"
    return problems, summary + ("; functions not looked at" if chosen is None else "")


def _problem_record(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        **{word: getattr(place, word) for word in ("file", "line", "column")},
        "end_column": place.column + place.length if place.line else 0,
        **{word: getattr(problem, word) for word in ("code", "severity", "message", "hint")},
    }


def _github_command(problem: Problem) -> str:
    place = problem.place
    where = f"file={place.file.translate(_ESCAPED_PROPERTY)}"
    if place.line:
        end = place.column + place.length - 1
        where += f",line={place.line},endLine={place.line},col={place.column},endColumn={end}"
    message = problem.message + (f"\n{problem.hint}" if problem.hint else "")
    return f"::{problem.severity} {where},title={problem.code}::{message.translate(_ESCAPED_TEXT)}"
