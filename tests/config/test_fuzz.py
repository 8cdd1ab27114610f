"""Nothing but a `ConfigError` comes out of a file, whatever is in it: random TOML, and good files gone wrong."""

from __future__ import annotations

import datetime as dt  # noqa: TC003  `hinted` is looked at while the tests run
import enum
from collections.abc import Mapping, Sequence  # noqa: TC003
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import ROOT, examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import check, config
from runner.config import grammar, resolved
from runner.errors import ConfigError
from runner.plugins import TaskFunction
from runner.problems import render_problems, sorted_problems
from runner.report.graph import diagram_of_config, to_dot, to_mermaid, to_text
from runner.report.graph_svg import to_svg
from runner.tasks import Reference

GOOD = [
    path.read_text(encoding="utf-8")
    for path in [
        ROOT / "tasks.toml",
        *sorted((ROOT / "examples").rglob("tasks*.toml")),
        *sorted(Path(__file__).parent.glob("corpus/*.toml")),
    ]
    if path.stat().st_size < 4000 and not path.stem.startswith(("bytes", "deep", "syntax-huge"))
]
KEYS = sorted({key for table in grammar.TABLES.values() for key in table})
WORDS = [
    "tasks",
    "queues",
    "run",
    "params",
    "tests",
    "defaults",
    "task",
    "bake",
    "eat",
    "bread",
    "${loaves}",
    "${",
    "$${",
]
VALUES = [
    "1", "0", "-1", "1e400", "nan", "inf", "99999999999999999999", "true", "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
    '""', '"x"', '"10s"', '"10 sec"', '"64MB"', '"5/s"', '"10%"', '"2..16"', '"16..2"', '"auto"', '"thread"', '"bread"', '"bake"',
    '"${loaves}"', '"${"', '"a${loaves}b"', "[]", "{}", "[1, 2]", '["a", "a"]', '["bread", "bread"]', "[[[]]]", '{ default = "bread" }',
    "{ items = 5 }", '{ bake = "started" }', "'''x\ny'''", '"""\\u202e"""', '"\\u0000"', '"\\U0001F600"', '"math:sqrt"',
]  # fmt: skip

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@st.composite
def mutated(draw_):
    """A good file after some accidents."""
    text = draw_(st.sampled_from(GOOD))
    for _ in range(draw_(st.integers(1, 4))):
        at = draw_(st.integers(0, len(text)))
        end = min(len(text), at + draw_(st.integers(0, 30)))
        how = draw_(st.sampled_from([0, 1, 2, 3, 4, 4, 4, 4, 5, 5, 5, 6, 6, 6]))
        if how == 0:
            text = text[:at] + text[end:]
        elif how == 1:
            text = text[:at] + text[at:end] * 2 + text[end:]
        elif how == 2:
            text = text[:at] + draw_(st.text(max_size=4)) + text[end:]
        elif how == 3:
            lines = text.split("\n")
            one, other = draw_(st.integers(0, len(lines) - 1)), draw_(st.integers(0, len(lines) - 1))
            lines[one], lines[other] = lines[other], lines[one]
            text = "\n".join(lines)
        elif how == 4:  # another value behind some `=`
            lines = text.split("\n")
            pairs = [number for number, line in enumerate(lines) if "=" in line]
            if pairs:
                number = draw_(st.sampled_from(pairs))
                lines[number] = f"{lines[number].partition('=')[0]}= {draw_(st.sampled_from(VALUES))}"
            text = "\n".join(lines)
        elif how == 5:  # one more key somewhere
            lines = text.split("\n")
            lines.insert(
                draw_(st.integers(0, len(lines))), f"{draw_(st.sampled_from(KEYS))} = {draw_(st.sampled_from(VALUES))}"
            )
            text = "\n".join(lines)
        else:
            text = text.replace(draw_(st.sampled_from(WORDS)), draw_(st.sampled_from(WORDS)), 2)
    return text


