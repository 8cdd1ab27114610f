"""`runner each`: a command for each argument or line of standard input, without a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from runner.cli import each_file, streams
from runner.cli import shared_options as shared
from runner.errors import UnsafeFolder, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.model import Config

_FOLDER = "each"
#: So many files of earlier commands are kept: `runner resume` and `runner dead retry` read them again.
_KEPT_FILES = 200
#: Values beyond so many characters stand in a file of their own, and not in the file of tasks.
_MOST_VALUES = 100_000


def complete_word(ctx: Any, args: Any, incomplete: str) -> list[str]:  # noqa: ARG001  typer's signature
    """Return programs for the first word, and for all others files."""
    if not ctx.params.get("command") and "/" not in incomplete:
        return sorted(_programs_that_begin(incomplete))
    folder, _, name = incomplete.rpartition("/")
    with contextlib.suppress(OSError):
        there = sorted(Path(f"{folder}/" if "/" in incomplete else ".").iterdir())
        prefix = f"{folder}/" if "/" in incomplete else ""
        return [
            f"{prefix}{path.name}{'/' * path.is_dir()}"
            for path in there
            if path.name.startswith(name) and (name or not path.name.startswith("."))
        ]
    return []


def _programs_that_begin(text: str) -> set[str]:
    found: set[str] = set()
    for folder in os.get_exec_path():
        with contextlib.suppress(OSError):
            found.update(each.name for each in os.scandir(folder) if each.name.startswith(text))
    return found


def each(
    command: Annotated[
        list[str] | None,
        Argument(
            metavar="COMMAND [::: VALUE]",
            help="The command; its values, or `:::: FILE`s of them. Default: the lines of standard input.",
            autocompletion=complete_word,
        ),
    ] = None,
    jobs: Annotated[
        str,
        Option("--jobs", "-j", metavar="N", help="Commands at a time: 8, 50%, +2, -1; 0: many. Default: the cores."),
    ] = "100%",
    retry: Annotated[
        int, Option("--retry", metavar="N", min=0, max=1000, help="Try a command that fails N more times.")
    ] = 0,
    timeout: Annotated[
        str | None, Option("--timeout", metavar="TIME", help="Kill a command that takes longer: 20 (seconds), 5m.")
    ] = None,
    keep_order: Annotated[
        bool, Option("--keep-order", "-k", help="Write the output in the order of the input.")
    ] = False,
    tag: Annotated[bool, Option("--tag", help="Put the values and a tab in front of each line of output.")] = False,
    arg_file: Annotated[
        list[str] | None, Option("--arg-file", "-a", metavar="FILE", help="Read values from FILE, one on each line.")
    ] = None,
    null: Annotated[
        bool, Option("--null", "-0", help="Values that are read end in a NUL, as of find -print0.")
    ] = False,
    skip_empty: Annotated[bool, Option("--no-run-if-empty", "-r", help="Run nothing for an empty value.")] = False,
    columns: Annotated[
        str | None, Option("--colsep", metavar="REGEX", help="Split each value into columns: {1}, {2}, ...")
    ] = None,
    halt: Annotated[
        str | None,
        Option(metavar="first|N|P%|now,fail=N", help="Stop once N commands, or P % of them, have failed for good."),
    ] = None,
    joblog: Annotated[
        str | None, Option("--joblog", metavar="FILE", help="Write a line for each command to FILE, as it ends.")
    ] = None,
    rate: Annotated[str | None, Option(metavar="RATE", help="Commands that are started at most: 2/s, 100/min.")] = None,
    max_output: Annotated[
        str, Option("--max-output", metavar="SIZE", help="Kill a command that writes more.")
    ] = each_file.DEFAULT_MAX_OUTPUT,
    dry_run: Annotated[bool, Option("--dry-run", help="Print the commands, and run none.")] = False,
    show: Annotated[
        bool, Option("--show", help="Print the file of tasks that this stands for, and run nothing.")
    ] = False,
    durable: Annotated[bool, Option("--durable", help="Keep a ledger on disk, for `runner resume`.")] = False,
    resume: Annotated[
        bool,
        Option("--resume", help="Go on with the last durable run of this command that was cut short, or begin one."),
    ] = False,
    grace: shared.GraceOption = None,
    deadline: shared.DeadlineOption = None,
    dead_ok: shared.DeadOkOption = False,
    events: shared.EventsOption = None,
    as_json: shared.JsonOption = False,
    progress: shared.ProgressOption = "auto",
    no_record: shared.NoRecordOption = False,
    quiet: shared.QuietOption = False,
    verbose: shared.VerboseOption = False,
    color: shared.ColorOption = "auto",
) -> None:
    """Run a command for each value, as GNU Parallel does. Options stand before the command.

    {} is the value, {.} without extension, {/} its last name, {//} its folder, {/.} its last name without extension,
    {1} {2} the values of several sources, {#} the number of the job; without any, the value is the last argument. No
    shell looks at the words. A command that is one text with spaces in it is for /bin/sh: 'gzip -c {} > {/}.gz'.

    Examples:
      runner each gzip ::: *.log

      ls *.png | runner each -j 8 --retry 2 --timeout 20s convert {} {.}.jpg

      find . -name '*.log' -print0 | runner each -0 -k wc -l

      runner each -k 'echo {1} of {2}' ::: a b ::: 1 2 3
    """
    document = streams.claim_stdout() if as_json else None
    shared.check_progress(progress)
    given = each_file.split_command_line(command or [], arg_file or [])
    options = each_file.EachOptions(
        jobs=jobs,
        retry=retry,
        limit=timeout,
        keep_order=keep_order,
        halt=halt,
        joblog=joblog,
        tag=tag,
        null=null,
        skip_empty=skip_empty,
        columns=columns,
        rate=rate,
        max_output=max_output,
    )
    if show:
        print(each_file.render_file(given, options), end="")
        return
    if dry_run:
        _print_dry_run(given, options)
        return
    if "-" in given.sources and sys.stdin is not None and sys.stdin.isatty():
        sys.stderr.write("runner each: the values are read from the terminal; `::: VALUE...` gives them here\n")
    record = "0" if no_record else None
    sets = shared.run_settings(grace=grace, deadline=deadline, record=record)
    sets += [("run.durable", "true")] if durable or resume else []
    _run_each(
        _load_kept_file(given, options, sets, is_kept=durable or resume or not no_record),
        sets,
        partial(
            shared.output_options,
            quiet=quiet,
            verbose=verbose,
            dead_ok=dead_ok,
            progress=progress,
            events_file=shared.absolute_file(events),  # a run that goes on does so in its own folder
            color=color,
        ),
        document,
        resume=resume,
    )


def _run_each(
    loaded: Config,
    sets: list[tuple[str, str]],
    output_options: Callable[[], object],
    document: Callable[[str], None] | None,
    *,
    resume: bool,
) -> None:
    from runner import gc_tuning, runs
    from runner.cli.run import execute_and_leave
    from runner.plugins import PluginPolicy

    earlier = unfinished = None
    if loaded.run.durable and not loaded.problems:
        from runner.cli import durable_command

        unfinished = durable_command.find_unfinished_run(loaded) if resume else None
    gc_tuning.freeze_imported()
    policy = PluginPolicy.read()
    if unfinished is not None:
        earlier = durable_command.open_run(unfinished)
        sys.stderr.write(f"run {unfinished.name} goes on, with the values that it has read already\n")
        plan = durable_command.plan_of_earlier_run(earlier, [], sets, policy)
    else:
        plan = runs.prepare_plan(loaded, policy)
        if plan.settings.durable:
            plan = replace(plan, command=durable_command.describe_command(loaded, plan))
    execute_and_leave(plan, output_options(), document, earlier=earlier)  # type: ignore[arg-type]  # a partial's


def _print_dry_run(given: each_file.CommandLine, options: each_file.EachOptions) -> None:
    from runner.std.shell import Shell

    command = each_file.translate_command(given.command, len(given.sources), has_columns=options.columns is not None)
    try:
        for line in each_file.print_commands(given, options, Shell(command)):
            print(line)
    except (OSError, ValueError, LookupError) as error:
        raise UsageError(f"runner each: {error}") from None


def _load_kept_file(
    given: each_file.CommandLine, options: each_file.EachOptions, sets: list[tuple[str, str]], *, is_kept: bool
) -> Config:
    """Return the file, read from where it is kept for a later life of the run, or from a temporary folder."""
    state = shared.DEFAULT_STATE
    if is_kept:
        try:
            with _state_folder(state) as folder:
                return _load_file(given, options, sets, folder, "..")
        except UnsafeFolder:
            raise
        except OSError:  # a folder that may not be written: the run says so of its record
            pass
    with tempfile.TemporaryDirectory(prefix="runner-each-") as name:
        return _load_file(given, options, sets, Path(name), str(state.absolute()))


@contextlib.contextmanager
def _state_folder(state: Path):  # type: ignore[no-untyped-def]
    from runner.store import run_folders

    with run_folders.open_state_folder(state, _FOLDER, make=True):
        yield state / _FOLDER


def _load_file(
    given: each_file.CommandLine, options: each_file.EachOptions, sets: list[tuple[str, str]], folder: Path, state: str
) -> Config:
    from runner import check, config
    from runner.store.run_folders import replace_path

    given, options = _with_values_apart(given, options, folder)
    text = each_file.render_file(given, options, state=state)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            "the command has bytes that are not UTF-8; values may have them, the command may not"
        ) from None
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.toml"
    replace_path(path, data)
    _forget_old_files(folder)
    loaded = config.examine(path, sets=sets)
    check.raise_if_errors(loaded.problems, loaded)
    return loaded


def _with_values_apart(
    given: each_file.CommandLine, options: each_file.EachOptions, folder: Path
) -> tuple[each_file.CommandLine, each_file.EachOptions]:
    """Return the same, with values that a file of tasks cannot hold in files of their own, which end in NULs."""
    from runner.store.run_folders import replace_path

    sources: list[list[str] | str] = []
    for source in given.sources:
        raw = [os.fsencode(value) for value in source] if isinstance(source, list) else []
        if sum(map(len, raw)) <= _MOST_VALUES and all(map(_is_utf8, raw)):
            sources.append(source)
            continue
        data = b"".join(value + b"\0" for value in raw)
        path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.values"
        replace_path(path, data)
        sources.append(str(path))
    if sources == list(given.sources):
        return given, options
    if not options.null and any(isinstance(source, str) for source in given.sources):
        raise UsageError("so many values, or values that are not UTF-8, beside a file of lines: put them into a file")
    return replace(given, sources=tuple(sources)), replace(options, null=True)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _forget_old_files(folder: Path) -> None:
    """Remove all but the last files of commands."""
    with contextlib.suppress(OSError):
        for ending in ("*.toml", "*.values"):
            files = sorted(folder.glob(ending), key=lambda path: path.stat().st_mtime)
            for path in files[:-_KEPT_FILES]:
                path.unlink()
