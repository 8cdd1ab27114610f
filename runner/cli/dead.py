"""`runner dead`: what became of the items that were given up. Reads a file; runs and imports nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner.cli.retry import retry
from runner.cli.shared_options import DEFAULT_STATE, RunWithLettersArgument, StateOption
from runner.error_text import item_name
from runner.errors import UsageError
from runner.store import dead_letters as store
from runner.store.retries import LetterFate, read_fates
from runner.text import printable_line, printable_text

#: What a letter says of the item's bytes in its run's folder.
_OF_THE_RUN = {"kept", "not_kept", "letter"}

app = typer.Typer(help="Dead letters: the items that a run has given up.", no_args_is_help=True, rich_markup_mode=None)
app.command("retry")(retry)


@app.command("list")
def list_(
    run: RunWithLettersArgument = "last",
    state: StateOption = DEFAULT_STATE,
    limit: Annotated[int, Option("--limit", metavar="N", min=0, help="Show at most N letters; 0: all.")] = 50,
) -> None:
    """One line for each dead letter, and how many there are of each kind.

    Examples:
      runner dead list

      runner dead list 20261123-101500 --limit 0
    """
    path = _find_letters(state, run)
    kinds: Counter[tuple[str, str]] = Counter()
    fates, seen = read_fates(path.parents[2], path.parent.name), Counter[LetterFate]()
    heading = store.read_heading(path)
    if bad := store.count_unreadable_lines(path):
        sys.stderr.write(f"{path}: {bad:,} lines are not dead letters, and are skipped\n")
    title, began = _field_text(heading, "title"), _field_text(heading, "began")
    sys.stderr.write(f"run {path.parent.name}  {title}  began {began}\n")
    for count, letter in enumerate(store.read_letters(path), 1):
        kinds[_field_text(letter, "task"), _field_text(letter, "error").partition(":")[0]] += 1
        if (fate := fates.get(str(letter["id"]))) is not None:
            seen[fate] += 1
        if not limit or count <= limit:
            item, task, error, preview = (_field_text(letter, key) for key in ("id", "task", "error", "preview"))
            tries = "1 try" if letter.get("attempts") == 1 else f"{letter.get('attempts')} tries"
            what = f"   [retried: {fate.how}]" if fate is not None else ""
            print(f"{item:<10} {task:<12} {tries:<8} {error[:100]}   {preview[:60]}{what}")
    total = sum(kinds.values())
    if limit and total > limit:
        print(f"... and {total - limit:,} more (--limit 0 shows all)")
    for (task, error), count in kinds.most_common(10):
        print(f"{count:>8,}  {error} in task `{task}`")
    for fate, count in seen.items():
        print(f"{count:>8,}  retried in run {fate.run}: {fate.how}")


@app.command("show")
def show(
    run: RunWithLettersArgument = "last",
    item: Annotated[str, Argument(metavar="[ITEM]", help="An item's id, as `list` shows it. Default: all.")] = "",
    state: StateOption = DEFAULT_STATE,
) -> None:
    """Everything that is known of a dead letter: item, error, traceback, attempts, what its worker printed last.

    Examples:
      runner dead show last 12.7

      runner dead show 12.7
    """
    if not item and run.replace(".", "", 1).isdigit() and "." in run:
        run, item = "last", run
    path = _find_letters(state, run)
    shown = 0
    fates = read_fates(path.parents[2], path.parent.name)
    for letter in store.read_letters(path):
        if not item or letter["id"] == item:
            shown += 1
            print(_letter_text(letter))
            if (fate := fates.get(str(letter["id"]))) is not None:
                print(f"  retried   in run {fate.run}: {fate.how}")
    if item and not shown:
        text = f"run {path.parent.name} has no dead letter for item {item}; see: runner dead list {path.parent.name}"
        raise UsageError(text)


@app.command("export")
def export(
    run: RunWithLettersArgument = "last",
    state: StateOption = DEFAULT_STATE,
    output: Annotated[
        str, Option("--output", "-o", metavar="FILE", help="Write there. Default: standard output.")
    ] = "-",
) -> None:
    """All dead letters of a run as JSON lines, in the words of a queue of dead letters.

    `item` is the value (where JSON cannot say it: its `repr`), `id` the item's id; `std.jsonl` reads them.

    Examples:
      runner dead export > dead.jsonl

      runner dead export last -o dead.jsonl
    """
    letters = store.read_letters(_find_letters(state, run))
    lines = (
        json.dumps({key: value for key, value in each.items() if key not in _OF_THE_RUN}) + "\n" for each in letters
    )
    if output == "-":
        sys.stdout.writelines(lines)
        return
    try:
        with Path(output).open("w", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from None


def _find_letters(state: Path, run: str) -> Path:
    """Return the file of a run's letters; when the last run has none, that is said, and where there are some."""
    path = store.find_dead_letters(state, run)
    if not path.exists():
        text = f"run {path.parent.name} has no dead letters"
        if others := store.runs_with_dead_letters(state):
            text += f"; the last run that has some: runner dead list {others[-1]}"
        sys.stderr.write(f"{text}\n")
        raise typer.Exit
    return path


def _field_text(letter: dict[str, Any], key: str) -> str:
    """Return a value as text that cannot steer a terminal, on one line."""
    return printable_line(str(letter.get(key, "")))


def _letter_text(letter: dict[str, Any]) -> str:
    name = printable_line(item_name(str(letter.get("preview", "")), letter["id"], 60))
    lines = [f"{name}  of queue `{_field_text(letter, 'queue')}`"]
    lines += [f"  {key:<9} {_field_text(letter, key)}" for key in ("task", "worker", "attempts", "at", "error")]
    lines += [f"  value     {_field_text(letter, 'preview')}"]
    if "not_kept" in letter:
        lines += [f"  not kept  {_field_text(letter, 'not_kept')}"]
    for word, key in (("traceback", "traceback"), ("its worker printed last", "output")):
        if letter.get(key):
            body = printable_text(str(letter[key])).rstrip("\n").splitlines()
            lines += [f"  {word}:", *(f"      {line}" for line in body)]
    return "\n".join(lines)
