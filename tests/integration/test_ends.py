"""How runs end: exit codes, the balance, signals, deaths of workers and of runner itself; and nobody stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import describe, kill_all, marked, still_there
from topology_runs import USES_KIT, Finished, balance, keeper, make, run, task_file, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from helpers import Outcome, Running

MODES = ["thread", "process"]


def slow(*values: object) -> Any:
    """A case that says little more than its neighbours."""
    return pytest.param(*values, marks=pytest.mark.slow)


ENDS = (
    USES_KIT
    + """
import ctypes
import os
import signal
import subprocess
import sys
import sys
import time
from runner import Context, Inbox, Outbox, To, task


@task
def endless():
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        note("source.txt", "closed")


@task
def endless_boxed(q: Outbox):
    number = 0
    try:
        while True:
            q.put(number)
            number += 1
    finally:
        note("source.txt", "closed")


@task
async def endless_async():
    number = 0
    try:
        while True:
            yield number
            number += 1
    finally:
        note("source.txt", "closed")


@task
def stamp(item):
    if item == 100:
        note("hundred.txt", "")
    return item


@task
def lookout(context: Context):
    note("lookout.txt", "up")
    while not context.stopping:
        time.sleep(0.002)
    note("stopping.txt", "")
    return "seen"


@task
def stuck(item):
    note("stuck.txt", os.getpid())
    until("never.txt", 600)


@task
def stuck_alone():
    note("stuck.txt", os.getpid())
    until("never.txt", 600)


@task
def stuck_in_c():
    note("stuck.txt", os.getpid())
    ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock


@task
def with_child(item):
    child = subprocess.Popen(["sleep", "600"])
    grandchild = subprocess.Popen(["sh", "-c", "sleep 600 & echo up; wait"], stdout=subprocess.PIPE)
    grandchild.stdout.readline()
    note("children.txt", child.pid)
    note("children.txt", grandchild.pid)
    note("stuck.txt", os.getpid())
    until("never.txt", 600)


@task
def leave_child():
    note("children.txt", subprocess.Popen(["sleep", "600"]).pid)


@task
def fail():
    raise ValueError("as it was told")


@task
def fail_at(item, at):
    if item == at:
        raise ValueError(f"not {item}")
    return item


def once(name):
    \"\"\"True for the first who asks.\"\"\"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@task
def die_once(item, how):
    if item == 7 and once("died.txt"):
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "exit":
            os._exit(0)
        elif how == "segfault":
            ctypes.string_at(1)
        elif how == "sys.exit":
            sys.exit(3)
        else:
            note("stuck.txt", os.getpid())
            until("never.txt", 600)
    return item


@task
def gate():
    yield 1
    until("go.txt", 60)
    yield 2


@task
def whereami(item):
    note("where.txt", os.getpid())
    return item


@task
def arrive(item):
    note("arrived.txt", item)


@task
class SlowStart:
    def __enter__(self):
        note("setup.txt", "")
        until("go.txt", 60)

    def __exit__(self, *error):
        pass

    def __call__(self):
        number = 0
        while True:
            yield number
            number += 1


@task
def goes_round(item):
    return To("round", item - 1000) if item > 1000 else item


@task
def unpack(items):
    yield from items


@task
def boxed(q: Inbox, out: Outbox):
    while True:
        out.put(q.get())


@task
async def asame(item):
    return item


@task
def chatter(lines):
    for number in range(lines):
        print("line", number)
