"""`runner dead retry`: what failed is given again, all of it, once, to whom it was for; and what became of it is known.

The oracle is what the functions themselves append to files, one write for each item: none of runner's counts.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from topology_runs import wait_for

from runner.store import dead_letters

if TYPE_CHECKING:
    from pathlib import Path

    from helpers import Outcome, Project

WORK = """
    import os, time
    from pathlib import Path
    from runner import Context, DeadLetter, Inbox, Outbox, task

    def note(name, text):
        file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{text}\\n".encode())
        os.close(file)

    def is_bad(task, number):
        try:
            return f"{task} {number}" in Path("bad").read_text().splitlines()
        except FileNotFoundError:
            return False

    def number_of(item):
        return item if isinstance(item, int) else int(item[0])

    @task
    def make(*, kind: str = "int"):
        note("made", "x")
        for number in range(30):
            yield number if kind == "int" else [number, "text"] if kind == "list" else array(number)

    def array(number):
        import numpy  # here, as most runs do without

        return numpy.full(20_000, number)

    @task
    def work(item, context: Context):
        number = number_of(item)
        if is_bad(context.task, number): raise ValueError(f"bad {number}")
        note(context.task, f"{number} {context.attempt}")
        if context.retried_run and Path("kill").exists():
            Path("kill").unlink()
            os._exit(9)
        if context.retried_run and Path("slow").exists():
            note("begun", str(number))
            while Path("slow").exists() and not context.stopping: time.sleep(0.01)
        return item

    @task
    async def work_async(item, context: Context): return work(item, context)

    @task
    def work_batch(items, context: Context):
        for item in items:
            if is_bad(context.task, number_of(item)): raise ValueError(f"bad {number_of(item)}")
        for item in items: note(context.task, f"{number_of(item)} 1")
        yield from items

    @task
    def pull(inbox: Inbox, outbox: Outbox, context: Context):
        for item in inbox: outbox.put(work(item, context))

    @task
    def mend(letter: DeadLetter, context: Context):
        if is_bad(context.task, number_of(letter.item)): raise KeyError("not mended")
        note(context.task, f"{number_of(letter.item)} {letter.attempts} {letter.error} {letter.task}")

    @task
    def again(item, context: Context):
        if is_bad(context.task, item): raise ValueError(f"bad {item}")
        note(context.task, f"{item} 1")
        if item < 60: yield item + 30

    @task
    def alone(context: Context): note(context.task, "x")
"""
HEAD = """
    title = "Work"
    [queues]
    a = {}
    b = {}
    c = {}
    [tasks.make]
    outputs = "a"
