"""Tests of files, executed in this process: what differs is told, what stands in stands in, and faults happen."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import pytest

from runner import api
from runner.errors import UsageError
from runner.file_tests.execution import execute_test

if TYPE_CHECKING:
    from pathlib import Path

    from runner.file_tests.execution import TestEnd

FILE = """
[queues]
numbers = {}
texts = {}

[tasks.count]
call = "std.range"
args = [0, 4]
outputs = "numbers"

[tasks.write]
call = "builtins:hex"
inputs = "numbers"
outputs = "texts"

[tasks.look]
call = "builtins:len"
mode = "thread"
inputs = "texts"

[[tests]]
name = "the one"
"""


def executed(folder: Path, test: str, outputs: str = 'outputs = "texts"', call: str = "builtins:hex") -> TestEnd:
    """Run one test of the file above."""
    (folder / "tasks.toml").write_text(FILE.replace("builtins:hex", call).replace('outputs = "texts"', outputs) + test)
    config = api.read_config(folder / "tasks.toml", None, None)
    assert not config.problems
    path = list(sys.path)
    try:
        return execute_test(dataclasses.replace(config, folder=folder), config.tests[0], folder)
    finally:
        sys.path[:] = path


def differences(folder: Path, test: str, outputs: str = 'outputs = "texts"') -> list[str]:
    """Return what differs, and where first."""
    return [f"{what}: {first or got}" for what, _, got, first in executed(folder, test, outputs).differences]


def test_what_differs_is_told(tmp_path: Path) -> None:
    wrong = (
        'expect.queues.texts = { ordered = ["0x0", "0x2"], any_order = ["0x9"], contains = ["0x8"], matches = "[01]$" }'
    )
    assert differences(tmp_path, wrong) == [
        'items in queue `texts`, in this order: item 2: expected "0x2", got "0x1"',
        'items in queue `texts`, in any order: "0x9" is missing, "0x0" was not expected',
        'items in queue `texts`, among them: "0x8" is missing',
        'items in queue `texts`, each matching: item 3, "0x2", does not match',
    ]


def test_what_is_missing_alone_is_told(tmp_path: Path) -> None:
    assert differences(tmp_path, 'expect.queues.texts.any_order = ["0x0", "0x1", "0x2", "0x3", "0x4"]') == [
        'items in queue `texts`, in any order: "0x4" is missing'
    ]


def test_counts_that_differ_are_told(tmp_path: Path) -> None:
    wrong = "expect = { exit = 4, repeated = 1, dropped = 2, tasks.write = { done = 3, dead = 1, tries = 5 } }"
    assert [found.partition(":")[0] for found in differences(tmp_path, wrong)] == [
        "exit code", "`done` of task `write`", "`dead` of task `write`", "`tries` of task `write`",
        "items repeated", "items dropped",
    ]  # fmt: skip


def test_an_exit_code_that_was_not_expected_is_told(tmp_path: Path) -> None:
    assert differences(tmp_path, 'stub.write.error = "OSError"') == ["exit code: 4"]


def test_a_stub_stands_in(tmp_path: Path) -> None:
    test = """
    stub.write = { fails = 1, error = "OSError: no", gives = "n${item}" }
    expect.exit = 4
    expect.queues.texts.count = 0
    expect.tasks.write = { dead = 4 }
    """
    assert differences(tmp_path, test) == []


def test_stubs_of_batches_and_of_sinks(tmp_path: Path) -> None:
    test = """
    stub.write.gives = "n${item}"
    stub.look = { fails = 2, error = "OSError: no", slow = "1ms" }
    expect.queues.texts.any_order = ["n0", "n1", "n2", "n3"]
    expect.tasks.look = { done = 4, tries = 12 }
    [defaults.task]
    batch = 2
    attempts = 3
    backoff = { first = "1ms" }
    """
    assert differences(tmp_path, test) == []


def test_a_stub_of_a_task_with_ports(tmp_path: Path) -> None:
    test = """
    stub.write.gives = { even = "${item}", odd = { n = "${item}" } }
    expect.queues.texts.contains = [0, { n = 3 }]
    expect.queues.texts.count = 8
    stub.look = {}
    """
    ports = 'outputs = { even = "texts", odd = "texts" }'
    assert differences(tmp_path, test, ports) == []


def test_a_killed_worker_dies_over_its_item(tmp_path: Path) -> None:
    test = """
    stub.write = { slow = "300ms", gives = "n${item}" }
    fault = [{ kill = "write", after = 1 }]
    expect.queues.texts.any_order = ["n0", "n1", "n2", "n3"]
    expect.repeated = 1
    """
    assert differences(tmp_path, test) == []


def test_a_fault_that_did_not_happen_is_told(tmp_path: Path) -> None:
    test = 'fault = [{ kill = "write", after = 9 }, { interrupt_run = 90 }]'
    assert differences(tmp_path, test) == ["fault: none: the run had ended before"] * 2


def test_a_thread_cannot_be_killed(tmp_path: Path) -> None:
    file = tmp_path / "plugins/threads.py"
    file.parent.mkdir()
    file.write_text("from runner import task\n@task(mode='thread')\ndef work(item): return item\n")
    with pytest.raises(UsageError, match="a fault of task `write`: its workers are threads, as its function declares"):
        executed(tmp_path, 'fault = [{ kill = "write", after = 1 }]', call="work")


def test_a_test_that_takes_too_long_is_over(tmp_path: Path) -> None:
    test = 'timeout = "400ms"\nstub.write.slow = "1m"'
    assert differences(tmp_path, test)[0] == "time: none: the run was stopped"
    assert executed(tmp_path, f"{test}\nexpect.exit = 124").differences == ()


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_an_interrupted_run_goes_on_if_it_is_durable(tmp_path: Path, mode: str) -> None:
    test = f"""
    stub.count = {{ gives = [0, 1, 2, 3, 4, 5, 6, 7], slow = "30ms" }}
    fault = [{{ interrupt_run = 2 }}]
    [run]
    durable = true
    [defaults.task]
    mode = "{mode}"
    """
    end = executed(tmp_path, test)
    assert (end.differences, end.exit_code) == ((), 0)
    assert end.balance == "8 read = 8 done + 0 dead + 0 dropped + 0 left"
