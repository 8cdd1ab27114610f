"""The reference page is what the grammar says, and the grammar is what the model does."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from doc_blocks import assert_page_is, filled_page
from helpers import ROOT, load_config

from runner.cli import shared_options
from runner.config import grammar
from runner.config.resolved import to_toml
from runner.model import AgentSettings, QueueConfig, RaySettings, Resources, RunSettings, TaskConfig

PAGE = ROOT / "docs" / "reference" / "file.md"


def key_table(table):
    """One table of keys as Markdown."""

    def default(key):
        if inner := key.type.expand({}):
            return f"`{to_toml(inner)}`"
        return key.default if key.parse_default() is None else f"`{key.default}`"

    rows = ["| key | default | value | meaning |", "|---|---|---|---|"]
    rows += [f"| `{key.name}` | {default(key)} | {key.type.description} | {key.help} |" for key in table.values()]
    return "\n".join(rows).replace("  ", " ")


@pytest.mark.parametrize(
    "name",
    [
        *("top", "run", "agents", "ray", "queue", "task", "resources", "param"),
        *("test", "stub", "fault", "expect", "expected queue", "expected task"),
    ],
)
def test_the_page_has_the_tables_of_the_grammar(name):
    """After a change of the grammar: `UPDATE_REFERENCE=1 pytest tests/config/test_reference.py`."""
    begin = f"<!-- keys: {name} -->"
    assert begin in PAGE.read_text(encoding="utf-8")
    assert_page_is(PAGE, filled_page(PAGE, begin, "<!-- end -->", key_table(grammar.TABLES[name])))


def test_defaults_of_the_grammar_are_those_of_the_model(tmp_path):
    def written(table):
        found = {key.name: key.parse_default() for key in table.values()}
        return {name: value for name, value in found.items() if value is not None}

    lines = ["[queues]", "q = {}", "[queues.r]"]
    lines += [f"{key} = {to_toml(value)}" for key, value in written(grammar.QUEUE).items()]
    lines += ["[run]", *(f"{key} = {to_toml(value)}" for key, value in written(grammar.RUN).items())]
    lines += ["[tasks.a]", "[tasks.b]", *(f"{key} = {to_toml(value)}" for key, value in written(grammar.TASK).items())]
    lines += [f"{table.name} = {to_toml(written(table))}" for table in (grammar.BACKOFF, grammar.RESTARTS)]
    (tmp_path / "tasks.toml").write_text("\n".join(lines))
    made = load_config(tmp_path / "tasks.toml")
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
    for table, made in (
        *(("run", RunSettings), ("agents", AgentSettings), ("ray", RaySettings)),
        *(("queue", QueueConfig), ("task", TaskConfig), ("resources", Resources)),
    ):
        fields = {field.name for field in dataclasses.fields(made)}
        assert {renamed.get(key, key) for key in grammar.TABLES[table]} <= fields


def test_completion_offers_the_keys_of_the_grammar(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.toml").write_text("[queues.q]\n[tasks.a]\n")
    offered = shared_options.complete_set(SimpleNamespace(params={"file": "tasks.toml"}, args=[]), [], "")
    keys = {tuple(path.rstrip("=").split(".")) for path in offered}
    assert ("tasks", "a", "workers") in keys
