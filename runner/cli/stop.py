"""`runner stop`: end a run that is going on, as Ctrl-C in its terminal would. Nothing of the project is imported."""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from runner import linux_only
from runner.cli.ended_run import describe_ended_run
from runner.cli.shared_options import DEFAULT_STATE, StateOption, complete_running
from runner.errors import UsageError
from runner.text import printable_line

if TYPE_CHECKING:
    from pathlib import Path

    from runner.store.run_lock import LockHolder
    from runner.store.running_runs import RunningRun

#: Seconds between two looks at a process where the kernel cannot tell of its end.
_PAUSE = 0.05
#: A run that is busy hears a signal after so many seconds at most; and what its status says from then on.
_HEARD_SECONDS, STOPPING = 2.0, '{"event":"RunStopping"'


def stop(
    run: Annotated[
        str,
        Argument(
            metavar="[RUN]",
            help="A run's id, or the beginning of one; `last` is the one that began last. "
            "Default: the only one that is going on.",
            autocompletion=complete_running,
        ),
    ] = "",
    state: StateOption = DEFAULT_STATE,
    now: Annotated[bool, Option("--now", help="Do not drain what is queued: end at once.")] = False,
    wait: Annotated[bool, Option("--wait/--no-wait", help="Wait for its end, or leave it to itself.")] = True,
) -> None:
    """Stop a run: its sources end, what is queued drains within its `grace`, as after Ctrl-C.

    Waits for the end, says the balance, and exits with the exit code of the run: 143 as a rule.

    Examples:
      runner stop

      runner stop 20261130-1200 --now

      runner stop last --no-wait
    """
    from runner.store.running_runs import check_watched_folder

    check_watched_folder(state, "stop")
    chosen = _select(state, run)
    holder = chosen.holder
    if not holder.is_here or not holder.pid:
        where = f"on {printable_line(holder.host)}" if holder.pid else "in a process that cannot be seen from here"
        folder = shlex.quote(str(state.resolve()))
        raise UsageError(
            f"run {chosen.run} is going on {where}; there it can be stopped: runner stop {chosen.run} --state {folder}"
        )
    with closing(RunProcess(holder)) as process:
        if not process.send_stop(chosen, now=now):
            sys.stderr.write(f"run {chosen.run} has just ended\n")
        elif not wait:
            sys.stderr.write(f"run {chosen.run} (process {holder.pid}) has been told to stop\n")
            return
        else:
            sys.stderr.write(f"run {chosen.run} (process {holder.pid}) has been told to stop; waiting for its end\n")
            process.wait()
    code, text = describe_ended_run(chosen.folder)
    sys.stderr.write(f"{text}\n")
    raise typer.Exit(1 if code is None else code)


def _select(state: Path, run: str) -> RunningRun:
    """Return the run that is meant. UsageError: several are going on, and none is named."""
    from runner.store.running_runs import find_running, select_running

    if not run and len(found := find_running(state)) > 1:
        names = ", ".join(each.run for each in found)
        raise UsageError(f"{len(found)} runs are going on in {state}: {names}; say which: runner stop RUN")
    return select_running(state, run or "last")


class RunProcess:
    """The process of a run, until `close`: a number that another process has by now is not taken for it."""

    def __init__(self, holder: LockHolder) -> None:
        self._holder = holder
        # Opened before the look: what the look says is of the process that the descriptor stands for.
        self._fd = linux_only.exit_fd(holder.pid)

    def close(self) -> None:
        """Let go of the process, which goes on."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def send_stop(self, running: RunningRun, *, now: bool) -> bool:
        """Send it SIGTERM, and to end it `now` a second one; False: it has ended, and nothing was sent."""
        from runner.store.records import find_holder

        if find_holder(running.folder) != self._holder or not self._holder.may_live():
            return False
        try:
            linux_only.send_signal(self._fd, self._holder.pid, signal.SIGTERM)
            if self._holder.is_suspended():  # it would hear of it no sooner
                sys.stderr.write(f"run {running.run} was suspended (Ctrl-Z): it goes on, to end\n")
                linux_only.send_signal(self._fd, self._holder.pid, signal.SIGCONT)
            if now:
                _wait_for_stopping(running.folder)
                linux_only.send_signal(self._fd, self._holder.pid, signal.SIGTERM)
        except ProcessLookupError:
            return now  # by the first of the two
        except PermissionError:
            raise UsageError(
                f"run {running.run} is of another user (process {self._holder.pid}), who can stop it"
            ) from None
        return True

    def wait(self) -> None:
        """Return when it has ended."""
        if self._fd is not None:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll()
            return
        while self._holder.may_live():
            time.sleep(_PAUSE)


def _wait_for_stopping(folder: Path) -> None:
    """Wait until the run has heard the first signal, and not for long: two that come together count as one."""
    from runner.store.records import find_holder, read_status

    until = time.monotonic() + _HEARD_SECONDS
    while STOPPING not in read_status(folder) and time.monotonic() < until and find_holder(folder) is not None:
        time.sleep(_PAUSE)
