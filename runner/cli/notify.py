"""`--notify COMMAND`: a command of the shell that is executed when the run has ended, however it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from runner.report.console import describe_outcome
from runner.text import format_duration, printable_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runner.supervisor.outcome import RunOutcome

#: A command that sends a message over a network may take this many seconds.
TIME_LIMIT = 60.0


def outcome_environment(outcome: RunOutcome, title: str, exit_code: int) -> dict[str, str]:
    """Return what the command finds in its environment: all that the last line of the run says."""
    ended, balance = outcome.ended, outcome.headline
    hows = {task.name: task.how for task in ended.tasks}
    told = describe_outcome(balance, hows, list(ended.unfinished), queues=bool(ended.queues))
    counts = {name: getattr(ended, name) for name in ("read", "done", "dead", "dropped", "left", "repeated")}
    return {
        "RUNNER_RUN": ended.run,
        "RUNNER_TITLE": title,
        "RUNNER_EXIT_CODE": str(exit_code),
        "RUNNER_SECONDS": f"{ended.seconds:.1f}",
        "RUNNER_OUTCOME": told,
        "RUNNER_REASON": "; ".join(ended.reasons),
        **{f"RUNNER_{name.upper()}": str(count) for name, count in counts.items()},
    }


def notify(command: str, environment: Mapping[str, str], limit: float = TIME_LIMIT) -> None:
    """Execute a command of the shell; what is wrong with it is said, and changes no exit code."""
    sys.stdout.flush()
    shown = printable_line(command)[:200]
    try:
        process = subprocess.Popen(  # noqa: S602  it is the user's own command line, as in a crontab
            command,
            shell=True,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # what it has started ends with it
        )
    except OSError as error:
        sys.stderr.write(f"--notify: {shown}: {error.strerror}\n")
        return
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        sys.stderr.write(f"--notify: {shown}: ended after {format_duration(limit)}\n")
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    else:
        if code:
            sys.stderr.write(f"--notify: {shown}: exit {code}\n")