"""


def make(project: Any, tasks: str, bad: str, head: str = HEAD, **files: str) -> Project:
    for queue in "bc":
        if f'"{queue}"' not in tasks:
            head = head.replace(f"    {queue} = {{}}\n", "")
    made: Project = project(
        {"tasks.toml": head + tasks, "plugins/work.py": WORK, "bad": bad.replace(", ", "\n"), **files}
    )
    return made


def retry(made: Project, *args: object, **options: Any) -> Outcome:
    return made.run("retry", *args, verb="dead", **options)


def noted(made: Project, name: str) -> list[str]:
    """Return the first word of each line that functions have appended."""
    path = made.path / name
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def runs(made: Project) -> list[Path]:
    return sorted((made.path / ".runner" / "runs").iterdir(), key=lambda path: (path / "record.json").stat().st_mtime)


def numbers(*ranges: Any) -> Counter[str]:
    return Counter(str(number) for one in ranges for number in one)


def also_slow(value: Any) -> Any:
    """A case that says little more than its neighbours."""
    return pytest.param(value, marks=pytest.mark.slow)


#: Of each mode and each form one.
QUICK_TOPOLOGIES = {
    "async, thread",
    "arrays, process",
    "boxes, process",
    "fan-out",
    "letters",
}
ALL = numbers(range(30))
#: Name → tasks, what is bad, and what each task must have done, once, after run and retry together.
TOPOLOGIES: dict[str, tuple[str, str, dict[str, Counter[str]]]] = {}
for _mode in ("thread", "process"):
    TOPOLOGIES |= {
        f"line, {_mode}": (
            f"""
    [tasks.one]
    call = "work"
    mode = "{_mode}"
    inputs = "a"
    outputs = "b"
    [tasks.two]
    call = "work"
    mode = "{_mode}"
    inputs = "b"
    [tasks.make.with]
    kind = "list"
    """,
            "one 3, one 29, two 0, two 12",
            {"one": ALL, "two": ALL},
        ),
        f"async, {_mode}": (
            f"""
    [tasks.one]
    call = "work_async"
    mode = "{_mode}"
    inputs = "a"
    outputs = "b"
    [tasks.two]
    call = "work"
    mode = "{_mode}"
    inputs = "b"
    """,
            "one 3, one 29, two 0",
            {"one": ALL, "two": ALL},
        ),
        f"boxes, {_mode}": (
            f"""
    [tasks.one]
    call = "pull"
    mode = "{_mode}"
    inputs = "a"
    outputs = "b"
    [tasks.two]
    call = "work"
    inputs = "b"
    """,
            "one 3, one 29, two 0",
            {"one": ALL, "two": ALL},
        ),
        f"arrays, {_mode}": (
            f"""
    with = {{ kind = "array" }}
    mode = "{_mode}"
    [tasks.one]
    call = "work"
    mode = "{_mode}"
    inputs = "a"
    outputs = "b"
    [tasks.two]
    call = "work"
    mode = "{_mode}"
    inputs = "b"
    """,
            "one 3, one 29, two 0",
            {"one": ALL, "two": ALL},
        ),
        f"only threads, {_mode} source": (
            f"""
    mode = "{_mode}"
    with = {{ kind = "list" }}
    [tasks.one]
    call = "work"
    mode = "thread"
    inputs = "a"
    outputs = ["b", "c"]
    [tasks.two]
    call = "work"
    mode = "thread"
    inputs = "b"
    [tasks.three]
    call = "work"
    mode = "thread"
    inputs = "c"
    """,
            "one 3, two 4, three 5, three 6",
            {"one": ALL, "two": ALL, "three": ALL},
        ),
    }
TOPOLOGIES |= {
    "fan-out": (
        """
    [tasks.one]
    call = "work"
    inputs = "a"
    outputs = ["b", "c"]
    [tasks.two]
    call = "work"
    inputs = "b"
    [tasks.three]
    call = "work"
    inputs = "c"
    """,
        "one 1, two 2, two 3, three 4",
        {"one": ALL, "two": ALL, "three": ALL},
    ),
    "copies": (
        """
    [queues.d]
    fanout = "copy"
    [tasks.one]
    call = "work"
    inputs = "a"
    outputs = "d"
    [tasks.two]
    call = "work"
    inputs = "d"
    [tasks.three]
    call = "work"
    inputs = "d"
    """,
        "one 1, two 2, two 3",
        {"one": ALL, "two": ALL, "three": ALL},
    ),
    "batches": (
        """
    [tasks.one]
    call = "work_batch"
    inputs = "a"
    outputs = "b"
    batch = 4
    [tasks.two]
    call = "work_batch"
    inputs = "b"
    batch = 7
    mode = "thread"
    """,
        "one 1, two 20",
        {"one": ALL, "two": ALL},
    ),
    "letters": (
        """
    [tasks.one]
    call = "work"
    inputs = "a"
    dead = "b"
    [tasks.two]
    call = "mend"
    inputs = "b"
    """,
        "one 1, one 5, two 5",
        {"one": ALL - Counter(["1", "5"]), "two": Counter(["1", "5"])},
    ),
    "a loop": (
        """
    [queues.d]
    loop = true
    [tasks.one]
    call = "work"
    inputs = "a"
    outputs = "d"
    [tasks.two]
    call = "again"
    inputs = "d"
    outputs = "d"
    """,
        "two 3, two 40, two 85",
        {"one": ALL, "two": numbers(range(90))},
    ),
}


@pytest.mark.parametrize("name", [name if name in QUICK_TOPOLOGIES else also_slow(name) for name in TOPOLOGIES])
def test_all_that_failed_is_done_once_whatever_the_topology(project: Any, name: str) -> None:
    tasks, bad, wanted = TOPOLOGIES[name]
    made = make(project, tasks, bad)
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    outcome = retry(made, "--json")
    assert outcome.exit == 0, outcome
    assert {task: Counter(noted(made, task)) for task in wanted} == wanted
    assert noted(made, "made") == ["x"], "the source was started again"
    assert json.loads(outcome.out)["plan"]["retried_run"] == runs(made)[0].name


@pytest.mark.slow
def test_results_of_an_ordered_task_leave_in_the_order_in_which_its_items_had_come(project: Any) -> None:
    bad = [f"one {number}" for number in (29, 3, 17, 4, 11)]
    tasks = """
    [tasks.one]
    call = "work"
    inputs = "a"
    outputs = "b"
    ordered = true
    workers = 3
    [tasks.two]
    call = "work"
    inputs = "b"
    """
    made = make(project, tasks, "\n".join(bad))
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    assert noted(made, "two")[-5:] == ["3", "4", "11", "17", "29"]


@pytest.mark.slow
def test_two_readers_of_one_queue_compete_for_what_either_had_failed_over(project: Any) -> None:
    tasks = """
    [queues.d]
    fanout = "share"
    [tasks.one]
    call = "work"
    inputs = "a"
    outputs = "d"
    [tasks.two]
    call = "work"
    inputs = "d"
    [tasks.three]
    call = "work"
    inputs = "d"
    """
    bad = "\n".join(f"{task} {number}" for task in ("two", "three") for number in (5, 6, 7))
    made = make(project, tasks, bad)
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    assert Counter(noted(made, "two") + noted(made, "three")) == ALL


@pytest.mark.slow
def test_tries_are_counted_anew_and_a_dead_letter_is_given_again_as_the_letter_it_was(project: Any) -> None:
    tasks = """
    [tasks.one]
    call = "work"
    inputs = "a"
    attempts = 3
    backoff = { first = "1ms" }
    dead = "b"
    [tasks.two]
    call = "mend"
    inputs = "b"
    [tasks.three]
    call = "work"
    inputs = "c"
    attempts = 2
    backoff = { first = "1ms" }
    [tasks.source]
    call = "make"
    outputs = "c"
    """
    made = make(project, tasks, "one 4, two 4, three 9")
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    assert (made.path / "two").read_text() == "4 3 ValueError: bad 4 one\n"
    assert (made.path / "three").read_text().splitlines()[-1] == "9 1"


SINKS = """
    mode = "thread"
    [tasks.one]
    call = "work"
    mode = "thread"
    inputs = "a"
    outputs = ["b", "c"]
    [tasks.two]
    call = "std.write_lines"
    mode = "thread"
    with = { path = "lines" }
    inputs = "b"
    [tasks.three]
    call = "std.write_jsonl"
    mode = "thread"
    with = { path = "new.jsonl" }
    inputs = "c"
