"""Python's garbage collector, kept from runner's own modules, which stay until the end.

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

_freezes_until_exit = False


def freeze_until_exit(wanted: bool = True) -> None:
    """Keep what `freeze_imported` freezes until the interpreter ends: this process is the command line's."""
    global _freezes_until_exit  # noqa: PLW0603  a fact about the process
    _freezes_until_exit = wanted


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector: imports make next to no garbage.

    >>> with gc_paused(): gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def freeze_imported() -> None:
    """Freeze what is imported, in a command's process; before anything of the user's is imported."""
    if _freezes_until_exit:
        gc.freeze()
