"""Params: types, bounds, where values come from, and `${name}` in values."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import load_config

from runner import check
from runner.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def call(text, *, lenient=False, **options):
        (tmp_path / "tasks.toml").write_text(text)
        return load_config(tmp_path / "tasks.toml", **{"env": {}, **options})

    return call


def task(load, declared, value, **options):
    return load(f"[params]\n{declared}\n[tasks.a]\nargs = [{value}]", **options).tasks["a"].args[0]


@pytest.mark.parametrize(
    ("declaration", "given", "expected"),
    [
        ("n = 3", "5", 5),
        ("n = 3", "-5", -5),
        ("n = 1.5", "2", 2.0),
        ('n = "a"', "5", "5"),
        ("n = true", "no", False),
        ("n = [1]", "a, b", ["a", "b"]),
        ('n = { type = "path", default = "." }', "a/b", Path("a/b")),
        ('n = { type = "duration", default = "1s" }', "1m30s", 90.0),
        ('n = { type = "size", default = "1B" }', "2KiB", 2048),
        ('n = { type = "int", required = true }', "7", 7),
        ('n = { default = "a", choices = ["a", "b"] }', "b", "b"),
    ],
)
def test_a_value_from_outside_has_the_type_of_its_param(load, declaration, given, expected):
    found = task(load, declaration, '"${n}"', params={"n": given})
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("declaration", "given", "said"),
    [
        ("n = 3", "x", "E113 param `n` must be a whole number, not x"),
        ("n = { default = 3, min = 1 }", "0", "E113 param `n` must be at least 1, not 0"),
        ("n = { default = 3, max = 4 }", "5", "E113 param `n` must be at most 4, not 5"),
        ('n = { default = "abc", min = 2 }', "a", "E113 param `n` must in length be at least 2, not a"),
        ('n = { default = "a", choices = ["a", "bb"] }', "b", "E113 param `n` must be one of a, bb, not b"),
        ('n = { type = "duration", default = "1s", max = "1m" }', "2m", "E113 param `n` must be at most 1m, not 2m"),
        (
            'n = { default = "long enough", secret = true, min = 5 }',
            "hi",
            "E113 param `n` must in length be at least 5",
        ),
    ],
)
def test_a_value_that_does_not_fit(load, declaration, given, said):
    with pytest.raises(ConfigError) as raised:
        task(load, declaration, '"${n}"', params={"n": given})
    assert str(raised.value).startswith(f"-p n: {said}\n")


def test_references_keep_types_alone_and_are_text_inside(load):
    params = 'n = 3\nyes = true\nwait = { type = "duration", default = "1m" }\nnames = ["a"]'
    assert task(load, params, '"${n}"') == 3
    assert task(load, params, '"${n} loaves, ${yes}, ${wait}, $${n}"') == "3 loaves, true, 1m, ${n}"
    assert task(load, params, '{ a = ["${names}"] }') == {"a": [["a"]]}


def test_keys_are_never_filled(load):
    with pytest.raises(ConfigError, match=r"E104 unknown key `\$\{n\}`"):
        load('[params]\nn = "mode"\n[tasks.a]\n"${n}" = "thread"')


TEXT = """
[params]
n = { default = 1, env = "N", min = 0 }
[defaults.task]
attempts = 2
concurrency = 7
[tasks.a]
workers = "${n}"
attempts = 3
"""


def test_what_wins(load):
    def workers(**options):
        return len(load(TEXT, **options).tasks["a"].workers)

    assert workers() == 1
    assert workers(env={"N": "2"}) == 2
    assert workers(env={"N": "2"}, params={"n": "3"}) == 3
    assert workers(env={"N": "2"}, params={"n": "3"}, sets=[("tasks.a.workers", "4")]) == 4
    assert workers(env={"N": "2"}, params={"n": "3"}, sets=[("params.n", "5")]) == 5
    made = load(TEXT).tasks["a"]
    assert (made.attempts, made.concurrency, made.on_error) == (3, 7, "fail")


def test_a_param_that_is_set_keeps_its_bounds(load):
    with pytest.raises(ConfigError, match=r"--set params.n: E114 param `n` has a default that must be at least 0"):
        load(TEXT, sets=[("params.n", "-1")])


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("tasks.a.wrokers", "3", "--set tasks.a.wrokers: E104 unknown key `wrokers` in task `a`"),
        ("tasks.a.mode", "thred", "--set tasks.a.mode: E105"),
        ("tasks..mode", "3", "--set tasks..mode: E110"),
        ("tasks.a.workers.x", "3", "--set tasks.a.workers.x: E110"),
    ],
)
def test_what_is_set_is_checked_as_the_file_is(load, path, value, said):
    with pytest.raises(ConfigError) as raised:
        load(TEXT, sets=[(path, value)])
    assert str(raised.value).startswith(said)


def test_set_takes_toml(load):
    made = load(TEXT, sets=[("tasks.a.workers", '["x", "y"]'), ("tasks.a.mode", "thread"), ("run.grace", '"3s"')])
    assert made.tasks["a"].workers == ("x", "y")
    assert made.tasks["a"].mode == "thread"
    assert made.run.grace == 3.0


def test_an_unused_param_is_a_warning_and_no_more(load):
    loaded = load("[params]\nn = 1\n[tasks.a]")
    assert [each.code for each in check.check_file(loaded)] == ["W401"]
