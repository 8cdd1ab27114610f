"""The event loop of one worker: an async class is set up, called and torn down on it.

Set-up and tear-down are two ends of one task, as `async with` has them: a task group or a time limit that is entered
in the one can be left in the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Exc = tuple[Any, Any, Any]


class WorkerEventLoop:
    """Runs coroutines one after the other on one loop, made when it is first needed."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        with contextlib.suppress(AttributeError):  # a loop of another kind, which waits for its threads
            self._runner.get_loop().shutdown_default_executor = _leave_threads  # type: ignore[method-assign]  # of this loop alone
        self._keeper: asyncio.Task[None] | None = None
        self._left: asyncio.Future[Exc] | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Await it."""
        return self._runner.run(_awaited(awaitable))

    def close(self) -> None:
        """Cancel what still runs on the loop, and close it."""
        self._runner.close()

    def enter_instance(self, make: Callable[[], Any]) -> Any:
        """Make an instance and enter it, on the loop; what its entering gave, or itself."""
        return self._runner.run(self._enter(make))

    def leave_instance(self, *exc: Any) -> None:
        """Leave it, in the task that entered it."""
        self._runner.run(self._leave(exc))

    async def _enter(self, make: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[Any] = loop.create_future()
        self._left = loop.create_future()
        self._keeper = loop.create_task(self._keep(make, entered, self._left))
        await asyncio.wait({self._keeper, entered}, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            await self._keeper  # raises what the set-up has raised
        return entered.result()

    @staticmethod
    async def _keep(make: Callable[[], Any], entered: asyncio.Future[Any], left: asyncio.Future[Exc]) -> None:
        instance = make()
        kind = type(instance)
        if hasattr(kind, "__aenter__"):
            inside = await kind.__aenter__(instance)
        else:
            inside = kind.__enter__(instance) if hasattr(kind, "__enter__") else None
        entered.set_result(instance if inside is None else inside)
        exc = await left
        if hasattr(kind, "__aexit__"):
            await kind.__aexit__(instance, *exc)
        elif hasattr(kind, "__exit__"):
            kind.__exit__(instance, *exc)

    async def _leave(self, exc: Exc) -> None:
        assert self._keeper is not None
        assert self._left is not None
        self._left.set_result(exc)
        await self._keeper


async def _leave_threads(*_: Any) -> None:
    """What items have given to threads (`asyncio.to_thread`) and not waited for does not hold up the worker's answers.

    The threads are waited for at the end of the process, as others are.
    """


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