"""
)

FILES = {"plugins/ends.py": ENDS}


def source(count: int, queue: str) -> dict[str, Any]:
    return {"call": "count", "args": [count], "outputs": queue}


def clean(outcome: Outcome) -> None:
    """No traceback of ours, and no word of a standstill."""
    assert "Traceback" not in outcome.err, outcome
    assert "standstill" not in outcome.err, outcome
    assert "own fault" not in outcome.err, outcome


def counts(outcome: Outcome) -> dict[str, int]:
    """The numbers of the balance."""
    return {word: int(number.replace(",", "")) for number, word in re.findall(r"([\d,]+) ([a-z]+)", balance(outcome))}


# --- exit codes -----------------------------------------------------------------------------------------------------

FINE = task_file({"count": source(3, "q"), "keep": keeper("q")})


def test_exit_0_says_the_balance_last(tmp_path):
    finished = run(tmp_path, FINE)
    assert finished.outcome.exit == 0
    last = finished.outcome.err.splitlines()[-1]
    assert last.startswith("tasks.toml  "), "without a title it bears the file's name"
    assert re.fullmatch(r".*  ended in \d+(ms|\.\ds|s)   3 read = 3 done \+ 0 dead \+ 0 dropped \+ 0 left", last)


@pytest.mark.parametrize("mode", MODES)
def test_exit_1_when_a_task_fails(tmp_path, mode):
    tasks = {
        "fail": {},
        "six": source(6, "six"),
        "fail_at": {"args": [3], "on_error": "fail", "inputs": "six", "outputs": "five"},
        "keep": keeper("five"),
        "three": source(3, "three"),
        "keep3": keeper("three"),
    }
    finished = run(tmp_path, task_file(tasks, mode=mode), FILES)
    assert finished.outcome.exit == 1, finished.outcome
    assert sorted(finished.kept("three")) == [0, 1, 2], "independent tasks go on"
    numbers = counts(finished.outcome)
    assert numbers["read"] + numbers.get("made", 0) == sum(
        numbers[word] for word in ("done", "dead", "dropped", "left")
    )
    assert numbers["dead"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_run_whose_only_sink_fails_ends_by_itself(tmp_path, mode):
    """Whoever works for it alone stops as well, however far away: a source without end, functions of every form."""
    tasks = {
        "endless": {"outputs": "a"},
        "same": {"inputs": "a", "outputs": "b", "workers": 2},
        "boxed": {"inputs": "b", "outputs": "c"},
        "asame": {"inputs": "c", "outputs": "d"},
        "unpack": {"batch": 5, "inputs": "d", "outputs": "e"},
        "fail_at": {"args": [500], "on_error": "fail", "inputs": "e"},
    }
    finished = run(tmp_path, task_file(tasks, mode=mode), FILES)
    assert finished.outcome.exit == 1, finished.outcome
    assert "task `fail_at` has failed: item 500 (" in finished.outcome.err
    assert " has failed: ValueError: not 500" in finished.outcome.err
    assert "standstill" not in finished.outcome.err
    numbers = counts(finished.outcome)
    assert numbers["left"] > 0
    assert finished.lines("source.txt") == ["closed"]


@pytest.mark.parametrize(
    "arguments",
    [["--no-such-option"], ["-p", "novalue", "tasks.toml"], slow(["tasks.toml", "another.toml"]), slow(["--grace"])],
    ids=["option", "param", "two files", "no value"],
)
def test_exit_2_for_a_wrong_command_line(tmp_path, arguments):
    outcome = make(tmp_path, FINE).run(*arguments)
    assert outcome.exit == 2, outcome
    assert outcome.out == ""
    clean(outcome)
    assert list(tmp_path.glob("*.kept")) == [], "nothing was started"


def test_exit_2_for_an_unknown_verb(tmp_path):
    outcome = make(tmp_path, FINE).run(verb="rum")
    assert outcome.exit == 2, outcome
    clean(outcome)


def test_exit_2_without_a_file(tmp_path):
    project = make(tmp_path, FINE)
    (tmp_path / "tasks.toml").unlink()
    outcome = project.run()
    assert outcome.exit == 2, outcome
    assert "there is no tasks.toml here" in outcome.err
    clean(outcome)


WRONG = {
    "syntax": "[tasks",
    "unknown key": "[tasks.keep]\nwrokers = 3",
    "unknown function": "[tasks.kepp]",
    "unknown module": "[tasks.x]\ncall = 'no_such_module:function'",
    "unknown queue": "[tasks.x]\ncall = 'count'\nargs = [1]\noutputs = 'nowhere'",
    "wrong type": "[tasks.x]\ncall = 'count'\nargs = [1]\nworkers = -1",
}


@pytest.mark.parametrize("what", [*list(WRONG)[:3], *map(slow, list(WRONG)[3:])])
def test_exit_3_for_a_wrong_file(tmp_path, what):
    outcome = make(tmp_path, WRONG[what]).run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert outcome.out == ""
    assert "tasks.toml:" in outcome.err
    clean(outcome)


def test_exit_3_for_a_plugin_that_cannot_be_loaded(tmp_path):
    outcome = make(tmp_path, "[tasks.broken]", {"plugins/broken.py": "import no_such_module_at_all"}).run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert "no_such_module_at_all" in outcome.err
    assert "runner/" not in outcome.err, "the user's own frames only"


# --- the first signal drains ----------------------------------------------------------------------------------------

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


def start(path: Path, tasks: dict[str, dict[str, Any]], mode: str, *args: str) -> Running:
    return make(path, task_file(tasks, mode=mode), FILES).fork("tasks.toml", *args)


@pytest.mark.parametrize(
    ("mode", "call"),
    [
        ("thread", "endless"),
        slow("thread", "endless_boxed"),
        ("thread", "endless_async"),
        slow("process", "endless"),
        ("process", "endless_boxed"),
        slow("process", "endless_async"),
    ],
)
def test_the_first_ctrl_c_drains(tmp_path, mode, call):
    """Every item that the sources sent comes out, once; nothing is left."""
    tasks = {
        "numbers": {"call": call, "outputs": "numbers"},
        "same": {"inputs": "numbers", "outputs": "same", "workers": 2},
        "stamp": {"inputs": "same", "outputs": "out"},
        "keep": {"with": {"name": "out"}, "inputs": "out"},
        "lookout": {"workers": ["eye"]},
        "later": {"call": "endless", "after": ["lookout"], "outputs": "later"},
        "keep_later": keeper("later"),
    }
    running = start(tmp_path, tasks, mode)
    wait_for((tmp_path / "hundred.txt").exists)
    wait_for((tmp_path / "lookout.txt").exists)
    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    outcome = running.finish()
    assert outcome.exit == 130, outcome
    clean(outcome)
    assert "Ctrl-C: sources stop" in outcome.err
    numbers = counts(outcome)
    assert (numbers["dead"], numbers["dropped"], numbers["left"]) == (0, 0, 0), outcome
    finished = Finished(tmp_path, outcome)
    assert Counter(finished.kept("out")) == Counter(range(numbers["read"]))
    assert finished.lines("source.txt") == ["closed"]
    assert 'eye: "seen"' in outcome.err
    assert "task `later` was not started" in outcome.err
    assert finished.kept("later") == []


@pytest.mark.parametrize(
    ("mode", "number"),
    [
        slow("thread", signal.SIGHUP),
        slow("thread", signal.SIGTERM),
        ("process", signal.SIGTERM),
        slow("process", signal.SIGHUP),
    ],
)
def test_other_signals_drain_too(tmp_path, mode, number):
    tasks = {"endless": {"outputs": "in"}, "stamp": {"inputs": "in", "outputs": "out"}, "keep": keeper("out")}
    running = start(tmp_path, tasks, mode)
    wait_for((tmp_path / "hundred.txt").exists)
    running.process.send_signal(number)
    outcome = running.finish()
    assert outcome.exit == SIGNALS[number], outcome
    clean(outcome)
    assert counts(outcome)["left"] == 0
    assert sorted(Finished(tmp_path, outcome).kept("out")) == list(range(counts(outcome)["read"]))


@pytest.mark.parametrize("mode", MODES)
def test_a_source_that_is_still_being_set_up_is_told_as_well(tmp_path, mode):
    running = start(
        tmp_path,
        {"slow": {"call": "SlowStart", "outputs": "out"}, "lookout": {}, "keep": keeper("out")},
        mode,
        "--grace",
        "10m",
    )
    wait_for((tmp_path / "setup.txt").exists)
    wait_for((tmp_path / "lookout.txt").exists)
    running.process.send_signal(signal.SIGINT)
    wait_for((tmp_path / "stopping.txt").exists)
    (tmp_path / "go.txt").touch()
    outcome = running.finish(20)  # the grace is ten minutes
    assert outcome.exit == 130, outcome
    assert counts(outcome)["left"] == 0, outcome


# --- what cannot drain ----------------------------------------------------------------------------------------------

STUCK: dict[str, dict[str, Any]] = {
    "hundred": source(100, "hundred"),
    "stuck": {"inputs": "hundred"},
    "lookout": {},
}


@pytest.mark.parametrize("mode", MODES)
def test_when_the_grace_ends_it_ends_and_says_what_is_left(tmp_path, mode):
    running = start(tmp_path, STUCK, mode, "--grace", "200ms")
    wait_for((tmp_path / "stuck.txt").exists)
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish(20)
    assert outcome.exit == 130, outcome
    clean(outcome)
    numbers = counts(outcome)
    assert numbers["done"] == 0
    assert numbers["left"] == numbers["read"] > 0
    assert f"left in `hundred`: {numbers['left']} items" in outcome.err


@pytest.mark.parametrize(
    ("mode", "first", "second"),
    [
        ("thread", signal.SIGINT, signal.SIGINT),
        slow("thread", signal.SIGTERM, signal.SIGTERM),
        slow("thread", signal.SIGINT, signal.SIGTERM),
        ("process", signal.SIGINT, signal.SIGINT),
        ("process", signal.SIGTERM, signal.SIGINT),
        slow("process", signal.SIGTERM, signal.SIGTERM),
    ],
)
def test_the_second_signal_ends_at_once(tmp_path, mode, first, second):
    running = start(tmp_path, STUCK, mode, "--grace", "10m")
    wait_for((tmp_path / "stuck.txt").exists)
    wait_for((tmp_path / "lookout.txt").exists)
    running.process.send_signal(first)
    wait_for((tmp_path / "stopping.txt").exists)
    running.process.send_signal(second)
    outcome = running.finish(20)  # the grace is ten minutes
    assert outcome.exit == SIGNALS[first], outcome
    clean(outcome)
    assert counts(outcome)["left"] == counts(outcome)["read"] > 0
    assert "ending at once" in outcome.err


@pytest.mark.parametrize(
    ("mode", "call"), [("thread", "stuck_alone"), ("process", "stuck_alone"), ("process", "stuck_in_c")]
)
def test_a_call_that_does_not_listen_is_ended_when_the_grace_is_over(tmp_path, mode, call):
    running = start(tmp_path, {"deaf": {"call": call}}, mode, "--grace", "100ms")
    wait_for((tmp_path / "stuck.txt").exists)
    running.process.send_signal(signal.SIGINT)
    outcome = running.finish(20)
    assert outcome.exit == 130, outcome
    clean(outcome)


@pytest.mark.parametrize("part", [1, 2, 4, 5, *map(slow, [0, 3, 6, 7])])
def test_ctrl_c_at_any_moment_leaves_no_traceback_of_ours(tmp_path, part):
    """From the first moment that runner's own code runs, until the workers are up."""
    tasks = {"endless": {"outputs": "out"}, "keep": keeper("out"), "lookout": {}}
    project = make(tmp_path, task_file(tasks, mode="process" if part % 2 else "thread"), FILES)
    running = project.start("tasks.toml")
    try:
        running.process.wait(0.06 * (part + 1))
    except subprocess.TimeoutExpired:
        running.process.send_signal(signal.SIGINT)
    swallowed = False
    try:
        running.process.wait(15)
    except subprocess.TimeoutExpired:
        swallowed = True
        running.process.send_signal(signal.SIGINT)
    outcome = running.finish(30)
    # Python itself drops an interrupt that comes while a callback of its importer is executed, and says so.
    assert not swallowed or "Exception ignored in" in outcome.err, outcome
    if "Fatal Python error: init" in outcome.err or outcome.err.startswith(
        ("Could not import runpy", "Could not access runpy")
    ):
        return  # it came before Python itself was there
    assert outcome.exit in {130, -signal.SIGINT}, outcome
    assert "/runner/" not in outcome.err, outcome