"""


@pytest.mark.slow
def test_files_of_std_are_added_to_and_never_lost(project: Any) -> None:
    made = make(project, SINKS, "one 4, one 9")
    assert made.run().exit == 4
    (made.path / "bad").write_text("one 9")
    (made.path / "new.jsonl").unlink()
    assert retry(made).exit == 4
    assert Counter((made.path / "lines").read_text().split()) == ALL - Counter(["9"])
    assert (made.path / "new.jsonl").read_text() == "4\n"
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    assert Counter((made.path / "lines").read_text().split()) == ALL
    made.run()  # a run of its own begins its files anew
    assert (made.path / "lines").read_text().split() == [*map(str, range(30))]


def test_rows_are_added_below_the_columns_that_are_there(project: Any) -> None:
    head = """
    [queues]
    a = {}
    [tasks.rows]
    outputs = "a"
    [tasks.write]
    call = "std.write_csv"
    with = { path = "rows.csv" }
    inputs = "a"
    """
    work = """
    from runner import task
    @task
    def rows():
        yield {"a": 1, "b": 2}
        yield {"b": 3, "a": "wrong"} if False else {"a": 5}
        yield {"b": 4, "a": 3}
    """
    made = project({"tasks.toml": head, "plugins/work.py": work})
    assert made.run().exit == 4
    assert (made.path / "rows.csv").read_text() == "a,b\n1,2\n3,4\n"
    assert retry(made).exit == 4
    assert (made.path / "rows.csv").read_text() == "a,b\n1,2\n3,4\n"
    (made.path / "rows.csv").write_text("a\n9")
    assert retry(made).exit == 0
    assert (made.path / "rows.csv").read_text() == "a\n9\n5\n"


# -- what runs, and what does not ---------------------------------------------------------------------


#: Which letters are chosen, and what is said of them, has nothing to do with processes.
LINE = """
    mode = "thread"
    [tasks.one]
    call = "work"
    mode = "thread"
    inputs = "a"
    outputs = "b"
    [tasks.two]
    call = "work"
    mode = "thread"
    inputs = "b"
