"""`python -m runner`, and the `runner` command."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `-m` looks for modules in the current folder first, which the `runner` command does not do at all.
    here = sys.path.pop(0)
    if f"{here}/runner" in sys.modules["runner"].__path__:  # runner itself is there, not installed
        sys.path.append(here)


def main() -> None:
    """Run the command line; the exit codes are in `runner.errors` and `runner.supervisor.outcome`."""
    try:
        code = _run_command()
    except KeyboardInterrupt:  # before a run has begun, or when it has ended: a run itself catches signals
        code = 130
    if (farewell := sys.modules.get("runner.worker.orderly_exit")) is not None:  # there has been a run
        farewell.watch_command(code)
    sys.exit(code)


def _run_command() -> int:
    # Imported here, for Ctrl-C may come while they are.
    import atexit
    import signal

    # What this process was started by, or `sitecustomize`, will do at its exit: a copy of it would do that too.
    others_at_exit = atexit._ncallbacks()
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # nothing has begun; and Python drops a KeyboardInterrupt in a callback of its importer
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    from runner import gc_tuning
    from runner.cli import streams
    from runner.errors import CommandLeft

    if os.getpid() == 1 and hasattr(os, "fork"):
        from runner import pid1

        pid1.fork_behind_init()
    # The children of a pool in a thread task would execute the command's script again, or import what it does.
    vars(sys.modules["__main__"]).update(__spec__=None, __file__=None)
    streams.open_standard_streams()
    if sys.argv[1:2] == ["agent"]:
        from runner.agent import program

        if (options := program.parse_options(sys.argv[2:])) is not None:
            return program.run_program(options)
    gc_tuning.freeze_until_exit()
    with gc_tuning.gc_paused():
        from runner.cli import app
    gc_tuning.freeze_imported()
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    CommandLeft.is_awaited = not others_at_exit
    try:
        return app.main()
    except CommandLeft as left:
        go_on = left.go_on
    return go_on()


if __name__ == "__main__":
    main()
