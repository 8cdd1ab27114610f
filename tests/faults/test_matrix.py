"""Every moment at which a worker can die × every way of dying × where it stands × how it was started.

Whatever happens, the run ends by itself, every item arrives once, and the balance holds; a source alone cannot be
given again what it has sent, and says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from faults import functions
from faults.functions import Fault
from faults.harness import plan, run, task
from faults.sinks import collector

from runner import events

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("fork_server")

COUNT = 60
WAYS = ["SIGKILL", "SIGSEGV", "abort", "_exit(0)", "_exit(3)", "sys.exit", "close"]
MOMENTS = [
    "setup",
    "before Ready",
    "amid Ready",
    "after Ready",
    "granted",
    "decode",
    "item",
    "yielded",
    "encode",
    "before Reply",
    "amid Reply",
    "after Reply",
    "before Finished",
    "amid Finished",
    "after Finished",
    "teardown",
]
#: An exception inside runner's own code is no way of dying.
ABRUPT = [way for way in WAYS if way != "sys.exit"]


def also_slow(value: str) -> Any:
    """A case that says little more than its neighbours."""
    return pytest.param(value, marks=pytest.mark.slow)


def cells() -> list[Any]:
    """The whole matrix; most of it is slow, because every cell is a run with four real workers."""
    found = []
    for victim in ("middle", "tail"):
        for moment in MOMENTS:
            for way in WAYS:
                if way == "sys.exit" and moment not in {"setup", "item", "yielded", "teardown"}:
                    continue
                quick = victim == "middle" and (way == "SIGKILL" or moment == "item")
                found.append(pytest.param(victim, moment, way, marks=() if quick else pytest.mark.slow))
    return found


FORMS = ["batch", "async", "async batch", "boxes", "ordered", "one at a time"]


def cells_of_forms() -> list[Any]:
    """Every form at every moment in two ways; quick is each form at two of the moments, in turn."""
    found = []
    for at, form in enumerate(FORMS):
        quick = {"item", ("amid Reply", "after Reply")[at % 2]}
        for moment in ("item", "encode", "before Reply", "amid Reply", "after Reply"):
            for way in ("SIGKILL", "_exit(0)"):
                marks = () if way == "SIGKILL" and moment in quick else pytest.mark.slow
                found.append(pytest.param(form, moment, way, marks=marks))
    return found


def stages(fault: Fault, middle: Any = functions.Stage, **options: Any) -> tuple[Any, list[Any]]:
    collected: list[Any] = []
    return plan(
        [
            task("source", functions.source, outputs="a", args=(COUNT, fault)),
            task("middle", middle, "a", "b", workers=2, with_={"name": "middle", "fault": fault}, **options),
            task("tail", functions.Stage, "b", "c", with_={"name": "tail", "fault": fault}),
            collector(collected, "c"),
        ]
    ), collected


def happened(fault: Fault) -> int:
    return len(list(fault.folder.glob("happened-*")))


@pytest.mark.parametrize(("victim", "moment", "way"), cells())
def test_a_worker_dies(victim: str, moment: str, way: str, tmp_path: Path) -> None:
    fault = Fault(moment, way, victim, COUNT // 2, tmp_path)
    made, collected = stages(fault)
    outcome = run(made, collected)
    assert happened(fault) == 1, "the fault never happened"
    if moment in {"teardown", "before Finished", "amid Finished"}:
        # Its work was all done; only its tear-down was not, and that is said.
        assert outcome.result.exit_code in {0, 1}, outcome.result
    else:
        assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(COUNT))
    if moment in {"item", "yielded", "encode", "granted"}:
        assert outcome.result.headline.repeated >= (moment != "granted"), outcome.result
        assert len(outcome.of(events.WorkerDied)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn"])
@pytest.mark.parametrize("moment", [*map(also_slow, ("setup", "item", "after Reply")), "amid Reply"])
def test_a_spawned_worker_dies(moment: str, method: str, tmp_path: Path) -> None:
    fault = Fault(moment, "SIGKILL", "middle", COUNT // 2, tmp_path)
    made, collected = stages(fault)
    outcome = run(made, collected, method)
    assert happened(fault) == 1
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(COUNT))


@pytest.mark.parametrize(("form", "moment", "way"), cells_of_forms())
def test_in_every_form_of_a_task(form: str, moment: str, way: str, tmp_path: Path) -> None:
    fault = Fault(moment, way, "middle", COUNT // 2, tmp_path)
    given: dict[str, Any] = {
        "batch": {"middle": functions.Listed, "batch": 7},
        "async": {"middle": functions.Late, "concurrency": 5},
        "async batch": {"middle": functions.LateSpread, "concurrency": 3, "batch": 7},
        "boxes": {"middle": functions.boxed},
        "ordered": {"ordered": True},
        "one at a time": {"concurrency": 1},
    }[form]
    made, collected = stages(fault, **given)
    outcome = run(made, collected)
    assert happened(fault) == 1 or (form in {"async", "async batch", "boxes"} and moment == "encode"), (
        "the fault never happened"
    )
    assert outcome.result.exit_code == 0, outcome.result
    assert (collected if form == "ordered" else sorted(collected)) == list(range(COUNT))


@pytest.mark.parametrize("way", ["SIGKILL", *(pytest.param(way, marks=pytest.mark.slow) for way in ABRUPT[1:])])
@pytest.mark.parametrize(
    "moment", ["item", "before Produced", "amid Produced", "after Produced", "before Finished", "amid Finished"]
)
def test_a_source_dies(moment: str, way: str, tmp_path: Path) -> None:
    fault = Fault(moment, way, "source", COUNT // 2, tmp_path)
    made, collected = stages(fault)
    outcome = run(made, collected)
    assert happened(fault) == 1, "the fault never happened"
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(COUNT)), "it goes on where it was"
    assert outcome.result.headline.read == COUNT


@pytest.mark.parametrize("way", ["SIGKILL", "_exit(0)"])
def test_a_source_that_has_sent_nothing_starts_again(way: str, tmp_path: Path) -> None:
    fault = Fault("item", way, "source", 0, tmp_path)
    made, collected = stages(fault)
    outcome = run(made, collected)
    assert happened(fault) == 1
    assert outcome.result.exit_code == 0, outcome.result
    assert sorted(collected) == list(range(COUNT))


@pytest.mark.parametrize("way", ["SIGKILL", "SIGSEGV", *map(also_slow, ("_exit(0)", "sys.exit"))])
def test_an_item_that_kills_three_workers_is_a_dead_letter(way: str, tmp_path: Path) -> None:
    fault = Fault("item", way, "middle", COUNT // 2, tmp_path, times=3)
    made, collected = stages(fault)
    outcome = run(made, collected)
    assert happened(fault) == 3
    assert outcome.result.exit_code == 4, outcome.result
    assert sorted(collected) == [item for item in range(COUNT) if item != COUNT // 2]
    [letter] = outcome.letters
    assert letter.preview == str(COUNT // 2)
    assert letter.text.attempts == 3
    assert letter.text.error.startswith("WorkerDied: 3 workers died while they executed it, the last one ")
    if way == "SIGSEGV":
        assert "Segmentation fault" in letter.text.traceback
        assert "functions.py" in letter.text.traceback
        assert "runner/worker" not in letter.text.traceback