#: Sends SIGINT in a callback of a weak reference, as the importer has them: Python drops what is raised there.
INTERRUPTED_IMPORT = """
import os, signal, sys, weakref
import runner.__main__

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "runner.cli":
            thing = {1}
            callback = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del thing

sys.meta_path.insert(0, Finder)
sys.argv[1:] = ["--version"]
runner.__main__.main()
"""


def test_ctrl_c_while_runner_is_imported_is_not_dropped(tmp_path):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("part", range(25))
def test_ctrl_c_at_any_moment_of_a_run_leaves_a_balance(tmp_path, mode, part):
    """Workers starting, executing, restarting, ending; cycles, batches, failures: whatever is cut short adds up."""
    tasks = {
        "endless": {"outputs": "a"},
        "few": source(300, "a"),
        "fail_at": {"args": [150], "attempts": 3, "inputs": "a", "outputs": "b", "workers": 2, "ordered": True},
        "die_once": {"args": ["exit"], "inputs": "b", "outputs": "c", "workers": 2, "mode": "process"},
        "goes_round": {"inputs": ["c", "round"], "outputs": {"default": "d", "round": "round"}, "workers": 2},
        "unpack": {"batch": 7, "inputs": "d", "outputs": "e"},
        "keep": keeper("e"),
    }
    file = task_file(tasks, {"round": {"loop": True}, "b": {"size": 5}}, mode=mode)
    running = make(tmp_path, file, FILES).start("tasks.toml", "--grace", "300ms" if part % 3 == 0 else "10s")
    began = time.monotonic()
    wait_for(lambda: time.monotonic() - began > 0.25 + 0.05 * part)
    running.process.send_signal(signal.SIGINT)
    if part % 5 == 4:
        running.process.send_signal(signal.SIGTERM)
    outcome = running.finish(40)
    if outcome.exit in {-signal.SIGINT, -signal.SIGTERM} and not outcome.err:
        return  # on a busy machine they come before runner is there to hear them
    assert outcome.exit in {130, 143}, outcome
    assert "standstill" not in outcome.err
    if "read" in outcome.err:  # else it had not begun
        numbers = counts(outcome)
        ended = sum(numbers[word] for word in ("done", "dead", "dropped", "left"))
        assert numbers["read"] + numbers.get("made", 0) == ended, outcome


