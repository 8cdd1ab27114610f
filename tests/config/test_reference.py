"""The reference page is what the grammar says, and the grammar is what the model does."""

from __future__ import annotations

import dataclasses
import os

import tomli
from helpers import ROOT

from runner import config
from runner.config import grammar, reference
from runner.config.model import QueueConfig, RunSettings, TaskConfig

PAGE = ROOT / "docs" / "reference" / "file.md"


def test_the_page_has_the_tables_of_the_grammar():
    """After a change of the grammar: `UPDATE_REFERENCE=1 pytest tests/config/test_reference.py`."""
    page = PAGE.read_text(encoding="utf-8")
    if os.environ.get("UPDATE_REFERENCE"):
        PAGE.write_text(reference.fill_page(page), encoding="utf-8")
    assert reference.fill_page(page) == PAGE.read_text(encoding="utf-8")
    for name in ("top", "run", "queue", "task", "param"):
        assert reference.BEGIN_MARK.replace("NAME", name) in page


def test_defaults_of_the_grammar_are_those_of_the_model(tmp_path):
    def written(table):
        found = {}
        for key in grammar.TABLES[table].values():
            try:
                found[key.name] = tomli.loads(f"v = {key.default}")["v"]
            except tomli.TOMLDecodeError:
                continue
        return found

    from runner.config.resolved import to_toml

    lines = ["[queues]", "q = {}", "[queues.r]"]
    lines += [f"{key} = {to_toml(value)}" for key, value in written("queue").items()]
    lines += ["[run]", *(f"{key} = {to_toml(value)}" for key, value in written("run").items())]
    lines += ["[tasks.a]", "[tasks.b]", *(f"{key} = {to_toml(value)}" for key, value in written("task").items())]
    lines += [
        f"{key.name} = {to_toml(written(key.table))}"
        for key in grammar.TASK.values()
        if key.table in {"backoff", "restarts"}
    ]
    (tmp_path / "tasks.toml").write_text("\n".join(lines))
    made = config.load(tmp_path / "tasks.toml")
    assert made.run == RunSettings()
    assert (
        dataclasses.replace(made.queues["r"], name="q", elastic=True)
        == made.queues["q"]
        == QueueConfig("q", elastic=True)
    )
    same = dataclasses.replace(made.tasks["b"], name="a", call="a", workers=made.tasks["a"].workers)
    assert same == made.tasks["a"] == TaskConfig("a", "a", on_error="fail", workers=same.workers)


def test_every_key_of_a_table_is_a_field_of_its_dataclass():
    renamed = {"with": "kwargs", "outputs": "ports"}
    for table, made in (("run", RunSettings), ("queue", QueueConfig), ("task", TaskConfig)):
        fields = {field.name for field in dataclasses.fields(made)}
        assert {renamed.get(key, key) for key in grammar.TABLES[table]} <= fields
