"""Task functions that write their name behind each item: where it has been shows at the end."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from runner.tasks import Context  # noqa: TC001  read at run time

if TYPE_CHECKING:
    from collections.abc import Iterator


def texts(count: int) -> Iterator[str]:
    for number in range(count):
        yield str(number)


def _try(item: str, ctx: Context, fails: int) -> None:
    number = int(item.split("/")[0])
    if fails and number % fails == 0 and ctx.attempt == 1:
        raise ValueError("first try")


def one(item: str, ctx: Context, *, name: str, seconds: float = 0.0, fails: int = 0) -> str:
    """Every item whose number `fails` divides fails at its first try."""
    threading.Event().wait(seconds)
    _try(item, ctx, fails)
    return f"{item}/{name}"


def in_batches(items: list[str], ctx: Context, *, name: str, seconds: float = 0.0, fails: int = 0) -> Iterator[str]:
    threading.Event().wait(seconds)
    _try(items[0], ctx, fails)
    for item in items:
        yield f"{item}/{name}"


async def flying(item: str, ctx: Context, *, name: str, seconds: float = 0.0, fails: int = 0) -> str:
    await asyncio.sleep(seconds)
    _try(item, ctx, fails)
    return f"{item}/{name}"


FORMS = {"plain": one, "batch": in_batches, "async": flying}