# --- closed pipes ---------------------------------------------------------------------------------------------------


def read_one_line(running: Running) -> str:
    """Do as `head -1` does."""
    assert running.process.stdin is not None
    assert running.process.stdout is not None
    with running.process.stdin, running.process.stdout as out:
        return out.readline()


@pytest.mark.parametrize(
    ("log", "mode"), [("prefix", "process"), ("raw", "thread"), slow("prefix", "thread"), slow("raw", "process")]
)
def test_a_reader_who_has_read_enough(tmp_path, mode, log):
    project = make(tmp_path, task_file({"chatter": {"args": [20_000]}}, mode=mode), FILES)
    errors = tmp_path / "errors.txt"
    with errors.open("w") as file:
        running = project.start("tasks.toml", "--log", log, stderr=file)
    first = read_one_line(running)
    running.process.wait(30)
    outcome = running.outcome(first, errors.read_text())
    assert "line 0" in first
    assert not still_there(marked(running.token), 2)
    if log == "raw":  # then the worker itself meets the closed pipe, and fails as any program
        assert outcome.exit == 1, outcome
        assert "task `chatter` has failed: it raised: BrokenPipeError" in outcome.err
        assert "/runner/" not in outcome.err
    else:
        clean(outcome)
        assert outcome.exit == 0, outcome
        assert re.search(r"standard output: Broken pipe; [\d,]+ lines lost", outcome.err), outcome


