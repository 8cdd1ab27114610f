"""What the fork server imports once, so that every worker it forks has it already.

Import errors are kept to themselves here: the worker that needs the module meets the same error, and reports it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys

from runner.collector import importing
from runner.fleets.spawn import PRELOAD, ignore_terminal

with importing():
    import ctypes  # noqa: F401  so that a worker can make C's output line-buffered without importing it

    import runner.fleets.child  # noqa: F401  what every worker runs first
    from runner.tasks import load_module


def _preload() -> None:
    ignore_terminal()
    server, show = os.getpid(), sys.excepthook
    # The machine lets it make no more processes: whoever asked learns of its end, and a traceback says nothing more.
    sys.excepthook = lambda *error: None if os.getpid() == server else show(*error)
    wanted = json.loads(os.environ.pop(PRELOAD))
    sys.path[:] = wanted.get("path", sys.path)
    if wanted.get("asyncio"):
        import runner.worker.flight  # noqa: F401  async tasks' workers need it, and asyncio
    for name, path, folder in wanted.get("modules", ()):
        with contextlib.suppress(BaseException):  # user code; its worker will report it
            load_module(name, path, folder)


def _freeze() -> None:
    """Workers share what is here as long as nobody writes to it; the collector of cycles does when it looks at it."""
    gc.collect()
    gc.freeze()


if PRELOAD in os.environ:  # else somebody only looks at this module, or the server is another's heir
    gc.freeze()
    _preload()
    _freeze()
