"""`runner doctor`: each thing that can be wrong with a machine is found, with the way out."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import tempfile
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from helpers import ROOT

from runner import cgroups
from runner.cli import machine_checks
from runner.errors import LedgerRefused
from runner.store import run_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from runner.cli.machine_checks import Finding


def levels(found: Iterable[Finding]) -> dict[str, str]:
    return {each.name: each.level for each in found}


def test_this_machine_is_well_enough_for_its_tests(project: Any) -> None:
    made = project({})
    outcome = made.run("--json", verb="doctor")
    assert outcome.exit == 0, outcome
    assert not outcome.json["wrong"]
    named = {each["check"] for each in outcome.json["checks"]}
    assert {"Python", "dependencies", "processors", "memory", "open files", "state folder"} <= named
    assert not {each["level"] for each in outcome.json["checks"]} - {"ok", "note", "slow"}
    assert not any(made.path.iterdir()), "it has written something"


def test_a_report_has_nothing_secret(project: Any, tmp_path: Path) -> None:
    made = project({})
    outcome = made.run("--report", verb="doctor", env={"SECRET_TOKEN": "swordfish", "HOME": str(tmp_path)})
    assert outcome.out.startswith("```text\nrunner ")
    for secret in ("swordfish", os.uname().nodename + " ", str(tmp_path)):
        assert secret not in outcome.out
    assert made.run("--report", "--json", verb="doctor").exit == 2


SICK: dict[str, tuple[Callable[[pytest.MonkeyPatch], object], Callable[[], Iterable[Finding]], str]] = {
    "open files": (
        lambda patch: patch.setattr(resource, "getrlimit", lambda _: (256, 1024)),
        machine_checks.check_limits,
        "LimitNOFILE",
    ),
    "processes": (
        lambda patch: patch.setattr(resource, "getrlimit", lambda _: (100, 100)),
        machine_checks.check_limits,
        "TasksMax",
    ),
    "processors": (
        lambda patch: patch.setattr(cgroups, "cpu_quota", lambda: 0.5),
        machine_checks.check_processors,
        "one processor at least",
    ),
    "memory": (
        lambda patch: patch.setattr(machine_checks, "_LITTLE_SPACE", 1 << 60),
        machine_checks.check_memory,
        "fewer workers",
    ),
    "kernel": (lambda patch: patch.delattr(os, "memfd_create"), machine_checks.check_kernel, ""),
    "dependencies": (
        lambda patch: patch.setattr(importlib.metadata, "version", lambda _: "0.0.1"),
        machine_checks.check_dependencies,
        "pip install --upgrade",
    ),
}


@pytest.mark.parametrize("name", SICK)
def test_what_is_wrong_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sick, check, advice = SICK[name]
    assert name not in {each.name for each in check() if each.level in {"slow", "wrong"}}
    make_sick(monkeypatch)
    [sick] = [each for each in check() if each.name == name and each.level in {"slow", "wrong"}]
    assert advice in sick.advice


def test_folders_that_cannot_be_written_or_are_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / ".runner"
    assert levels(machine_checks.check_state_folder(state)) == {"state folder": "ok", "durable runs": "ok"}
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert levels(machine_checks.check_state_folder(state)) == {"state folder": "wrong"}
    assert levels(machine_checks.check_temporary_folder(tmp_path)) == {"temporary files": "wrong"}
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore[attr-defined]
    assert levels(machine_checks.check_temporary_folder(tmp_path)) == {"temporary files": "slow"}
    monkeypatch.undo()
    state.mkdir()
    state.chmod(0o777)
    [refused] = machine_checks.check_state_folder(state)
    assert "other users may write" in refused.text


def test_a_slow_disk_and_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_SLOW_SYNC", 0.0)
    assert levels(machine_checks.check_state_folder(tmp_path))["durable runs"] == "slow"

    def refuse(_: Path) -> None:
        raise LedgerRefused("it is on nfs")

    monkeypatch.setattr(run_lock, "refuse_network_disk", refuse)
    assert levels(machine_checks.check_state_folder(tmp_path))["durable runs"] == "note"
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError()))
    assert levels(machine_checks.check_state_folder(tmp_path))["state folder"] == "ok"


def test_a_check_that_fails_itself_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: 1 // 0)
    found = machine_checks.check_machine(tmp_path)
    assert [each.text for each in found if each.name == "a check"] == [
        "failed itself: ZeroDivisionError: integer division or modulo by zero"
    ]
    assert "memory" in levels(found)


def test_every_dependency_is_checked() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert len(machine_checks.required_versions(declared)) == len(declared)
