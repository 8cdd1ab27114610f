"""The schema accepts every good file of the repository and refuses what a schema can refuse."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import jsonschema
import pytest
import tomli
from helpers import ROOT

from runner import check, config
from runner.cli.explain import EXPLANATIONS
from runner.config.grammar import build_schema
from runner.errors import ConfigError

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.toml"))
GOOD = [ROOT / "tasks.toml", *sorted((ROOT / "examples").rglob("tasks*.toml"))]
#: What a schema can say: types, unknown keys, ranges, units, names, needed keys, names that are there twice.
EXPRESSIBLE = {"E103", "E104", "E105", "E106", "E107", "E109", "E211"}


def plain(value):
    """TOML's dates are strings to JSON Schema."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else value


@pytest.fixture(scope="module")
def validator():
    schema = build_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_it_accepts_every_good_file(path, validator):
    validator.validate(plain(tomli.loads(path.read_text(encoding="utf-8"))))


def blocks():
    import re

    fence = re.compile(r"^```toml\n# file: .*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = [match[1] for page in pages for match in fence.finditer(page.read_text(encoding="utf-8"))]
    return [text for text in found if "# exit: 3" not in text]


@pytest.mark.parametrize("text", [*blocks(), *(page.right for page in EXPLANATIONS.values() if page.right)])
def test_it_accepts_every_file_in_the_documentation(text, validator):
    validator.validate(plain(tomli.loads(text)))


def readable():
    for path in CORPUS:
        try:
            yield path.stem, plain(tomli.loads(path.read_bytes().decode()))
        except (ValueError, RecursionError):
            continue


@pytest.mark.parametrize(("name", "data"), list(readable()))
def test_it_refuses_every_broken_file_whose_fault_it_can_express(name, data, validator, monkeypatch):
    monkeypatch.chdir(CORPUS[0].parent)
    try:
        problems = check.check_file(config.examine(f"{name}.toml", env={}))
    except ConfigError as error:
        problems = error.problems
    codes = {problem.code for problem in problems if problem.severity == "error"}
    if codes & EXPRESSIBLE:
        assert not validator.is_valid(data), codes
    elif not codes:
        validator.validate(data)


def test_every_key_has_a_description():
    for name, table in build_schema()["$defs"].items():
        for key, schema in table["properties"].items():
            assert schema["description"], f"{name}.{key}"