tokens = st.sampled_from(
    [
        *KEYS,
        *WORDS,
        *VALUES,
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ".",
        ",",
        "=",
        " = ",
        "\n",
        "\n",
        "#",
        '"',
        "'",
        '"""',
        "\r\n",
        "\t",
        "\x00",
        "\ufeff",
        "\u202e",
        "é",
        "面",
    ]
)
files = st.one_of(
    st.lists(tokens, max_size=40).map("".join),
    st.lists(st.builds("[{}]\n{} = {}".format, st.sampled_from(["tasks.bake", "queues.bread", "run", "params", "tasks.eat", "defaults.task", "[tests]"]), st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=6).map("\n".join),
    st.text(max_size=60),
)  # fmt: skip


def table(name, kind):
    """A table of the grammar with any of its keys and any values: always TOML, hardly ever right."""
    keys = st.dictionaries(st.sampled_from(sorted(grammar.TABLES[kind])), st.sampled_from(VALUES), max_size=5)
    return keys.map(lambda made: "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in made.items())]))


whole = st.tuples(
    table("run", "run"),
    table("params.loaves", "param"),
    table("queues.bread", "queue"),
    table("queues.crumbs", "queue"),
    table("tasks.bake", "task"),
    table("tasks.eat", "task"),
    table("defaults.task", "task"),
    table("defaults.queue", "queue"),
).map("\n".join)


def survives(path: Path, data: bytes) -> None:
    """Read it, check it, show it and draw it."""
    path.write_bytes(data)
    try:
        loaded = config.examine(path, env={}, params={"loaves": "3"}, sets=[("run.grace", "1s")])
        problems = check.check_file(loaded)
    except ConfigError as error:
        problems = list(error.problems)
    else:
        if not any(each.severity == "error" for each in loaded.problems):
            resolved.render_resolved(loaded, origins=True)
            graph = diagram_of_config(loaded)
            for text in (to_text(graph), to_svg(graph), to_dot(graph), to_mermaid(graph)):
                assert text
    text = render_problems(problems)
    assert problems or loaded
    assert problems == sorted_problems(problems)
    assert all(char.isprintable() or char == "\n" for char in text)
    lines = data.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    for each in problems:
        assert 0 <= each.place.line <= len(lines)
        assert each.place.column <= len(lines[each.place.line - 1]) + 1 if each.place.line else True


@examples(25, 120, **COMMON)
@given(mutated())
def test_good_files_gone_wrong(tmp_path_factory, text):
    survives(FOLDER(tmp_path_factory), text.encode("utf-8", "replace"))


@examples(40, 120, **COMMON)
@given(whole)
def test_every_key_with_any_value(tmp_path_factory, text):
    survives(FOLDER(tmp_path_factory), text.encode("utf-8", "replace"))


@examples(30, 80, **COMMON)
@given(files)
def test_random_files(tmp_path_factory, text):
    survives(FOLDER(tmp_path_factory), text.encode("utf-8", "replace"))


@settings(max_examples=100, **COMMON)
@given(st.binary(max_size=80))
def test_random_bytes(tmp_path_factory, data):
    survives(FOLDER(tmp_path_factory), data)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=5_000, **COMMON)
@given(st.one_of(mutated(), whole, files))
def test_five_thousand_files(tmp_path_factory, text):
    survives(FOLDER(tmp_path_factory), text.encode("utf-8", "replace"))


def FOLDER(factory) -> Path:
    return factory.getbasetemp() / "fuzzed.toml"


# -- arguments --------------------------------------------------------------------------------


class Color(enum.Enum):
    red = "red"


@dataclass
class Size:
    width: int
    tags: list[str] | None = None


def hinted(
    a: int, b: float, c: str | None, d: Path, e: dt.datetime, f: Color, g: Size, h: list[int], i: dict[str, float],
    j: Literal["x", 1], k: Sequence[str], l: Mapping[str, Any], m: tuple[int, str], n: dt.timedelta, o: "Nowhere", p: set[int],  # noqa: F821, E741, UP037
    *rest: int, **more: bool,
): ...  # fmt: skip


values = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.datetimes(), st.dates(), st.times()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=6,
)
names = st.sampled_from([*"abcdefghijklmnopq", "rest", "more", "", "1"])


@examples(15, 150, **COMMON)
@given(st.lists(values, max_size=4), st.dictionaries(names, values, max_size=16))
def test_any_arguments(tmp_path_factory, args, kwargs):
    path = FOLDER(tmp_path_factory)
    path.write_text(
        f"[tasks.hinted]\nmode = 'thread'\nargs = {resolved.to_toml(args)}\nwith = {resolved.to_toml(kwargs)}\n"
    )
    loaded = config.examine(path, env={})
    function = TaskFunction("hinted", hinted, Reference("tests", "hinted"), "tests")
    problems, arguments = check.check_functions(loaded, {"hinted": function})
    assert problems or arguments["hinted"]
    render_problems(problems)