"""
LINE_OF_PROCESSES = LINE.replace("thread", "process")


@pytest.mark.parametrize("task", ['after = ["one"]', also_slow('after = ["two", "make"]'), also_slow("")])
def test_what_had_ended_well_is_not_begun_again(project: Any, task: str) -> None:
    made = make(project, f'{LINE}\n[tasks.last]\n    call = "alone"\n    {task}', "one 3, two 4")
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    assert noted(made, "last") == ["x"]


@pytest.mark.slow
def test_what_was_skipped_because_a_task_failed_over_its_item_follows(project: Any) -> None:
    tasks = LINE + '    on_error = "fail"\n    [tasks.last]\n    call = "alone"\n    after = ["two"]\n'
    made = make(project, tasks, "two 29")
    assert made.run().exit == 1
    assert noted(made, "last") == []
    (made.path / "bad").unlink()
    outcome = retry(made)
    assert outcome.exit == 0, outcome
    assert noted(made, "last") == ["x"]
    assert "29" in noted(made, "two")


def test_what_comes_after_a_source_that_had_failed_is_not_started_behind_its_back(project: Any) -> None:
    made = make(project, LINE + '    after = ["make"]\n', "one 3")
    work = (made.path / "plugins" / "work.py").read_text()
    until_dead = '    while not list(Path(".runner").glob("runs/*/dead.jsonl")): time.sleep(0.01)\n'
    wrong = "    yield 3\n" + until_dead + '    yield 4\n    raise OSError("gone")'
    bad_source = work.replace('    note("made", "x")', wrong, 1)
    (made.path / "plugins" / "work.py").write_text(bad_source)
    assert made.run().exit == 1
    (made.path / "bad").unlink()
    outcome = retry(made)
    assert outcome.exit == 3, outcome
    assert "task `two` comes after `make`, which had not ended as it must" in outcome.err
    assert noted(made, "one") in ([], ["4"]), "nobody reads what it makes, so it may end before its second item"


@pytest.mark.slow
def test_the_dead_items_of_a_run_that_was_killed_are_given_again_and_what_it_left_is_said(project: Any) -> None:
    tasks = LINE_OF_PROCESSES + '    [tasks.last]\n    call = "alone"\n    after = ["two"]\n'
    made = make(project, tasks, "one 3")
    work = (made.path / "plugins" / "work.py").read_text()
    endless = work.replace("        yield number", "        if number == 20: time.sleep(60)\n        yield number", 1)
    (made.path / "plugins" / "work.py").write_text(endless)
    running = made.fork()
    wait_for(lambda: any(each.read_text().count("\n") > 1 for each in made.path.glob(".runner/runs/*/dead.jsonl")))
    running.process.kill()
    running.finish()
    (made.path / "bad").unlink()
    outcome = retry(made)
    assert outcome.exit == 0, outcome
    assert "was killed; what it had not done is not given again" in outcome.err
    assert noted(made, "one")[-1] == "3"
    assert noted(made, "made") == ["x"]


# -- which letters ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_letter_is_given_again_until_it_is_done_and_the_list_says_so(project: Any) -> None:
    made = make(project, LINE, "one 3, one 4, two 5")
    assert made.run().exit == 4
    (made.path / "bad").write_text("one 4")
    assert retry(made).exit == 4
    (first, second) = (path.name for path in runs(made))
    listed = made.run("list", first, verb="dead").out
    assert listed.count("[retried: done]") == 2
    assert listed.count("[retried: dead again]") == 1
    assert f"2  retried in run {second}: done" in listed
    assert f"retried   in run {second}" in made.run("show", first, verb="dead").out
    outcome = retry(made, first)
    assert outcome.exit == 4
    assert "nothing is left to retry" in outcome.err
    assert f"1 item of run {first}: dead again in run {second}: runner dead retry {second}" in outcome.err
    assert len(runs(made)) == 2, "it has run"
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    assert Counter(noted(made, "one")) == Counter(noted(made, "two")) == ALL
    outcome = retry(made)
    assert (outcome.exit, len(runs(made))) == (0, 3)
    assert "done in run" in outcome.err


@pytest.mark.slow
def test_letters_of_an_earlier_run_are_given_again_only_if_it_is_named(project: Any) -> None:
    made = make(project, LINE, "one 3")
    assert made.run().exit == 4
    assert made.run().exit == 4
    (first, second) = (path.name for path in runs(made))
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
    outcome = retry(made)
    assert (outcome.exit, len(runs(made))) == (0, 3), outcome
    assert "nothing is left to retry" in outcome.err
    assert f"1 item of run {second}: done in run" in outcome.err
    assert retry(made, first).exit == 0
    assert len(runs(made)) == 4


@pytest.mark.slow
def test_named_items_are_given_again_whatever_became_of_them(project: Any) -> None:
    made = make(project, LINE, "one 3, one 4, two 5")
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    first = runs(made)[0]
    item = next(letter["id"] for letter in dead_letters.read_letters(first / "dead.jsonl") if letter["item"] == 4)
    assert retry(made, item).exit == 0
    assert Counter(noted(made, "one")) == ALL - Counter(["3"])
    assert retry(made).exit == 0
    assert Counter(noted(made, "one")) == ALL
    assert retry(made, first.name, item).exit == 0
    assert Counter(noted(made, "one")) == ALL + Counter(["4"])
    outcome = retry(made, "99.99")
    assert outcome.exit == 2, outcome


@pytest.mark.slow
def test_letters_can_be_chosen_by_task_and_by_error(project: Any) -> None:
    made = make(project, LINE, "one 3, one 14, two 5")
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    assert retry(made, "--task", "one", "--error", "bad 1").exit == 0
    assert Counter(noted(made, "one")) == ALL - Counter(["3"])
    assert retry(made, "--task", "two").exit == 0
    assert Counter(noted(made, "two")) == ALL - Counter(["3"])
    assert retry(made, "--task", "three").exit == 2
    assert retry(made, "--error", "(").exit == 2
    outcome = retry(made, "--dry-run")
    assert outcome.exit == 0
    assert "1 item into a for one" in outcome.out
    assert len(runs(made)) == 3
    assert retry(made).exit == 0
    assert Counter(noted(made, "two")) == ALL


@pytest.mark.slow
def test_an_export_has_the_words_of_a_queue_of_letters_and_is_read_by_another_run(project: Any) -> None:
    file = """
    [queues]
    letters = {}
    [tasks.read]
    call = "std.jsonl"
    with = { path = "dead.jsonl" }
    outputs = "letters"
    [tasks.write]
    call = "std.write_jsonl"
    with = { path = "written.jsonl" }
    inputs = "letters"
    """
    tasks = """
    with = { kind = "list" }
    [tasks.one]
    call = "work"
    inputs = "a"
    dead = "b"
    [tasks.two]
    call = "std.write_jsonl"
    with = { path = "queue.jsonl" }
    inputs = "b"
    """
    made = make(project, tasks, "one 3, one 4", **{"again.toml": file})
    assert made.run().exit == 4
    text = (made.path / "tasks.toml").read_text()
    (made.path / "tasks.toml").write_text(
        text.replace('dead = "b"', "").partition("[tasks.two]")[0].replace("b = {}", "")
    )
    assert made.run().exit == 4
    assert made.run("export", "-o", "dead.jsonl", verb="dead").exit == 0
    assert made.run("again.toml").exit == 0
    queued, exported = (
        [json.loads(line) for line in (made.path / name).read_text().splitlines()]
        for name in ("queue.jsonl", "written.jsonl")
    )
    assert [
        {**letter, **{word: each[word] for word in each}} for letter, each in zip(exported, queued, strict=True)
    ] == exported
    assert [letter["item"] for letter in exported] == [[3, "text"], [4, "text"]]
    ids = [letter["id"] for letter in dead_letters.read_letters(runs(made)[-2] / "dead.jsonl")]
    assert [letter["id"] for letter in exported] == ids
    assert not {"kept", "not_kept"} & set(exported[0])


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_there_is_no_such_run(project: Any) -> None:
    made = make(project, LINE, "")
    assert retry(made).exit == 2
    assert made.run().exit == 0
    outcome = retry(made)
    assert outcome.exit == 2
    assert "no run" in outcome.err
    (made.path / "bad").write_text("one 3")
    assert made.run().exit == 4
    outcome = retry(made, "1999")
    assert outcome.exit == 2
    assert runs(made)[-1].name in outcome.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('inputs = "b"', 'inputs = "c"', "there is no queue `b` any more (1 item)"),
        pytest.param(
            "[tasks.two]", "[tasks.three]", "there is no task `two` any more (1 item)", marks=pytest.mark.slow
        ),
        pytest.param("[tasks.one]", "[tasks.one", "E102", marks=pytest.mark.slow),
        ('call = "work"', 'call = "wrok"', "E301"),
    ],
)
def test_a_file_that_does_not_fit_any_more_is_refused(project: Any, old: str, new: str, said: str) -> None:
    made = make(project, LINE, "one 3, two 4")
    assert made.run().exit == 4
    text = (made.path / "tasks.toml").read_text()
    if new == 'inputs = "c"':
        text = text.replace("b = {}", "c = {}").replace('outputs = "b"', 'outputs = "c"')
    (made.path / "tasks.toml").write_text(text.replace(old, new))
    outcome = retry(made)
    assert outcome.exit == 3, outcome
    assert said in outcome.err
    assert len(runs(made)) == 1
    (made.path / "tasks.toml").unlink()
    outcome = retry(made)
    assert (outcome.exit, "the file does not exist" in outcome.err) == (3, True)


@pytest.mark.slow
def test_items_that_were_not_kept_are_counted_and_named(project: Any) -> None:
    head = HEAD.replace("[queues]", '[run]\n    dead_items = "300KB"\n    [queues]') + '    with = { kind = "array" }\n'
    made = make(project, LINE, "one 3, one 4, one 5", head)
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    first = runs(made)[0]
    outcome = retry(made)
    assert outcome.exit == 0
    assert "2 dead items of run" not in outcome.err
    assert f"2 items of run {first.name} not kept: it has " in outcome.err
    assert Counter(noted(made, "one")) == ALL - Counter(["4", "5"])
    outcome = retry(made)
    assert outcome.exit == 3, outcome
    assert "nothing can be given again: 2 items" in outcome.err
    (first / "dead.items").unlink()
    assert retry(made, first.name).exit == 3


def test_letters_of_an_older_runner_are_refused(project: Any) -> None:
    made = make(project, LINE, "")
    folder = made.path / ".runner" / "runs" / "20200101-000000-00"
    folder.mkdir(parents=True)
    letter = {"id": "1.0", "queue": "a", "task": "one", "error": "E", "preview": "3"}
    (folder / "dead.jsonl").write_text('{"run": "20200101", "title": "Work"}\n' + json.dumps(letter) + "\n")
    outcome = retry(made)
    assert outcome.exit == 3
    assert "an older runner" in outcome.err


HEADINGS = [
    {"file": "tasks.toml", "folder": "/nowhere/there", "given": None},
    {"file": "tasks.toml", "folder": ".", "given": {"params": 3}},
    {"file": 3},
]
LETTERS = [
    {"id": "1.0", "queue": "a", "task": "one", "kept": {"at": -1, "size": 9, "crc": 0}},
    {"id": "9" * 5000 + ".0", "queue": "a", "task": "one"},
    {"id": ["x"], "queue": 3},
    {"id": "1.0", "queue": "a", "task": "one", "kept": "x", "letter": [1]},
]


@pytest.mark.parametrize(
    ("heading", "letter"),
    [
        pytest.param(heading, letter, marks=pytest.mark.slow if at and by else ())
        for at, heading in enumerate(HEADINGS)
        for by, letter in enumerate(LETTERS)
    ],
)
def test_letters_that_were_written_by_hand_are_refused(project: Any, heading: Any, letter: Any) -> None:
    made = make(project, LINE, "")
    folder = made.path / ".runner" / "runs" / "20200101-000000-00"
    folder.mkdir(parents=True)
    given = {"params": {}, "sets": [], "only": [], "skip": [], "withheld": []}
    heading = {**heading, "given": heading.get("given") or given}
    (folder / "dead.jsonl").write_text(f"{json.dumps(heading)}\n{json.dumps(letter)}\n")
    (folder / "retry.json").write_text(json.dumps({"run": "20200101-000000-00", "items": {"1.0": ["x"]}, "ended": 3}))
    outcome = retry(made)
    assert outcome.exit in {2, 3}, outcome
    assert made.run("list", verb="dead").exit == 0


@pytest.mark.slow
def test_a_file_from_standard_input_is_gone(project: Any) -> None:
    made = make(project, LINE, "one 3")
    assert made.run("-", input=(made.path / "tasks.toml").read_text()).exit == 4
    outcome = retry(made)
    assert outcome.exit == 3
    assert "standard input" in outcome.err


# -- params -------------------------------------------------------------------------------------------


PARAMS = """
    [params]
    word = { default = "none", env = "WORD" }
    token = { default = "nothing", secret = true, env = "TOKEN" }
    [queues]
    a = {}
    [tasks.make]
    mode = "thread"
    with = { count = 2 }
    outputs = "a"
    [tasks.say]
    mode = "thread"
    with = { word = "${word}", token = "${token}" }
    inputs = "a"
