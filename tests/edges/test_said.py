"""What is said of a run is true: which item, how it ended, what was left, and where it stands in the user's code."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from runner.supervisor.suspect_previews import SuspectReaders

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers import Outcome, Project

    Make = Callable[..., Project]

WORK = """
    import asyncio, os, signal, time
    from runner import Context, Inbox, task

    class Loaf:
        def __init__(self, number): self.number = number
        def __repr__(self): return f"Loaf({self.number})"

    class Bomb(Loaf):
        def __reduce__(self): return os._exit, (3,)

    @task
    def bake(count: int = 5, *, bomb: int = -1):
        for number in range(count):
            yield Bomb(number) if number == bomb else Loaf(number)

    @task
    def sleeps(loaf):
        if loaf.number == 2: time.sleep(600)

    @task
    def sleeps_over(loaves):
        if any(loaf.number == 2 for loaf in loaves): time.sleep(600)

    @task
    def sleeps_in(inbox: Inbox):
        for loaf in inbox:
            if loaf.number == 2: time.sleep(600)

    @task
    async def sleeps_on(loaf):
        if loaf.number == 2: await asyncio.sleep(600)

    @task
    def dies(loaf):
        if loaf.number == 2: os.kill(os.getpid(), signal.SIGKILL)

    @task
    async def dies_on(loaf):
        if loaf.number == 2: os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.01)

    @task
    def leaves(loaf):
        if loaf.number == 2: raise KeyboardInterrupt("no more")

    @task
    def fails(loaf):
        if loaf.number == 2: raise ValueError("burnt")

    @task
    def fails_over(loaves): raise ValueError("burnt")

    @task
    def rest(context: Context, *, seconds: float = 0.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end: time.sleep(0.01)

    @task
    def forever(context: Context):
        number = 0
        while True:
            yield number
            number += 1
            time.sleep(0.002)

    @task
    def slow(item): time.sleep(0.02)
"""
FILE = """
    [queues]
    loaves = {{}}
    [tasks.bake]
    mode = "thread"
    outputs = "loaves"
    {source}
    [tasks.{call}]
    inputs = "loaves"
    {options}
"""


def line(project: Make, call: str, options: str = "", *args: object, source: str = "") -> tuple[Project, Outcome]:
    made = project({"tasks.toml": FILE.format(call=call, options=options, source=source), "plugins/work.py": WORK})
    return made, made.run("--events", "events", *args, env={"NO_COLOR": "1"})


def happened(made: Project, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(text) for text in (made.path / "events").read_text().splitlines()]
    return [event for event in found if event.get("event") == kind]


def exported(made: Project) -> list[dict[str, Any]]:
    return [json.loads(text) for text in made.run("export", "last", verb="dead").out.splitlines()]


def record(made: Project) -> dict[str, Any]:
    found: dict[str, Any] = made.run("last", "--json", verb="report").json
    return found


# -- the value first, then the id ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "options", "env"),
    [
        ("sleeps", "", {}),
        pytest.param("sleeps_in", "", {}, marks=pytest.mark.slow),
        ("sleeps_on", "", {}),
        ("sleeps_over", "batch = 3", {}),
        pytest.param("sleeps", "ordered = true\nworkers = 2", {}, marks=pytest.mark.slow),
    ],
)
def test_a_time_out_is_one_message_and_names_the_value(
    project: Make, call: str, options: str, env: dict[str, str]
) -> None:
    made, outcome = line(project, call, f"timeout = '300ms'\n{options}")
    assert outcome.exit == 4, outcome
    letters = {letter["item"] for letter in exported(made)}
    assert "Loaf(2)" in letters, letters
    told = [text for text in outcome.err.splitlines() if "time limit" in text and text.startswith("task")]
    assert len(told) == 1, outcome
    assert "item Loaf(" in told[0]
    assert "exceeded" not in outcome.err
    if not options:
        failed = happened(made, "ItemFailed")
        assert [event["preview"] for event in failed] == ["Loaf(2)"]
        assert all(event["preview"] == "Loaf(2)" for event in happened(made, "ItemTimedOut"))
        assert "Loaf(2)" in json.dumps(record(made)["failures"])


@pytest.mark.parametrize("options", ["", "mode = 'thread'"])
def test_what_is_no_exception_is_its_items_error_without_frames_of_ours(project: Make, options: str) -> None:
    made, outcome = line(project, "leaves", options)
    assert outcome.exit == 4, outcome
    [letter] = exported(made)
    assert (letter["item"], letter["attempts"], letter["error"]) == ("Loaf(2)", 1, "KeyboardInterrupt: no more")
    assert "in leaves" in outcome.err
    assert not [text for text in outcome.err.splitlines() if "runner/" in text or "multiprocessing" in text]


@pytest.mark.parametrize("call", [pytest.param("dies", marks=pytest.mark.slow), "dies_on"])
def test_the_first_death_names_the_value(project: Make, call: str) -> None:
    made, outcome = line(project, call, "")
    assert outcome.exit == 4, outcome
    first, *others = [text for text in outcome.err.splitlines() if "while it executed" in text]
    wanted = "one of" if call == "dies_on" else "item Loaf(2) ("
    assert f"while it executed {wanted}" in first, outcome
    assert all("while it executed item Loaf(2) (" in text for text in others), outcome
    deaths = happened(made, "WorkerDied")
    assert all(death["preview"].startswith("Loaf(") for death in deaths), deaths
    [letter] = exported(made)
    assert (letter["item"], letter["attempts"]) == ("Loaf(2)", 3)


def test_what_kills_whoever_unpickles_it_is_named_by_type_size_and_id(project: Make) -> None:
    made, outcome = line(project, "dies", source="with = { count = 4, bomb = 1 }")
    assert outcome.exit == 4, outcome
    assert outcome.err.splitlines()[-1].strip().startswith("2 dead"), outcome
    bomb, loaf = sorted(letter["item"] for letter in exported(made))
    assert loaf == "Loaf(2)"
    assert "bytes, which cannot be unpickled: whatever unpickles it is exited with code 3" in bomb


@pytest.mark.parametrize(
    ("call", "options", "args", "code", "wanted"),
    [
        (
            "fails",
            "",
            ("--halt", "first"),
            5,
            "halted: 1 item is dead, and `halt` allows 0; the last one: item Loaf(2) (",
        ),
        ("sleeps", "timeout = '300ms'\non_error = 'stop'", (), 1, "item Loaf(2) (2.1) has failed: TimedOut"),
        ("fails", "on_error = 'fail'", (), 1, "item Loaf(2) ("),
    ],
)
def test_what_stops_a_run_is_named(
    project: Make, call: str, options: str, args: tuple[str, ...], code: int, wanted: str
) -> None:
    _, outcome = line(project, call, options, *args)
    assert outcome.exit == code, outcome
    assert wanted.split("(2.1)")[0] in outcome.err, outcome


# -- letters -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_letters_have_the_words_of_a_queue_of_dead_letters_and_each_item_of_a_batch_its_own(project: Make) -> None:
    files = {
        "tasks.toml": """
            [queues]
            loaves = {}
            [tasks.source]
            call = "std.jsonl"
            with = { path = "in" }
            outputs = "loaves"
            [tasks.fails_over]
            inputs = "loaves"
            batch = 10
            mode = "thread"
        """,
        "plugins/work.py": WORK,
        "in": '{"name": "a", "sizes": [1, 2.5, null]}\n"text"\n3\n',
        "again.toml": """
            [queues]
            letters = {}
            [tasks.source]
            call = "std.jsonl"
            with = { path = "dead.jsonl" }
            outputs = "letters"
            [tasks.write]
            call = "std.write_jsonl"
            with = { path = "items" }
            inputs = "letters"
        """,
    }
    made = project(files)
    assert made.run().exit == 4
    assert made.run("export", "-o", "dead.jsonl", verb="dead").exit == 0
    assert made.run("again.toml").exit == 0
    letters = [json.loads(text) for text in (made.path / "items").read_text().splitlines()]
    assert [letter["item"] for letter in letters] == [{"name": "a", "sizes": [1, 2.5, None]}, "text", 3]
    assert {"item", "id", "error", "traceback", "task", "worker", "attempts"} <= set(letters[0])
    # The last run is `again.toml`, which has none.
    for verb in ("list", "show", "export"):
        outcome = made.run(verb, "last", verb="dead")
        assert (outcome.exit, outcome.out) == (0, "")
        assert "has no dead letters; the last run that has some: runner dead list 2" in outcome.err


# -- how a run has ended -------------------------------------------------------------------------------

ENDLESS = """
    [queues]
    a = {{ size = 20 }}
    [tasks.forever]
    mode = "{mode}"
    outputs = "a"
    [tasks.slow]
    inputs = "a"
    mode = "{mode}"
    {options}
"""


@pytest.mark.parametrize(
    ("grace", "mode"),
    [
        ("300ms", "process"),
        pytest.param("10s", "thread", marks=pytest.mark.slow),
        pytest.param("300ms", "thread", marks=pytest.mark.slow),
        pytest.param("10s", "process", marks=pytest.mark.slow),
    ],
)
def test_the_deadline_is_the_end_and_what_had_more_is_said(project: Make, mode: str, grace: str) -> None:
    made = project({"tasks.toml": ENDLESS.format(mode=mode, options=""), "plugins/work.py": WORK})
    outcome = made.run("--deadline", "2s", "--grace", grace, "--json")
    assert outcome.exit == 124, outcome
    assert outcome.json["seconds"] < 6, "to the moment: in the simulation, where no machine is slow"
    assert outcome.json["unfinished"] == ["forever"]
    assert " left; `forever` had not ended" in outcome.err, outcome
    if grace == "10s":  # twenty items of 20 ms, and a second for them
        assert "+ 0 left; " in outcome.err, outcome


def test_a_signal_and_a_failure_say_what_had_more(project: Make) -> None:
    made = project({"tasks.toml": ENDLESS.format(mode="thread", options=""), "plugins/work.py": WORK})
    running = made.fork("--events", "events")
    while not (made.path / "events").exists() or "WorkerReady" not in (made.path / "events").read_text():
        assert running.process.poll() is None
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish()
    assert outcome.exit == 130, outcome
    assert "; `forever` had not ended" in outcome.err, outcome
    (made.path / "plugins/other.py").write_text("from runner import task\n@task\ndef breaks(item): 1 / 0\n")
    file = ENDLESS.format(mode="thread", options="call = 'breaks'\non_error = 'fail'")
    made.write({"tasks.toml": file})
    outcome = made.run()
    assert outcome.exit == 1, outcome
    assert "; `forever` had not ended" in outcome.err, outcome


@pytest.mark.slow
def test_a_run_without_queues_counts_its_tasks(project: Make) -> None:
    file = """
        [tasks.rest]
        [tasks.again]
        call = "rest"
        mode = "thread"
    """
    made = project({"tasks.toml": file, "plugins/work.py": WORK})
    outcome = made.run("--deadline", "1m")
    assert outcome.exit == 0, outcome
    assert outcome.err.splitlines()[-1].endswith("2 tasks ok"), outcome
    more = "\n        [tasks.bad]\n        call = 'math:sqrt'\n        args = [-1]\n        mode = 'thread'\n"
    made.write({"tasks.toml": file + more + "        [tasks.then]\n        call = 'rest'\n        after = ['bad']\n"})
    outcome = made.run()
    assert outcome.exit == 1, outcome
    assert outcome.err.splitlines()[-1].endswith("2 tasks ok, 1 failed, 1 not started"), outcome
    made.write({"tasks.toml": file.replace('mode = "thread"', "with = { seconds = 60.0 }")})
    outcome = made.run("--deadline", "1s")
    assert outcome.exit == 124, outcome
    assert any(row.endswith("1 task ok, `again` had not ended") for row in outcome.err.splitlines()), outcome
    listed = made.run("runs", verb="list").out.splitlines()
    assert "1 task ok, `again` had not ended" in listed[0]
    assert "2 tasks ok, 1 failed" in listed[1]


# -- planted bugs --------------------------------------------------------------------------------------


def test_planted_a_death_that_does_not_wait_for_the_look_is_noticed(
    project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import runner

    made = project({"tasks.toml": FILE.format(call="dies", options="", source=""), "plugins/work.py": WORK})
    seen: list[Any] = []
    runner.run(made.path / "tasks.toml", quiet=True, on_event=seen.append)
    names = [event.preview for event in seen if type(event).__name__ == "WorkerDied"]
    assert names == ["Loaf(2)"] * 3
    monkeypatch.setattr(SuspectReaders, "ask_reader", lambda *_: False)
    seen.clear()
    runner.run(made.path / "tasks.toml", quiet=True, on_event=seen.append)
    names = [event.preview for event in seen if type(event).__name__ == "WorkerDied"]
    assert names != ["Loaf(2)"] * 3
