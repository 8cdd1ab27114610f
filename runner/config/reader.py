"""Tables by the grammar: unknown keys, kinds that hold other kinds, and names of queues and tasks that must exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.config import grammar, value_types
from runner.config.diagnostics import AlreadyReported, Diagnostics, InvalidValue
from runner.config.model import DEFAULT_PORT, Backoff, Batch, Lifespan, OutputPort, Resources, Restarts
from runner.config.params import UNKNOWN, plain_value
from runner.config.problems import quote_name
from runner.config.source_map import VALUE_PART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.config.grammar import Key
    from runner.config.source_map import KeyPath

_MADE: dict[str, Any] = {
    "backoff": Backoff,
    "batch": Batch,
    "lifespan": Lifespan,
    "resources": Resources,
    "restarts": Restarts,
}
_STATES = ("started", "ended", "ok")


class Reader:
    """Converts tables; `queues` and `tasks` are the names that exist in the file."""

    def __init__(self, report: Diagnostics, queues: Iterable[str] = (), tasks: Iterable[str] = ()) -> None:
        self.diagnostics = report
        self.names = {"queue": dict.fromkeys(queues), "task": dict.fromkeys(tasks)}
        self.kinds: dict[str, Callable[[Any, Key, KeyPath, str], Any]] = {
            "after": self._after,
            "args": self._args,
            "batch": self._batch,
            "exceptions": self._exceptions,
            "faults": self._faults,
            "for queues": self._for("queue"),
            "for tasks": self._for("task"),
            "ports": self._ports,
            "queue": self._one("queue"),
            "queues": self._queues,
            "strs": self._strs,
            "table": self._table,
            "task": self._one("task"),
            "tasks": lambda value, key, path, owner: self._exist(value, "task", path, f"{owner} names"),
            "with": self._with,
            "workers": self._workers,
        }

    def convert_table(self, raw: Any, table: str, path: KeyPath, owner: str) -> dict[str, Any]:
        """The keys of one table, converted; what is wrong is reported and left out."""
        keys = grammar.TABLES[table]
        if raw is UNKNOWN:
            return {}
        if not isinstance(raw, dict):
            self.diagnostics.add_problem(
                "E103", f"{owner} must be a table, not {value_types.describe_value(raw)}", (*path, VALUE_PART)
            )
            return {}
        made = {}
        for word, value in raw.items():
            key = keys.get(word)
            if key is None:
                self._unknown(word, table, path, owner)
                continue
            try:
                made[word] = self.convert_value(value, key, (*path, word), owner)
            except AlreadyReported:
                self.diagnostics.unknown_paths.add((*path, word))
                continue
            if missing := grammar.unsupported_feature(table, word, value):
                self.diagnostics.add_problem(
                    "E108", f"this version of runner does not have {missing} yet", (*path, word)
                )
        for key in keys.values():
            if key.required and key.name not in raw and (*path, key.name) not in self.diagnostics.unknown_paths:
                self.diagnostics.add_problem("E109", f"{owner} needs `{key.name}`", path)
        return made

    def _unknown(self, word: str, table: str, path: KeyPath, owner: str) -> None:
        """An unknown key; the one that was probably meant is not missing, but unknown."""
        hint = self.diagnostics.suggest_nearest(word, grammar.TABLES[table])
        if hint:
            self.diagnostics.unknown_paths.add((*path, hint.split("`")[1]))
        self.diagnostics.add_problem(
            "E104", f"unknown key {quote_name(word)} in {owner}", (*path, word), hint or _elsewhere(word, table)
        )

    def convert_value(self, value: Any, key: Key, path: KeyPath, owner: str) -> Any:
        """One value by the kind of its key; raises `AlreadyReported`."""
        if value is UNKNOWN:
            raise AlreadyReported
        try:
            simple = value_types.SIMPLE_CONVERTERS.get(key.kind)
            if simple is not None:
                _known(value)
            return simple(value, key) if simple is not None else self.kinds[key.kind](value, key, path, owner)
        except InvalidValue as wrong:
            self.diagnostics.add_problem(
                wrong.code, f"`{key.name}` of {owner} {wrong.message}", (*path, wrong.key or VALUE_PART), wrong.hint
            )
            raise AlreadyReported from None

    def name_exists(self, kind: str, word: str) -> bool:
        """Whether there is a queue or task of this name; true as well when that cannot be known."""
        return word in self.names[kind] or (f"{kind}s",) in self.diagnostics.unknown_paths

    # -- kinds that hold others ---------------------------------------------------------------

    def _table(self, value: Any, key: Key, path: KeyPath, owner: str) -> Any:
        before = len(self.diagnostics.problems)
        made = self.convert_table(
            value, key.table, path, f"`{key.name}` of {owner}" if len(path) > 1 else f"[{key.name}]"
        )
        maker = _MADE.get(key.table)
        if maker is None:
            return made
        if len(self.diagnostics.problems) > before or any(
            hole[: len(path)] == path for hole in self.diagnostics.unknown_paths
        ):
            raise AlreadyReported
        return maker(**made)

    def _batch(self, value: Any, key: Key, path: KeyPath, owner: str) -> Any:
        if isinstance(value, dict):
            return self._table(value, key, path, owner)
        return Batch(value_types.SIMPLE_CONVERTERS["int"](value, key))

    def _workers(self, value: Any, key: Key, path: KeyPath, owner: str) -> Any:
        _known(value)
        made = value_types.convert_workers(value, key, path[1])
        # A default is for every task: the names of its workers come from the task that it is used for.
        return made if path[0] == "tasks" else lambda task: value_types.convert_workers(value, key, task)

    def _strs(self, value: Any, key: Key, path: KeyPath, owner: str) -> tuple[str, ...]:
        """Texts; a single one may stand alone."""
        _known(value)
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list):
            raise value_types.wrong_type("a list of strings", value)
        for number, one in enumerate(listed):
            if not isinstance(one, str) or not one:
                message = (
                    f"`{key.name}` of {owner} must be a list of strings, and {value_types.describe_value(one)} is none"
                )
                self.diagnostics.add_problem("E103", message, (*path, str(number)))
                raise AlreadyReported
        return tuple(listed)

    def _exceptions(self, value: Any, key: Key, path: KeyPath, owner: str) -> tuple[str, ...]:
        names = self._strs(value, key, path, owner)
        for number, word in enumerate(names):
            if not all(part.isidentifier() for part in word.split(".")):
                self.diagnostics.add_problem(
                    "E107", f"{value_types.describe_value(word)} is no name of an exception", (*path, str(number))
                )
                raise AlreadyReported
        return names

    def _exist(self, value: Any, kind: str, path: KeyPath, what: str) -> tuple[str, ...]:
        """Names of queues or tasks, each of which must exist; a single one may stand alone."""
        if value is UNKNOWN:
            raise AlreadyReported
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list):
            raise value_types.wrong_type(f"names of {kind}s", value)
        found: dict[str, None] = {}
        for number, word in enumerate(listed):
            spot = (*path, str(number)) if isinstance(value, list) else (*path, VALUE_PART)
            if word is UNKNOWN:  # the others are looked at all the same
                self.diagnostics.unknown_paths.add(path)
                continue
            if not isinstance(word, str):
                self.diagnostics.add_problem(
                    "E103", f"{what} a {kind}, and {value_types.describe_value(word)} is no name of one", spot
                )
                raise AlreadyReported
            if word in found:
                self.diagnostics.add_problem("E211", f"{what} {kind} {quote_name(word)} twice", spot)
            found[word if self.name_exists(kind, word) else self._missing(word, kind, spot, what)] = None
        found.pop("", None)
        return tuple(found)

    def _missing(self, word: str, kind: str, spot: KeyPath, what: str) -> str:
        """A name that does not exist: reported, and the one that was probably meant takes its place."""
        hint = self.diagnostics.suggest_nearest(word, self.names[kind])
        code = "E203" if kind == "queue" else "E201"
        self.diagnostics.add_problem(code, f"{what} {kind} {quote_name(word)}, which does not exist", spot, hint)
        if not hint:
            self.diagnostics.unknown_paths.add(spot)
            self.diagnostics.unknown_paths.add(spot[:3])
        return hint.split("`")[1] if hint else ""

    def _one(self, kind: str) -> Callable[[Any, Key, KeyPath, str], str]:
        def one(value: Any, key: Key, path: KeyPath, owner: str) -> str:
            if not isinstance(value, str):
                raise value_types.wrong_type(f"the name of a {kind}", value)
            what = f"{owner} sends its dead letters to" if key.name == "dead" else f"{owner} names"
            found = self._exist(value, kind, path, what)
            if not found:
                raise AlreadyReported
            return found[0]

        return one

    def _queues(self, value: Any, key: Key, path: KeyPath, owner: str) -> tuple[str, ...]:
        return self._exist(value, "queue", path, f"{owner} reads")

    def _ports(self, value: Any, key: Key, path: KeyPath, owner: str) -> tuple[OutputPort, ...]:
        if not isinstance(value, dict):
            queues = self._exist(value, "queue", path, f"{owner} writes")
            return (OutputPort(DEFAULT_PORT, queues),) if queues else ()
        ports = []
        for word, target in value.items():
            if not value_types.NAME_PATTERN.fullmatch(word):
                self.diagnostics.add_problem(
                    "E107", f"{quote_name(word)} is no name of a port", (*path, word), value_types.NAME_WANTED
                )
                raise AlreadyReported
            ports.append(OutputPort(word, self._exist(target, "queue", (*path, word), f"{owner} writes")))
        return tuple(ports)

    def _after(self, value: Any, key: Key, path: KeyPath, owner: str) -> dict[str, str]:
        if not isinstance(value, dict):
            return dict.fromkeys(self._exist(value, "task", path, f"{owner} starts after"), "ok")
        state = grammar.Key("after", "choice", choices=_STATES)
        made = {}
        for word, when in value.items():
            known = self.name_exists("task", word)
            other = word if known else self._missing(word, "task", (*path, word), f"{owner} starts after")
            made[other] = self.convert_value(when, state, (*path, word), owner)
        made.pop("", None)
        return made

    def _args(self, value: Any, key: Key, path: KeyPath, owner: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise value_types.wrong_type("a list", value)
        return tuple(self._argument(one, (*path, str(number))) for number, one in enumerate(value))

    def _with(self, value: Any, key: Key, path: KeyPath, owner: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise value_types.wrong_type("a table", value)
        return {word: self._argument(one, (*path, word)) for word, one in value.items()}

    def _argument(self, value: Any, path: KeyPath) -> Any:
        """One argument; UNKNOWN stays, so that the others can be checked."""
        try:
            _known(value)
        except AlreadyReported:
            self.diagnostics.unknown_paths.add(path)
            return UNKNOWN
        return plain_value(value)

    # -- tests ----------------------------------------------------------------------------------

    def _for(self, kind: str) -> Callable[[Any, Key, KeyPath, str], dict[str, Any]]:
        """A table whose keys are names of queues or tasks."""

        def each(value: Any, key: Key, path: KeyPath, owner: str) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise value_types.wrong_type(f"a table of {kind}s", value)
            made = {}
            for word, inner in value.items():
                if not self.name_exists(kind, word):
                    hint = self.diagnostics.suggest_nearest(word, self.names[kind])
                    code = "E203" if kind == "queue" else "E201"
                    self.diagnostics.add_problem(
                        code, f"{owner} names {kind} {quote_name(word)}, which does not exist", (*path, word), hint
                    )
                elif key.table == "feed":
                    made[word] = self.convert_value(inner, grammar.Key(word, "list"), (*path, word), owner)
                else:
                    made[word] = self.convert_table(inner, key.table, (*path, word), f"`{key.name}.{word}` of {owner}")
            return made

        return each

    def _faults(self, value: Any, key: Key, path: KeyPath, owner: str) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise value_types.wrong_type("a list of tables", value)
        return [
            self.convert_table(one, key.table, (*path, str(at)), f"`fault` of {owner}") for at, one in enumerate(value)
        ]


def _known(value: Any) -> None:
    """Stay silent about a value with a reported hole anywhere in it."""
    if value is UNKNOWN:
        raise AlreadyReported
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            _known(inner)


def _elsewhere(word: str, table: str) -> str:
    """The table that does have this key."""
    homes = [home for home in _HOMES if word in grammar.TABLES[home]] if table in _HOMES else []
    if homes:
        return f"it is a key of {_HOMES[homes[0]]}"
    known = [quote_name(key) for key in grammar.TABLES[table]]
    return f"known: {', '.join(known)}" if len(known) <= _FEW else ""


_FEW = 9
_HOMES = {"top": "the top of the file", "run": "[run]", "queue": "queues", "task": "tasks"}