"""
SAY = """
    import os
    from runner import task
    @task
    def make(*, count: int): yield from range(count)
    @task
    def say(item, *, word: str, token: str):
        with open("said", "ab") as file:
            file.write(f"{item} {word} {token}\\n".encode("utf-8", "surrogateescape"))
        raise ValueError("no")
"""


def said(made: Project) -> list[bytes]:
    data = (made.path / "said").read_bytes()
    (made.path / "said").unlink()
    return data.splitlines()


@pytest.mark.slow
def test_params_are_those_of_the_first_run_unless_given_again_and_secrets_must_be(project: Any) -> None:
    made = project({"tasks.toml": PARAMS, "plugins/work.py": SAY})
    odd = os.fsdecode(b"gr\xfc\xdfe")
    assert made.run("-p", f"word={odd}", "-p", "token=swordfish", "--set", "tasks.make.with.count=1").exit == 4
    assert said(made) == [b"0 gr\xfc\xdfe swordfish"]
    assert not any(b"swordfish" in path.read_bytes() for path in made.path.rglob("*") if path.is_file())
    outcome = retry(made)
    assert outcome.exit == 3
    assert "-p token=VALUE, or in TOKEN" in outcome.err
    assert retry(made, "-p", "token=s2s2", env={"LC_ALL": "C"}).exit == 4
    assert said(made) == [b"0 gr\xfc\xdfe s2s2"]
    assert retry(made, env={"TOKEN": "s3s3"}).exit == 4
    assert said(made) == [b"0 gr\xfc\xdfe s3s3"]
    assert retry(made, "-p", "word=w4", "--set", "params.token='s4s4'").exit == 4
    assert said(made) == [b"0 w4 s4s4"]


def test_a_param_of_the_environment_is_kept_and_so_is_the_folder(project: Any, tmp_path: Path) -> None:
    made = project({"tasks.toml": PARAMS, "plugins/work.py": SAY, "deeper/x": ""})
    assert made.run(env={"WORD": "w1"}).exit == 4
    assert said(made) == [b"0 w1 nothing", b"1 w1 nothing"]
    outcome = retry(made, "-C", made.path / "deeper", "--state", "../.runner")
    assert outcome.exit == 4, outcome
    assert said(made) == [b"0 w1 nothing", b"1 w1 nothing"]
    assert len(runs(made)) == 2


# -- deaths -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_retry_costs_nothing(project: Any) -> None:
    made = make(project, LINE_OF_PROCESSES, "one 3, one 4, one 5", kill="")
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    outcome = retry(made)
    assert outcome.exit == 0, outcome
    assert set(noted(made, "one")) == set(noted(made, "two")) == set(ALL)
    assert "repeated" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("how", [also_slow(signal.SIGINT), signal.SIGKILL])
def test_a_retry_that_is_cut_short_is_taken_up_again_by_the_next_one(project: Any, how: signal.Signals) -> None:
    made = make(project, LINE_OF_PROCESSES, "one 3, one 4, one 5, one 6", slow="")
    assert made.run().exit == 4
    (made.path / "bad").unlink()
    running = made.fork("retry", "--grace", "0.5s", verb="dead")
    wait_for(lambda: (made.path / "begun").exists())
    other = retry(made, runs(made)[0].name)
    assert other.exit == 3, other
    assert "being retried just now" in other.err
    running.process.send_signal(how)
    if how == signal.SIGINT:
        wait_for(lambda: running.process.poll() is not None)
        assert running.finish().exit == 130
    else:
        running.process.wait(60)
        running.finish()
    (made.path / "slow").unlink()
    listed = made.run("list", runs(made)[0].name, verb="dead").out
    assert "not finished" in listed
    outcome = retry(made)
    assert outcome.exit == 0, outcome
    assert set(noted(made, "one")) == set(noted(made, "two")) == set(ALL)
    assert retry(made).exit == 0
    assert len(runs(made)) == 3


def disturbed_retry(made: Project, chance: random.Random) -> None:
    """Retry, and send a signal at some moment."""
    slow, begun = made.path / "slow", made.path / "begun"
    slow.write_text("")
    begun.unlink(missing_ok=True)
    least = len(noted(made, "one")) + len(noted(made, "two")) + chance.randrange(10)
    running = made.fork("retry", "--grace", "1s", verb="dead")

    def goes_on() -> bool:
        return running.process.poll() is None

    wait_for(lambda: begun.exists() or not goes_on())
    if chance.random() < 0.6:
        slow.unlink()
        wait_for(lambda: len(noted(made, "one")) + len(noted(made, "two")) >= least or not goes_on())
    running.process.send_signal(chance.choice([signal.SIGINT, signal.SIGKILL, signal.SIGTERM]))
    running.finish()
    slow.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["thread", "process"])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_forgotten_whenever_and_however_often_retries_are_killed(project: Any, seed: int, mode: str) -> None:
    chance = random.Random(seed)
    tasks = "".join(
        f"""
    [tasks.{name}]
    call = "work"
    mode = "{mode}"
    workers = 2
    {queues}"""
        for name, queues in (
            ("one", 'inputs = "a"\n    outputs = ["b", "c"]'),
            ("two", 'inputs = "b"'),
            ("three", 'inputs = "c"'),
        )
    )
    bad = [f"{task} {number}" for task in ("one", "two", "three") for number in range(30) if chance.random() < 0.3]
    made = make(project, tasks, "\n".join(bad))
    assert made.run().exit == 4
    for _ in range(8):
        (made.path / "bad").write_text("\n".join(each for each in bad if chance.random() < 0.3))
        disturbed_retry(made, chance)
    (made.path / "bad").unlink()
    for _ in range(40):
        outcome = retry(made)
        assert outcome.exit == 0, outcome
        if "nothing is left to retry" in outcome.err:
            break
    assert "nothing is left to retry" in outcome.err
    assert all(set(noted(made, task)) == set(ALL) for task in ("one", "two", "three"))
    assert noted(made, "made") == ["x"]


def test_a_run_that_goes_on_is_not_retried_yet(project: Any) -> None:
    tasks = (
        LINE
        + '    [tasks.rest]\n    call = "work"\n    inputs = "c"\n    [tasks.source]\n    call = "rest_of"\n    outputs = "c"\n'
    )
    made = make(project, tasks, "one 3")
    work = (made.path / "plugins" / "work.py").read_text()
    work += "\n@task\ndef rest_of(context: Context):\n    while not context.stopping and not Path('end').exists(): time.sleep(0.01)\n    yield 1\n"
    (made.path / "plugins" / "work.py").write_text(work)
    running = made.fork()
    wait_for(lambda: any(each.read_text().count("\n") > 1 for each in made.path.glob(".runner/runs/*/dead.jsonl")))
    outcome = retry(made, "last")
    assert outcome.exit == 3, outcome
    assert "still goes on" in outcome.err
    (made.path / "end").write_text("")
    assert running.finish().exit == 4
    (made.path / "bad").unlink()
    assert retry(made).exit == 0
