"""The functions of the files in this folder."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from runner import Context, task


class Color(Enum):
    red = "red"
    blue = "blue"


@dataclass
class Size:
    width: int
    height: int = 1


@task
def bake(*, count: int = 10):
    yield from range(count)


@task
def eat(loaf, *, seconds: float = 0.1): ...


@task
def dance(times: int): ...


@task
def draw(path: Path, when: datetime, color: Color, size: Size): ...


@task
def tell(item, context: Context, *, loud: bool = False): ...


@task(mode="thread")
def listen(item): ...


@task
def twice(): ...


def unmarked(): ...
