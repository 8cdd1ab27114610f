"""Random sinks: kinds × items × batches × tries × failing system calls × deaths × stops × targets, in threads.

The oracle reads the folder afterwards: under its name stands either what was there before, or every item that counts
as done, each once; only a run that says so with its exit code has less than all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from faults import harness
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runner.engines.engine_events import SignalReceived
from runner.model import Halt
from runner.std import sinks, targets

#: What the source of the run at hand gives, and the hub that a signal goes to.
_GIVEN: dict[str, Any] = {}
_KINDS = {"lines": sinks.WriteLines, "jsonl": sinks.WriteJsonl, "csv": sinks.WriteCsv}
_CALLS = ("open", "write", "fsync", "replace", "ftruncate", "lseek", "close")


class Deadly(int):
    """An item whose text ends the thread that asks for it."""

    def __str__(self) -> str:
        raise SystemExit

    def __fspath__(self) -> str:
        raise SystemExit


class DeadlyPath:
    """The same for JSON."""

    def __fspath__(self) -> str:
        raise SystemExit


class Faulty:
    """`os` as the targets see it, with calls that fail: (name, which one) → how many bytes get through before."""

    def __init__(self, faults: dict[tuple[str, int], int]) -> None:
        self.faults = faults
        self.seen: Counter[str] = Counter()
        self.struck = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._counted(name, real) if name in _CALLS else real

    def _counted(self, name: str, real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.seen[name] += 1
            after = self.faults.get((name, self.seen[name]))
            if after is None:  # a sync takes as long as all the rest, and no power failure is tried here
                return None if name == "fsync" else real(*args, **kwargs)
            self.struck += 1
            if name == "close":  # the system closes it all the same
                real(*args, **kwargs)
            if name == "write" and after:
                self.faults[name, self.seen[name] + 1] = 0
                return real(args[0], bytes(args[1])[:after])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call


def give() -> Any:
    for at, item in enumerate(_GIVEN["items"]):
        if at == _GIVEN["stop"]:
            _GIVEN["hub"].post_event(SignalReceived(2))
        yield item


def items_of(kind: str, count: int, bad: dict[int, str]) -> tuple[list[Any], dict[int, str]]:
    """Items, and for each good one the line that it must be."""
    items: list[Any] = []
    lines: dict[int, str] = {}
    for at in range(count):
        word = bad.get(at)
        if kind == "lines":
            item: Any = {"wrong": f"{at}\nx", "deadly": Deadly(at)}.get(word or "", f"item {at} ä")
            line = f"item {at} ä"
        elif kind == "jsonl":
            item = {"wrong": {"n": float("nan")}, "deadly": [DeadlyPath()]}.get(word or "", {"n": at})
            line = json.dumps({"n": at})
        else:
            item = {"wrong": {"other": at}, "deadly": {"n": Deadly(at)}}.get(word or "", {"n": at})
            line = str(at)
        items.append(item)
        if word is None:
            lines[at] = line
    return items, lines


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(0, 12))
    some = st.dictionaries(st.integers(0, max(0, count - 1)), st.sampled_from(["wrong", "deadly"]), max_size=2)
    call = st.tuples(st.sampled_from(_CALLS), st.integers(1, 6))
    return {
        "kind": draw(st.sampled_from(sorted(_KINDS))),
        "count": count,
        "bad": draw(st.just({}) | some),
        "faults": draw(st.just({}) | st.dictionaries(call, st.integers(0, 3), max_size=2)),
        "batch": draw(st.sampled_from([None, 1, 3])),
        "attempts": draw(st.sampled_from([1, 1, 2])),
        "ordered": draw(st.booleans()),
        "partial": draw(st.sampled_from([False, False, True])),
        "on_error": draw(st.sampled_from(["dead", "dead", "skip", "fail", "stop"])),
        "halt": draw(st.sampled_from([Halt(), Halt(), Halt(count=1)])),
        "stop": draw(st.none() | st.integers(0, 12)),
        "target": draw(st.sampled_from(["new", "old", "link", "dangling", "long", "stale"])),
    }


def place(folder: Path, target: str) -> tuple[Path, Path]:
    """The path that the task gets, and the file that it means."""
    file = folder / ("ö" * 127 if target == "long" else "out")
    if target in {"old", "link"}:
        file.write_text("old\n")
    if target == "stale":
        (folder / ".out.part").write_text("of a run that was killed\n")
    if target in {"link", "dangling"}:
        (folder / "link").symlink_to("out")
        return folder / "link", file
    return file, file


def check(case: dict[str, Any]) -> None:
    """One run, and what must be true after it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, file = place(folder, case["target"])
        before = file.read_text() if file.exists() else None
        items, lines = items_of(case["kind"], case["count"], case["bad"])
        _GIVEN.update(items=items, stop=case["stop"])
        faulty = Faulty(dict(case["faults"]))
        options = {key: case[key] for key in ("batch", "attempts", "ordered", "on_error")}
        with_ = {"path": str(path), "partial": case["partial"], **({"fields": ["n"]} if case["kind"] == "csv" else {})}
        plan = harness.plan(
            [
                harness.task("give", give, outputs="q", mode="thread"),
                harness.task("sink", _KINDS[case["kind"]], "q", mode="thread", with_=with_, **options),
            ],
            halt=case["halt"],
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(targets, "os", faulty)
            targets._BEGUN.clear()  # every run has the same id here
            outcome = harness.run(plan, on_start=lambda supervisor, hub: _GIVEN.update(hub=hub))
        left = [each.name for each in folder.iterdir() if each.name.endswith(".part")]
        untouched = (file.read_text() if file.exists() else None) == before or any(
            name == "open" for name, _ in faulty.faults
        )
        assert not left or (case["target"] == "stale" and untouched), left
        judge(case, outcome.result, before, file.read_text() if file.exists() else None, lines)


def judge(case: dict[str, Any], result: Any, before: str | None, after: str | None, lines: dict[int, str]) -> None:
    """What stands in the file against what the run says of itself."""
    if after == before:
        assert result.exit_code not in {0, 4}, "nothing is written, and the run calls itself done"
        return
    assert after is not None, "the old file is gone"
    got = after.splitlines()
    assert after.endswith("\n") or not got, "half a line"
    if case["kind"] == "csv":
        assert got[:1] == ["n"], got
        got = got[1:]
    known = Counter(lines.values())
    assert not Counter(got) - known, "a line that no item is, or one that is there twice"
    task = result.tasks["sink"]
    assert len(got) == task.done, (got, task)
    if result.exit_code == 0 and case["on_error"] != "skip":
        assert Counter(got) == known, "items are gone, and the exit code is 0"
    mates = case["batch"] and case["bad"]  # a batch fails as a whole
    if not case["partial"] and result.exit_code in {0, 4} and not mates:
        assert Counter(got) == known, "a cut file stands in the old one's place"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(cases())
def test_some_sinks(case):
    check(case)


@pytest.mark.slow
@pytest.mark.timeout(400)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(cases())
def test_a_thousand_sinks(case):
    check(case)


# -- planted bugs -----------------------------------------------------------------------------


def found() -> bool:
    """Whether the oracle notices what was planted, within some hundred examples."""

    @settings(
        max_examples=400,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    @given(cases())
    def search(case):
        check(case)

    try:
        search()
    except (AssertionError, BaseExceptionGroup):
        return True
    return False


@pytest.mark.slow
def test_planted_a_failed_write_is_forgotten(monkeypatch):
    real = sinks._FileSink._write_items

    def forgets(self, items):
        try:
            real(self, items)
        finally:
            self._lost = None

    monkeypatch.setattr(sinks._FileSink, "_write_items", forgets)
    assert found()


@pytest.mark.slow
def test_planted_the_place_is_taken_without_a_look(monkeypatch):
    def keep(self):
        Path(self._aside).replace(self._target)
        self._aside = ""

    def write(self, data):
        with contextlib.suppress(OSError):  # as if it took all
            targets.os.write(self._fd, data)

    monkeypatch.setattr(targets.AtomicFileTarget, "commit", keep)
    monkeypatch.setattr(targets.AtomicFileTarget, "write", write)
    assert found()


def test_planted_a_dead_thread_begins_the_file_anew(monkeypatch):
    def encode(self, items):
        return (self._header_text() * (not self._headed) + self._format_items(items)).encode()

    monkeypatch.setattr(sinks._FileSink, "_encode_items", encode)
    monkeypatch.setattr(targets, "_BEGUN", type("Forgetful", (dict,), {"get": lambda self, key: None})())
    assert found()
