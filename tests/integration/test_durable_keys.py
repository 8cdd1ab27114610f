"""A durable run whose input is edited between two lives: items are known again by their `key`.

The oracle is arithmetic: of each line the output has as many as the first life had read or the new input has,
whichever is more, for some number of lines that the first life has read.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from integration.test_durable import Durable, line

TEXT = line(a="size = 100").replace(
    "[tasks.numbers]\nwith = { count = 3000 }", '[tasks.read]\ncall = "std.lines"\nwith = { path = "in" }\nkey = "."'
)
OLD = [f"line {number}" for number in range(1500)] + ["twice", "twice"]


def added(lines: list[str], draw: random.Random) -> list[str]:
    return sorted([*lines, *(f"new {number}" for number in range(20))], key=lambda _: draw.random())


def removed(lines: list[str], draw: random.Random) -> list[str]:
    return [text for text in lines if draw.random() < 0.9]


def swapped(lines: list[str], draw: random.Random) -> list[str]:
    return sorted(lines, key=lambda _: draw.random())


def repeated(lines: list[str], draw: random.Random) -> list[str]:
    return [*lines[:10], "twice", *lines, lines[5], lines[-3]]


def replaced(lines: list[str], draw: random.Random) -> list[str]:
    return [f"other {number}" for number in range(50)]


def same(lines: list[str], draw: random.Random) -> list[str]:
    return lines


def fits(found: Counter[str], new: list[str]) -> bool:
    """Return True if the output can be what it has to be: the first life has read some of the old lines."""
    wanted, read = Counter(new), Counter[str]()
    for text in [None, *OLD]:
        if text is not None:
            read[text] += 1
            wanted[text] = max(wanted[text], read[text])
        if wanted == found:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit",
    [
        added,
        *(pytest.param(edit, marks=pytest.mark.slow) for edit in (removed, replaced, swapped, repeated, same)),
    ],
)
def test_an_edited_input_is_read_again_and_what_was_given_is_passed_over(project: Any, edit: Any) -> None:
    made = Durable(project, TEXT, len(OLD), **{"in": "\n".join(OLD) + "\n"})
    made.go("run", lambda: made.size_of("out.txt") > 3000)
    assert made.kills == 1
    new = edit(OLD, random.Random(edit.__name__))
    (made.path / "in").write_text("\n".join(new) + "\n")
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert fits(Counter(made.lines()), new)


@pytest.mark.slow
def test_five_other_lines_are_read_as_they_are(project: Any) -> None:
    """GNU Parallel resumes by position: it skips the first of the new lines, which it never did."""
    made = Durable(project, TEXT, 5, **{"in": "1\n2\n3\n4\n5\n"})
    assert made.go("run").exit == 0
    (made.path / "in").write_text("9\n8\n7\n6\n5\n4\n")
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    assert sorted(made.lines()) == [*"12345"], "the source has ended"
    outcome = made.project.run("--again", "--progress", "none", verb="resume")
    assert outcome.exit == 0, outcome
    assert "9 read = 9 done" in outcome.err
    assert sorted(made.lines()) == [*"123456789"]
    outcome = made.project.run("--again", "--progress", "none", verb="resume")
    assert outcome.exit == 0, outcome
    assert sorted(made.lines()) == [*"123456789"]


@pytest.mark.slow
def test_only_sources_with_a_key_are_read_again(project: Any) -> None:
    made = Durable(project, TEXT.replace('key = "."', ""), len(OLD), **{"in": "\n".join(OLD) + "\n"})
    made.go("run", lambda: made.size_of("out.txt") > 500)
    outcome = made.project.run("--again", verb="resume")
    assert outcome.exit == 2, outcome
    assert "--again is for sources with a `key`" in outcome.err


@pytest.mark.slow
def test_a_key_that_is_a_field_and_what_has_none(project: Any) -> None:
    text = TEXT.replace('"std.lines"', '"std.jsonl"').replace('key = "."', 'key = "id"')
    rows = [f'{{"id": {number}, "text": "a"}}' for number in range(2000)]
    made = Durable(project, text.replace("std.write_lines", "std.write_jsonl"), 2000, **{"in": "\n".join(rows) + "\n"})
    made.go("run", lambda: made.size_of("out.txt") > 2000)
    assert made.kills == 1
    rows = [row.replace('"a"', '"b"') for row in reversed(rows)]
    (made.path / "in").write_text("\n".join(rows) + "\n")
    outcome = made.go("resume")
    assert outcome.exit == 0, outcome
    found = made.lines()
    assert len(found) == 2000
    assert {row.replace('"a"', '"b"') for row in found} == set(rows)
    (made.path / "in").write_text('{"id": 1}\n{"name": 2}\n')
    outcome = made.go("run")
    assert outcome.exit == 1, outcome
    assert "this item has no `id`, which is the `key` of its task: {'name': 2}" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('key = "."', "", "source `read` has no `key` any more, by which its items were known"),
        pytest.param(
            "",
            'key = "."',
            "source `read` has a `key` now, and none when it gave its first items",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_key_cannot_be_taken_away_or_given_later(project: Any, before: str, after: str, why: str) -> None:
    made = Durable(project, TEXT.replace('key = "."', before), len(OLD), **{"in": "\n".join(OLD) + "\n"})
    made.go("run", lambda: made.size_of("out.txt") > 500)
    assert made.kills == 1
    file = made.path / "tasks.toml"
    file.write_text(file.read_text().replace('{ path = "in" }\n' + before, '{ path = "in" }\n' + after))
    outcome = made.go("resume")
    assert outcome.exit == 3, outcome
    assert why in outcome.err
