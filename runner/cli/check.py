"""`runner check`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from runner.cli.json_stdout import claim_stdout
from runner.cli.plugins import NoPluginOption, NoPluginsOption, OnlyPluginOption, plugin_choice
from runner.cli.shared_options import ParamOptions, SetOptions, complete_file, file_or_default, parse_pairs
from runner.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runner.plugins import PluginPolicy
    from runner.problems import Problem

_FORMATS = ("text", "json", "github")


def check(
    files: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads the annotation at run time
        typer.Argument(
            metavar="FILE",
            help="The files; `-` is standard input. Default: tasks.toml here.",
            autocompletion=complete_file,
            show_default=False,
        ),
    ] = None,
    param: ParamOptions = None,
    set_: SetOptions = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    static: Annotated[
        bool, typer.Option("--static", help="Execute no code of the project: functions are not looked at.")
    ] = False,
    no_plugin: NoPluginOption = None,
    no_plugins: NoPluginsOption = False,
    only_plugin: OnlyPluginOption = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="text|json|github", help="How to write.", autocompletion=lambda: _FORMATS)
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
    write = print if format_ == "text" else claim_stdout()
    chosen = None if static else plugin_choice(no_plugin, no_plugins, only_plugin)
    given, sets = dict(parse_pairs(param, "--param")), parse_pairs(set_, "--set")
    found: list[Problem] = []
    good = []
    for file in files or [file_or_default(None, "check")]:
        problems, summary = _check_one(file, given, sets, chosen)
        found += problems
        if not problems:
            good.append(f"{file}: no problems ({summary})")
    if lines := _WRITERS[format_](found, good):
        write("\n".join(lines))
    raise typer.Exit(3 if any(strict or each.severity == "error" for each in found) else 0)


def _check_one(
    file: str, params: dict[str, str], sets: list[tuple[str, str]], chosen: PluginPolicy | None
) -> tuple[Sequence[Problem], str]:
    from runner import check as checks
    from runner import config

    try:
        loaded = config.examine(file, params=params, sets=sets, lenient=True)
    except ConfigError as error:
        return error.problems, ""
    static = chosen is None
    problems = checks.check_file(loaded) if static else checks.check_everything(loaded, chosen).problems
    tasks, queues = len(loaded.tasks), len(loaded.queues)
    static_too = "; functions not looked at" if static else ""
    return problems, f"{tasks} task{'s' * (tasks != 1)}, {queues} queue{'s' * (queues != 1)}{static_too}"


def _as_text(problems: list[Problem], good: list[str]) -> list[str]:
    from runner.problems import render_problems

    return [*([render_problems(problems)] if problems else []), *good]


def _as_json(problems: list[Problem], good: list[str]) -> list[str]:  # noqa: ARG001  the same for every format
    return [json.dumps([_problem_record(problem) for problem in problems], indent=2)]


def _problem_record(problem: Problem) -> dict[str, Any]:
    place = problem.place
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "end_column": place.column + place.length if place.line else 0,
        "code": problem.code,
        "severity": problem.severity,
        "message": problem.message,
        "hint": problem.hint,
    }


def _as_github(problems: list[Problem], good: list[str]) -> list[str]:  # noqa: ARG001  the same for every format
    return [_github_command(problem) for problem in problems]


def _github_command(problem: Problem) -> str:
    place = problem.place
    end = place.column + place.length - 1
    where = f"file={_escape_property(place.file)}"
    if place.line:
        where += f",line={place.line},endLine={place.line},col={place.column},endColumn={end}"
    message = problem.message + (f"\n{problem.hint}" if problem.hint else "")
    return f"::{problem.severity} {where},title={problem.code}::{_escape_data(message)}"


def _escape_data(text: str) -> str:
    """Escape the text of a command as GitHub's runner wants it."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape_data(text).replace(":", "%3A").replace(",", "%2C")


_WRITERS = {"text": _as_text, "json": _as_json, "github": _as_github}
