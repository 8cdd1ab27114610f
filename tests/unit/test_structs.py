"""Our dataclasses are dataclasses: whatever the standard ones do, they do."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

from runner import events, structs

OPTIONS = [{"frozen": True, "slots": True}, {"slots": True}, {"frozen": True}, {}, {"slots": True, "eq": False}]


def both(make: Any) -> tuple[Any, Any]:
    return make(dataclasses.dataclass), make(structs.dataclass)


def sample(options: dict[str, bool]) -> Any:
    def make(decorator: Any) -> Any:
        @decorator(**options)
        class Base:
            at: float

        @decorator(**options)
        class Sample(Base):
            """With everything."""

            name: str
            count: int = 3
            parts: list[int] = dataclasses.field(default_factory=list)
            hidden: int = dataclasses.field(default=7, repr=False, compare=False)
            late: str = dataclasses.field(init=False, default="later")
            made: dict[str, int] = dataclasses.field(init=False, default_factory=dict)

            def double(self) -> int:
                return 2 * self.count

        return Sample

    return make


def tried(deed: Any) -> Any:
    try:
        return deed()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_does_what_the_standard_one_does(options: dict[str, bool]) -> None:
    theirs, ours = both(sample(options))
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    for deed in (
        lambda kind: repr(kind(1.0, "a")),
        lambda kind: repr(kind(at=1.0, name="a", count=4, parts=[1], hidden=2)),
        lambda kind: kind(1.0, "a") == kind(1.0, "a"),
        lambda kind: kind(1.0, "a") == kind(1.0, "a", hidden=9),
        lambda kind: kind(1.0, "a") == kind(1.0, "b"),
        lambda kind: kind(1.0, "a") == 5,
        lambda kind: kind(1.0),
        lambda kind: kind(1.0, "a", late="x"),
        lambda kind: kind(1.0, "a").parts is kind(1.0, "a").parts,
        lambda kind: kind(1.0, "a").double(),
        lambda kind: kind(1.0, "a").late,
        lambda kind: kind(1.0, "a").made,
        lambda kind: setattr(kind(1.0, "a"), "count", 5),
        lambda kind: delattr(kind(1.0, "a"), "count"),
        lambda kind: dataclasses.asdict(kind(1.0, "a")),
        lambda kind: dataclasses.astuple(kind(1.0, "a")),
        lambda kind: repr(dataclasses.replace(kind(1.0, "a"), count=8)),
        lambda kind: [each.name for each in dataclasses.fields(kind)],
        lambda kind: kind.__match_args__,
        lambda kind: kind.__doc__,
        lambda kind: kind.__hash__ is None,
        lambda kind: isinstance(tried(lambda: hash(kind(1.0, "a"))), int),
        lambda kind: (
            tried(lambda: hash(kind(1.0, "a", hidden=1)) == hash(kind(1.0, "a"))) if "eq" not in options else 0
        ),
        lambda kind: repr(copy.copy(kind(1.0, "a"))),
        lambda kind: repr(copy.deepcopy(kind(1.0, "a"))),
        lambda kind: hasattr(kind(1.0, "a"), "__dict__"),
    ):
        assert tried(lambda deed=deed: deed(ours)) == tried(lambda deed=deed: deed(theirs)), inspect.getsource(deed)


def test_hashes_of_equal_values_are_equal() -> None:
    @structs.dataclass(frozen=True, slots=True)
    class Point:
        x: int
        y: tuple[int, ...] = ()

    assert len({Point(1), Point(1, ()), Point(2)}) == 2


def test_after_init() -> None:
    @structs.dataclass(slots=True)
    class Task:
        name: str
        loud: str = structs.field(init=False)

        def __post_init__(self) -> None:
            self.loud = self.name.upper()

    assert Task("a").loud == "A"


def test_own_methods_stay() -> None:
    @structs.dataclass(frozen=True)
    class Own:
        value: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    assert (repr(Own(1)), Own(1) == Own(2), hash(Own(3))) == ("own", True, 5)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_they_travel(protocol: int) -> None:
    each = events.Notice(1.0, "x")
    assert pickle.loads(pickle.dumps(each, protocol)) == each


def test_they_match() -> None:
    match events.Notice(1.0, "x"):
        case events.Notice(at, text):
            assert (at, text) == (1.0, "x")
        case _:
            pytest.fail("no match")
