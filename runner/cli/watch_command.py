"""`--watch` of `runner run` and `runner test`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from runner.errors import RunnerError, UsageError
from runner.watching import CommandWatcher, WatchedPath, find_watched_paths, look_at_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.model import Config


def watch_run(
    files: list[str],
    read_params: Callable[[], dict[str, Any]],
    sets: list[str] | None = None,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    *,
    quiet: bool,
) -> NoReturn:
    """Run the first of the files again and again, until a signal ends it; `read_params` reads the others."""
    from runner import config
    from runner.cli import shared_options as shared

    file = files[0]
    if file == "-":
        raise UsageError("--watch needs a file whose changes can be seen; standard input is read once")
    settings = shared.parse_pairs(sets, "--set")

    def examine() -> list[Config]:
        found = config.examine(file, params=read_params(), sets=settings, lenient=True)
        return [config.select_tasks(found, only, skip)]

    _watch(examine, files, quiet=quiet)


def watch_tests(files: list[str]) -> NoReturn:
    """Run the tests of the files again and again, until a signal ends it."""
    from runner.file_tests.reading import read_tests

    _watch(lambda: [read_tests(file) for file in files], files, quiet=False)


def _watch(examine: Callable[[], list[Config]], files: list[str], *, quiet: bool) -> NoReturn:
    """Watch what the files that `examine` returns depend on, and `files` whatever they say."""
    known: list[WatchedPath] = []

    def find_paths() -> list[WatchedPath]:
        nonlocal known
        try:
            configs = examine()
        except (RunnerError, OSError):  # the command says what is wrong; what was known may be the remedy
            configs = []
        found = [path for each in configs for path in find_watched_paths(each, files)]
        if any(each.problems for each in configs) or not configs:
            found += [*known, *look_at_files(files)]
        known = found
        return known

    def tell(text: str) -> None:
        if not quiet:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()

    raise typer.Exit(CommandWatcher(_own_arguments(), find_paths, tell).run())


def _own_arguments() -> list[str]:
    """Return the arguments of this command without `--watch`, and without `-C DIR`: this process is there already."""
    arguments: list[str] = []
    given = iter(sys.argv[1:])
    for each in given:
        if each == "-C":
            next(given, None)
        elif each != "--watch" and not each.startswith("-C"):
            arguments.append(each)
    return arguments