@pytest.mark.slow
def test_both_outputs_closed(tmp_path):
    project = make(tmp_path, task_file({"chatter": {"args": [20_000]}}, mode="process"), FILES)
    running = project.start("tasks.toml", stderr=subprocess.STDOUT)
    read_one_line(running)
    assert running.process.wait(30) == 0
    assert not still_there(marked(running.token), 2)


# --- runner dies ----------------------------------------------------------------------------------------------------


def test_when_runner_is_killed_its_workers_and_their_children_are_gone_within_a_second(tmp_path):
    tasks = {
        "hundred": source(100, "hundred"),
        "with_child": {"inputs": "hundred", "workers": 2},
        "stuck_in_c": {},
        "endless": {"outputs": "endless"},
        "keep": {"call": "keep", "with": {"name": "kept"}, "inputs": "endless"},
        "thread": {"call": "lookout", "mode": "thread"},
    }
    running = make(tmp_path, task_file(tasks, mode="process"), FILES).start("tasks.toml")
    stuck = tmp_path / "stuck.txt"
    wait_for(lambda: stuck.exists() and len(stuck.read_text().splitlines()) == 3)
    wait_for((tmp_path / "kept.kept").exists)
    processes = marked(running.token)
    assert len(processes) >= 1 + 6 + 4 + 2, "runner, its workers, their children and grandchildren, the fork server"
    os.kill(running.process.pid, signal.SIGKILL)
    running.process.wait()
    left = still_there(processes, limit=10)  # a second is promised, and a busy machine needs more
    names = [describe(process) for process in left]
    kill_all(left)
    running.process.communicate()
    assert names == []


