"""The types of values in `[[tests]]`: tables by the names of queues, tasks and params, and lists of tables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from runner.config.reader import (
    NAME_PATTERN,
    UNKNOWN,
    AlreadyReported,
    InvalidValue,
    ValueType,
    check_type,
    describe_value,
)
from runner.config.value_types import LIST, STRINGS
from runner.model import FileTest, QueueExpectation
from runner.problems import nearest_location, quote_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.config.reader import KeyTable, ValuePlace


#: Each is looked at beside every task.
MAX_TESTS = 1000


def _convert_name(value: Any, at: ValuePlace) -> str:
    check_type(value, str, "a string")
    if not value.strip() or not value.isprintable() or len(value) > 120:
        raise InvalidValue("E107", f"must be up to 120 characters that can be printed, not {describe_value(value)}")
    return str(value)


#: The name of a test is a sentence, for people.
TEST_NAME = ValueType(_convert_name, {"type": "string", "minLength": 1, "maxLength": 120}, "a string")


def _convert_pattern(value: Any, at: ValuePlace) -> str:
    check_type(value, str, "a regular expression")
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidValue(
            "E105", f"must be a regular expression, and {describe_value(value)} is not: {error}"
        ) from None
    return str(value)


PATTERN = ValueType(_convert_pattern, {"type": "string"}, "a regular expression")


def task_name(verb: str) -> ValueType:
    """Return the type of the name of one task; `verb` says what the table does with it."""

    def convert(value: Any, at: ValuePlace) -> str:
        check_type(value, str, "the name of a task")
        found = at.reader.find_names(value, "task", at.path, f"{at.owner} {verb}")
        if not found:
            raise AlreadyReported
        return found[0]

    return ValueType(convert, {"type": "string", "pattern": f"^{NAME_PATTERN}$"}, "a name")


def task_names(verb: str) -> ValueType:
    """Return the type of names of tasks; a single one may stand alone."""
    return ValueType(
        lambda value, at: at.reader.find_names(value, "task", at.path, f"{at.owner} {verb}"),
        STRINGS.schema,
        "names",
        expand=STRINGS.expand,
    )


def by_name(kind: str, verb: str, inner: ValueType) -> ValueType:
    """Return the type of a table whose keys are names of queues, tasks or params, each with a value of `inner`."""

    def convert(value: Any, at: ValuePlace) -> dict[str, Any]:
        check_type(value, dict, f"a table of {kind}s")
        made = {}
        for word, one in value.items():
            path = (*at.path, word)
            name = at.reader.find_name(word, kind, path, f"{at.owner} {verb}")
            place = at._replace(key=f"{at.key}.{word}", path=path)
            try:
                made[name] = inner.convert(one, place)
            except InvalidValue as wrong:
                message = f"`{place.key}` of {at.owner} {wrong.message}"
                at.reader.add_problem(wrong.code, message, path, wrong.hint)
            except AlreadyReported:
                pass
        made.pop("", None)
        return made

    schema = {"type": "object", "propertyNames": {"pattern": f"^{NAME_PATTERN}$"}, "additionalProperties": inner.schema}
    return ValueType(convert, schema, f"a table by {kind}")


def items_of(wanted: str) -> ValueType:
    """Return the type of a list of items of any kind."""

    def convert(value: Any, at: ValuePlace) -> list[Any]:
        check_type(value, list, wanted)
        return list(value)

    return ValueType(convert, LIST.schema, wanted)


def list_of_tables(keys: KeyTable, made: Callable[..., Any]) -> ValueType:
    """Return the type of a list of tables; `made` is the class of the model that each becomes."""

    def convert(value: Any, at: ValuePlace) -> tuple[Any, ...]:
        check_type(value, list, "a list of tables")
        found = []
        for number, one in enumerate(value):
            path = (*at.path, str(number))
            before = len(at.reader.problems)
            table = at.reader.convert_table(one, keys, path, f"`{at.key}` of {at.owner}")
            if len(at.reader.problems) == before:
                found.append(made(**table))
        return tuple(found)

    schema = {"type": "array", "items": keys.reference_schema}
    return ValueType(convert, schema, f"tables of {', '.join(f'`{name}`' for name in keys)}")


def check_one_form(expectation: QueueExpectation) -> str:
    """Return what is wrong with the keys of an expectation; empty if nothing is."""
    given = [word for word in ("any_order", "ordered") if getattr(expectation, word) is not None]
    return "has both `any_order` and `ordered`: one of them says it" if len(given) > 1 else ""


def file_tests(keys: KeyTable) -> ValueType:
    """Return the type of `[[tests]]`; a test with a mistake is reported and left out."""

    def convert(value: Any, at: ValuePlace) -> tuple[FileTest, ...]:
        check_type(value, list, "a list of tables: `[[tests]]`")
        if len(value) > MAX_TESTS:
            text = f"the file has {len(value):,} tests, and at most {MAX_TESTS:,} make sense"
            at.reader.add_problem("E117", text, at.path, "a file of tests, `NAME.test.toml`, has room for more")
            raise AlreadyReported
        found = []
        for number, one in enumerate(value):
            path = (*at.path, str(number))
            name = one.get("name") if isinstance(one, dict) else None
            owner = f"test {quote_name(name)}" if isinstance(name, str) and name else f"test {number + 1}"
            before = len(at.reader.problems)
            made = at.reader.convert_table(one, keys, path, owner)
            if len(at.reader.problems) == before and UNKNOWN not in made.values():
                place = nearest_location(at.reader.source_map, path, at.reader.source_map.file)
                found.append(FileTest(**made, place=place))
        return tuple(found)

    schema = {"type": "array", "items": keys.reference_schema}
    return ValueType(convert, schema, "tables", accepts_unknown=True)
