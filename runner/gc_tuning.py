"""Python's collector of cycles, and what it need not look at: runner's own modules, where they stay until the end.

It looks at everything again and again while more and more of it is imported, and at all of it when the interpreter
ends: together a quarter of the time of a trivial run. What is *frozen* it leaves alone, then as well. So nothing of the
user's may be: what only a cycle holds (a module and its functions are one) would never be finalized, and a file that a
plugin has opened would not be flushed.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_to_the_end = False


def freeze_until_exit() -> None:
    """This process is the command line's: what `settle` finds stays until the interpreter ends."""
    global _to_the_end  # noqa: PLW0603  a fact about the process
    _to_the_end = True


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Without the collector: imports make next to no garbage.

    >>> with gc_paused(): gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def freeze_imported() -> None:
    """What is here stays until the end, if that is so in this process. Before anything of the user's is imported."""
    if _to_the_end:
        gc.freeze()


@contextlib.contextmanager
def frozen_during_run() -> Iterator[None]:
    """What is here when a run begins stays until the run's end; whoever has frozen something has an own idea of that.

    >>> with frozen_during_run(): gc.get_freeze_count() > 1000
    True
    >>> gc.get_freeze_count()
    0
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