# --- workers die ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "exit", slow("segfault"), slow("sys.exit")])
def test_the_item_of_a_dead_worker_is_given_again(tmp_path, how):
    tasks = {
        "fifty": source(50, "fifty"),
        "die_once": {"args": [how], "inputs": "fifty", "outputs": "out", "workers": 2},
        "keep": keeper("out"),
    }
    finished = run(tmp_path, task_file(tasks, mode="process"), FILES).ok()
    assert Counter(finished.kept("out")) == Counter(range(50))
    assert "repeated)" in balance(finished.outcome)
    assert "a new one takes its place" in finished.outcome.err, finished.outcome


def test_a_worker_killed_from_outside(tmp_path):
    tasks = {
        "fifty": source(50, "fifty"),
        "die_once": {"args": ["outside"], "inputs": "fifty", "outputs": "out"},
        "keep": keeper("out"),
    }
    running = start(tmp_path, tasks, "process")
    pid = int(wait_for(lambda: (tmp_path / "stuck.txt").exists() and (tmp_path / "stuck.txt").read_text()))
    os.kill(pid, signal.SIGKILL)
    outcome = running.finish()
    finished = Finished(tmp_path, outcome).ok()
    assert Counter(finished.kept("out")) == Counter(range(50))
    assert f"worker `die_once` (pid {pid}): killed by SIGKILL while it executed item" in outcome.err, outcome


def test_an_idle_worker_killed_from_outside_costs_nothing(tmp_path):
    tasks = {
        "gate": {"outputs": "numbers"},
        "whereami": {"inputs": "numbers", "outputs": "out"},
        "arrive": {"inputs": "out"},
    }
    running = start(tmp_path, tasks, "process")
    wait_for((tmp_path / "arrived.txt").exists)  # so the worker's answer has been heard, and it waits
    (victim,) = map(psutil.Process, map(int, (tmp_path / "where.txt").read_text().split()))
    victim.kill()
    psutil.wait_procs([victim], 10)
    (tmp_path / "go.txt").touch()
    finished = Finished(tmp_path, running.finish()).ok()
    assert finished.lines("arrived.txt") == ["1", "2"]
    assert len(set(finished.lines("where.txt"))) == 2, "another process took its place"


@pytest.mark.slow
def test_a_child_that_a_worker_has_left_behind_dies_with_it(tmp_path):
    finished = run(tmp_path, task_file({"leave_child": {}}, mode="process"), FILES).ok()
    (pid,) = map(int, finished.lines("children.txt"))
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
