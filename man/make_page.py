"""Write `runner.1`, the manual page, from what `runner --help` and each verb's `--help` say: `python man/make_page.py`.

click-man asks click's own commands, makes a page of each and escapes nothing; help2man reads the help's text, in which
options are wrapped lines, and knows no verbs. So the commands themselves are asked, as `--help` does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import typer.main

from runner.cli import app as cli
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).with_name("runner.1")
EXIT_CODES = Path(__file__).parents[1] / "docs/reference/exit-codes.md"
VARIABLES = {
    "NO_COLOR": "Nothing is colored.",
    "RUNNER_DISABLE_PLUGINS": "1: no installed plugin is used; names with commas: none of these.",
    "RUNNER_PLUGINS": "Of the installed plugins, only these, with commas in between, are used.",
    "RUNNER_DEBUG": "With any value: a fault of runner's own is shown with its traceback.",
}


def escape(text: str) -> str:
    r"""Return a text as roff's: no backslash, dash or line of it is a command.

    >>> escape(".a-b")
    '\\&.a\\-b'
    """
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", escaped, flags=re.MULTILINE)


def mark_code(text: str) -> str:
    """Return a text in which what stands between backticks is bold."""
    parts = [escape(part) for part in text.split("`")]
    return "".join(f"\\fB{part}\\fP" if number % 2 else part for number, part in enumerate(parts))


def page_lines() -> Iterator[str]:
    """Yield the page, line by line."""
    group = typer.main.get_command(cli.app)
    yield f'.TH RUNNER 1 "" "runner {__version__}" "User Commands"'
    yield ".SH NAME"
    yield escape("runner") + " \\- " + escape("run functions, processes, threads and queues that a TOML file declares")
    yield ".SH SYNOPSIS"
    yield r"\fBrunner\fP [\fB\-C\fP DIR] COMMAND [OPTION]... [ARGUMENT]..."
    yield ".SH DESCRIPTION"
    yield mark_code(group.help or "")
    yield ".PP"
    yield mark_code("Without a command: the tasks of `tasks.toml` here, and what can be done with them.")
    yield ".SH OPTIONS"
    context = typer.Context(group, info_name="runner")
    yield from option_lines(group, context)
    yield ".SH COMMANDS"
    for name in cli.RunnerGroup.verbs:
        yield from command_lines(group.get_command(context, name), context, name)  # type: ignore[attr-defined]
    yield ".SH EXIT STATUS"
    for code, meaning in re.findall(
        r"^\| (\d[\d, ]*) \| (.+?) \|", EXIT_CODES.read_text(encoding="utf-8"), re.MULTILINE
    ):
        yield from tagged_lines(code, re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", meaning))
    yield ".SH ENVIRONMENT"
    for name, meaning in VARIABLES.items():
        yield from tagged_lines(name, meaning)
    yield ".SH FILES"
    yield from tagged_lines("tasks.toml", "What is run if no file is named.")
    yield from tagged_lines("plugins/", "Task functions of the project, beside the file.")
    yield from tagged_lines(".runner/", "Records, dead letters and ledgers of runs.")


def command_lines(command: Any, parent: Any, name: str) -> Iterator[str]:
    """Yield the part of one verb, and of the verbs below it."""
    context = typer.Context(command, info_name=name, parent=parent)
    below = getattr(command, "commands", None)
    if below:
        for word, each in below.items():
            yield from command_lines(each, context, word)
        return
    yield f".SS {escape(context.command_path)} {escape(' '.join(command.collect_usage_pieces(context)))}"
    text, mark, examples = (command.help or "").partition("\b\nExamples:\n")
    yield from paragraph_lines(text)
    yield from option_lines(command, context)
    if mark:
        yield ".PP"
        yield "Examples:"
        yield ".RS"
        yield ".nf"
        yield from (escape(line.strip()) for line in examples.splitlines())
        yield ".fi"
        yield ".RE"


def paragraph_lines(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        if number:
            yield ".PP"
        yield mark_code(" ".join(paragraph.split()))


def option_lines(command: Any, context: Any) -> Iterator[str]:
    """Yield arguments and options, each with its help."""
    for param in command.get_params(context):
        if (record := param.get_help_record(context)) is not None:
            yield from tagged_lines(record[0].partition(" <")[0], record[1])


def tagged_lines(tag: str, text: str) -> Iterator[str]:
    """Yield one entry of a list: its tag is bold, and its text is indented below it."""
    yield ".TP"
    yield f"\\fB{escape(tag)}\\fP"
    yield mark_code(" ".join(text.split()))


def build_page() -> str:
    """Return the text of the page."""
    return "\n".join(page_lines()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(build_page(), encoding="utf-8")
