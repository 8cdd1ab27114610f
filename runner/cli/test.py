"""`runner test`: the tests that stand in files, `[[tests]]`."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from runner.cli import shared_options as shared
from runner.cli.streams import claim_stdout
from runner.errors import UsageError
from runner.text import did_you_mean

if TYPE_CHECKING:
    from runner.file_tests.processes import PlannedTest, TestResult


def run_file_tests(
    files: Annotated[
        list[str] | None,
        Argument(
            metavar="FILE",
            help="The files, or files of tests (NAME.test.toml). Default: tasks.toml here, and all *.test.toml.",
            autocompletion=shared.complete_file,
            show_default=False,
        ),
    ] = None,
    word: Annotated[
        str | None,
        Option(
            "-k", metavar="TEXT", help="Only tests whose names have this in them.", autocompletion=shared.complete_test
        ),
    ] = None,
    stop_early: Annotated[bool, Option("-x", help="Stop after the first test that fails.")] = False,
    jobs: Annotated[int, Option("-j", "--jobs", metavar="N", min=1, max=1000, help="Run N tests side by side.")] = 1,
    repeat: Annotated[int, Option(metavar="N", min=1, max=1_000_000, help="Run each test N times.")] = 1,
    junit: Annotated[str | None, Option(metavar="FILE", help="Write the results to FILE, as JUnit's XML.")] = None,
    as_json: Annotated[bool, Option("--json", help="Write the results as JSON to standard output.")] = False,
    watch: shared.WatchOption = False,
) -> None:
    """Run the tests of files, each on the file's real tasks and workers, in an empty folder of its own.

    Exit 0: all passed; 1: a test failed; 2: there is no such test; 3: a file or a plugin is wrong.

    Examples:
      runner test

      runner test thumbs.toml -k rejected -x

      runner test -j 4 --repeat 20 --junit results.xml
    """
    from runner.engines import process_setup
    from runner.file_tests import processes, results

    if watch:
        from runner.cli.watch_command import watch_tests

        watch_tests(_test_files(files))
    document = claim_stdout() if as_json else None
    planned = _plan_tests(files, word, repeat)
    began = time.monotonic()
    found: list[TestResult] = []
    interrupt = 0
    try:  # a signal ends the tests that go on, and their folders go
        with process_setup.interrupt_on_signals(), contextlib.closing(processes.run_tests(planned, jobs)) as running:
            for result in running:
                found.append(result)
                print("\n".join(results.describe_result(result)), flush=True)
                if stop_early and not result.has_passed:
                    break
    except KeyboardInterrupt as end:
        interrupt = getattr(end, "number", signal.SIGINT)
    places = {id(each): place for place, each in enumerate(planned)}
    found.sort(key=lambda each: places[id(each.planned)])
    print(results.describe_all(found, time.monotonic() - began, len(planned)))
    if junit is not None:
        _write_file(junit, results.junit_xml(found))
    if document is not None:
        document(json.dumps([results.result_record(each) for each in found], indent=2))
    if interrupt:
        raise typer.Exit(128 + interrupt)
    raise typer.Exit(3 if any(each.is_error for each in found) else int(any(not each.has_passed for each in found)))


def _plan_tests(files: list[str] | None, word: str | None, repeat: int) -> list[PlannedTest]:
    """Return the tests that are meant, in the order of the files; UsageError if there are none."""
    from runner.file_tests.processes import PlannedTest
    from runner.file_tests.reading import read_tests

    given = _test_files(files)
    every = [(file, number, one) for file in given for number, one in enumerate(read_tests(file).tests)]
    if not every:
        raise UsageError(f"no test in {', '.join(given)}; a test is a table `[[tests]]`")
    chosen = [each for each in every if word is None or word.casefold() in each[2].name.casefold()]
    if not chosen:
        near = did_you_mean(word or "", [one.name for _, _, one in every])
        raise UsageError(f"no test whose name has {(word or '')[:60]!r} in it; {near}".rstrip("; "))
    return [PlannedTest(*each, time, repeat) for time in range(1, repeat + 1) for each in chosen]


def _test_files(files: list[str] | None) -> list[str]:
    """Return the files that are meant; UsageError if there are none."""
    from runner.file_tests.reading import TEST_FILE_ENDING

    given = files or [*([shared.DEFAULT_FILE] if Path(shared.DEFAULT_FILE).exists() else []), *_test_files_here()]
    if not given:
        raise UsageError(
            f"there is no {shared.DEFAULT_FILE} here, and no *{TEST_FILE_ENDING}; name a file: runner test FILE"
        )
    if "-" in given:
        raise UsageError("tests are read from files, not from standard input: each test reads its file anew")
    return given


def _test_files_here() -> list[str]:
    from runner.file_tests.reading import TEST_FILE_ENDING

    return sorted(str(path) for path in Path().glob(f"*{TEST_FILE_ENDING}"))


def _write_file(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--junit {path}: {error.strerror or error}") from None
