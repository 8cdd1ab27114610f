"""`dataclasses.dataclass`, made in a quarter of the time.

The standard one compiles six functions for each frozen class, 0.8 ms, and that was most of what importing runner took.
Here only `__init__` is compiled, 0.2 ms; the others are the same few closures for all classes. For everybody else they
are dataclasses: `fields`, `replace`, `match`, pickle, pydantic and type checkers see no difference.

Values that no user sees are `msgspec.Struct` instead, which is quicker still to make and to use.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, *, frozen: bool = False, slots: bool = False, eq: bool = True) -> Any:
        """As `dataclasses.dataclass`, for those options.

        >>> @dataclass(frozen=True, slots=True)
        ... class Point:
        ...     x: int
        ...     y: int = 0
        >>> Point(1), Point(1) == Point(1, 0), hash(Point(2)) == hash(Point(2))
        (Point(x=1, y=0), True, True)
        >>> Point(1).x = 2
        Traceback (most recent call last):
            ...
        dataclasses.FrozenInstanceError: cannot assign to field 'x'
        """

        def make(cls: type) -> type:
            made = dataclasses.dataclass(cls, init=False, repr=False, eq=False, slots=slots)
            found = list(dataclasses.fields(made))
            _add(made, "__init__", _init(made, found, frozen=frozen))
            _add(made, "__repr__", _repr([each.name for each in found if each.repr]))
            if eq:
                _add_eq(made, [each.name for each in found if each.compare], frozen=frozen)
            if frozen:
                made.__setattr__, made.__delattr__ = _refuse("assign to"), _refuse("delete")
                if slots:
                    made.__setstate__ = _setstate
            return made

        return make if cls is None else make(cls)


def _add(made: type, name: str, method: Any) -> None:
    """A method, unless the class has its own."""
    if name not in made.__dict__:
        method.__qualname__ = f"{made.__qualname__}.{name}"
        setattr(made, name, method)


def _init(made: type, found: list[dataclasses.Field[Any]], *, frozen: bool) -> Any:
    known: dict[str, Any] = {"_missing": MISSING, "_set": object.__setattr__}
    arguments, lines = ["self"], []
    for at, each in enumerate(found):
        argument = value = each.name
        if each.default is not MISSING:
            known[default := f"_default{at}"] = each.default
            argument, value = f"{each.name}={default}", each.name if each.init else default
        elif each.default_factory is not MISSING:
            known[make := f"_make{at}"] = each.default_factory
            argument = f"{each.name}=_missing"
            value = f"{make}() if {each.name} is _missing else {each.name}" if each.init else f"{make}()"
        elif not each.init:
            continue
        arguments += [argument] if each.init else []
        lines.append(f" _set(self, {each.name!r}, {value})" if frozen else f" self.{each.name} = {value}")
    if hasattr(made, "__post_init__"):
        lines.append(" self.__post_init__()")
    text = f"def __init__({', '.join(arguments)}):\n" + ("\n".join(lines) or " pass")
    exec(text, known)  # noqa: S102  made of the names of fields
    return known["__init__"]


def _repr(names: list[str]) -> Any:
    def __repr__(self: Any) -> str:  # noqa: N807  it becomes one
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__


def _add_eq(made: type, names: list[str], *, frozen: bool) -> None:
    values = attrgetter(*names) if names else lambda _: ()

    def __eq__(self: Any, other: object) -> Any:  # noqa: N807
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values(self))

    if "__eq__" not in made.__dict__:
        _add(made, "__eq__", __eq__)
        made.__hash__ = None  # type: ignore[assignment]
    if frozen and made.__dict__.get("__hash__") is None:
        setattr(made, "__hash__", __hash__)  # noqa: B010  for type checkers it has one already


def _refuse(what: str) -> Any:
    def refuse(_: Any, name: str, *value: Any) -> None:  # noqa: ARG001  of an assignment
        raise dataclasses.FrozenInstanceError(f"cannot {what} field {name!r}")

    return refuse


def _setstate(self: Any, state: tuple[None, dict[str, Any]]) -> None:
    for name, value in state[1].items():
        object.__setattr__(self, name, value)


__all__ = ["dataclass", "field"]
