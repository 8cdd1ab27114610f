"""`runner doctor`: what is wrong with this machine, or makes it slow, each with the way out."""

from __future__ import annotations

import json
import platform
import sys
from typing import Annotated

import typer
from typer import Option

from runner.cli.shared_options import DEFAULT_STATE, StateOption
from runner.cli.streams import claim_stdout
from runner.errors import UsageError
from runner.text import format_table, printable_line
from runner.version import __version__

_MARKS = {"ok": "ok", "note": "-", "slow": "slow", "wrong": "WRONG"}


def doctor(
    state: StateOption = DEFAULT_STATE,
    as_json: Annotated[bool, Option("--json", help="Write JSON.")] = False,
    report: Annotated[
        bool, Option("--report", help="Print what to paste into a bug report; nothing secret is in it.")
    ] = False,
) -> None:
    """Say what of this machine is wrong for runner, or slow, and what to do about it.

    Nothing of a project is imported, and no plugin. Exits with 1 if something is wrong.

    Examples:
      runner doctor

      runner doctor --report
    """
    from runner.cli.machine_checks import check_machine

    if report and as_json:
        raise UsageError("--report is for people, --json for programs: one of them")
    document = claim_stdout() if as_json else None
    found = check_machine(state)
    is_wrong = any(each.level == "wrong" for each in found)
    if document is not None:
        shown = [
            {"check": each.name, "level": each.level, "found": each.text, "advice": each.advice or None}
            for each in found
        ]
        document(json.dumps({"runner": __version__, "wrong": is_wrong, "checks": shown}, indent=2))
    elif report:
        print("```text")
        print(f"runner {__version__}, Python {platform.python_version()}, {platform.platform()}")
        print("\n".join(format_table([(_MARKS[each.level], each.name, printable_line(each.text)) for each in found])))
        print("```")
    else:
        for each in found:
            print(f"{_MARKS[each.level]:<6}{each.name:<16}{printable_line(each.text)}")
            if each.advice:
                print(f"{'':<22}{printable_line(each.advice)}")
        counted = sum(each.level in {"slow", "wrong"} for each in found)
        sys.stdout.write(f"\n{counted or 'nothing'} to look at\n" if counted else "\nnothing is wrong\n")
    if is_wrong:
        raise typer.Exit(1)
