"""The page on plugins has every hook, and every event with its fields."""

from __future__ import annotations

import dataclasses
import inspect

from doc_blocks import assert_page_is, filled_page
from helpers import ROOT

import runner
from runner import events, hookspecs
from runner.cli import shared_options as options
from runner.plugins import distributions

PAGE = ROOT / "docs" / "reference" / "plugins.md"
BEGIN, END = "<!-- events -->", "<!-- end -->"


def table():
    rows = ["| event | fields | meaning |", "|---|---|---|"]
    for name, kind in vars(events).items():
        if dataclasses.is_dataclass(kind) and kind is not events.Event:
            fields = ", ".join(f"`{each.name}`" for each in dataclasses.fields(kind) if each.name != "at")
            meaning = " ".join(inspect.getdoc(kind).split())
            label = f"`{name}`" if issubclass(kind, events.Event) else f"`{name}` (a part)"
            rows.append(f"| {label} | {fields} | {meaning} |")
    return "\n".join(rows)


def test_the_page_has_every_event_and_field():
    """After a change of the events: `UPDATE_REFERENCE=1 pytest tests/plugins/test_reference.py`."""
    assert_page_is(PAGE, filled_page(PAGE, BEGIN, END, table()))


def test_the_page_has_every_hook_with_its_arguments_and_an_example():
    page = PAGE.read_text(encoding="utf-8")
    for name in hookspecs.NAMES:
        arguments = list(inspect.signature(getattr(hookspecs.Hooks, name)).parameters)[1:]
        assert f"| `{name}({', '.join(arguments)})` |" in page
        assert f"### `{name}`\n" in page
        assert page.count(f"def {name}(") == 1
    assert len(hookspecs.NAMES) == 5


def test_the_page_has_every_way_to_block():
    page = PAGE.read_text(encoding="utf-8")
    for word in (
        distributions.DISABLE_VARIABLE,
        distributions.ONLY_VARIABLE,
        "--no-plugin",
        "--no-plugins",
        "--only-plugin",
    ):
        assert word in page
    assert options.NoPluginOption is not None


def test_importing_runner_and_its_mark_imports_no_pluggy():
    import subprocess
    import sys

    program = "import sys, runner; runner.hookimpl, runner.WorkerInfo; print('pluggy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert found == "False\n"
    assert set(runner.__all__) >= {"hookimpl", "WorkerInfo", "TaskFunction"}
