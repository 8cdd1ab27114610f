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

    ExcInfo = tuple[Any, Any, Any]


class WorkerEventLoop:
    """One event loop, made when it is first needed, on which coroutines run one after the other."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        with contextlib.suppress(AttributeError):  # a loop of another kind, which waits for its threads
            self._runner.get_loop().shutdown_default_executor = _leave_threads_running  # type: ignore[method-assign]  # of this loop alone
        self._instance_task: asyncio.Task[None] | None = None
        self._leaving: asyncio.Future[ExcInfo] | None = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Await a value on the loop."""
        return self._runner.run(_await_value(awaitable))

    def close(self) -> None:
        """Cancel what still runs on the loop, and close it."""
        self._runner.close()

    def enter_instance(self, make: Callable[[], Any]) -> Any:
        """Make an instance and enter it, on the loop; return what entering gave, or the instance."""
        return self._runner.run(self._enter_in_task(make))

    def leave_instance(self, *exc: Any) -> None:
        """Leave the instance, in the task that entered it."""
        self._runner.run(self._leave_in_task(exc))

    async def _enter_in_task(self, make: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[Any] = loop.create_future()
        self._leaving = loop.create_future()
        self._instance_task = loop.create_task(self._hold_instance(make, entered, self._leaving))
        await asyncio.wait({self._instance_task, entered}, return_when=asyncio.FIRST_COMPLETED)
        if not entered.done():
            await self._instance_task  # raises what the set-up has raised
        return entered.result()

    @staticmethod
    async def _hold_instance(
        make: Callable[[], Any], entered: asyncio.Future[Any], leaving: asyncio.Future[ExcInfo]
    ) -> None:
        instance = make()
        instance_class = type(instance)
        if hasattr(instance_class, "__aenter__"):
            value = await instance_class.__aenter__(instance)
        else:
            value = instance_class.__enter__(instance) if hasattr(instance_class, "__enter__") else None
        entered.set_result(instance if value is None else value)
        exc = await leaving
        if hasattr(instance_class, "__aexit__"):
            await instance_class.__aexit__(instance, *exc)
        elif hasattr(instance_class, "__exit__"):
            instance_class.__exit__(instance, *exc)

    async def _leave_in_task(self, exc: ExcInfo) -> None:
        assert self._instance_task is not None
        assert self._leaving is not None
        self._leaving.set_result(exc)
        await self._instance_task


async def _leave_threads_running(*_: Any) -> None:
    """Let go of what items have given to threads and not waited for: it does not delay the worker's replies.

    The threads are waited for at the end of the process, as others are.
    """


async def _await_value(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
