"""Which tests there are: those of a file, or of a `*.test.toml` that names the file which it tests."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import check, config
from runner.config import grammar, toml
from runner.config.reader import Reader
from runner.config.source_map import SourceMap
from runner.errors import ConfigError
from runner.problems import Location, Problem, render_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.model import Config

#: How the name of a file ends that holds nothing but tests of another one.
TEST_FILE_ENDING = ".test.toml"


def read_tests(file: str, params: Mapping[str, Any] | None = None) -> Config:
    """Return a file with its tests, without executing anything of it; ConfigError has all problems.

    The tests of a `*.test.toml` come with the file that it names. `params` are values for params of the file.
    """
    given = dict(params or {})
    if not file.endswith(TEST_FILE_ENDING):
        found = config.examine(file, params=given, lenient=True)
        check.raise_if_errors(check.check_file(found), found)
        return found
    places, reader, raw = _read_raw(file)
    names = raw.get("file")
    problems: list[Problem] = []
    if isinstance(names, str) and names:
        target = os.path.normpath(Path(file).parent / names)
        found = config.examine(target, params=given, lenient=True)
        check.raise_if_errors(check.check_file(found), found)
        reader.names = {"queue": found.queues, "task": found.tasks, "param": found.declared_params}
    else:  # nothing can be said of the names in its tests
        reader.unknown_paths |= {("queues",), ("tasks",), ("params",)}
    made = reader.convert_table(raw, grammar.TEST_FILE, (), "the file")
    problems = reader.finished_problems()
    if not problems:
        found = replace(found, tests=made.get("tests", ()))
        problems = [places.complete(problem) for problem in check.find_test_problems(found)]
    if problems:
        raise ConfigError(render_problems(problems), problems)
    return found


def _read_raw(file: str) -> tuple[SourceMap, Reader, dict[str, Any]]:
    places = SourceMap(file, "")
    try:
        _, places.text = toml.read(file)
        raw = toml.parse_toml(places.text)
    except toml.UnreadableFile as error:
        place = Location(file, error.line, error.column)
        shown = error.shown or places.source_line(place)
        problem = Problem(error.code, error.message, place, "error", error.hint, shown)
        raise ConfigError(render_problems([problem]), [problem]) from None
    return places, Reader(places), raw
