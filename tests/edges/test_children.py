"""Children and threads that tasks leave: copies that they fork, daemons, executors, `atexit`, standard input, limits."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from faults import harness
from faults.harness import plan, task
from helpers import TOKEN, kill_all, marked
from unit.test_conformance import Rig

from runner import linux_only, std
from runner.engines.engine_events import WorkerExited
from runner.model import QueueConfig
from runner.report.log import LineSplitter
from runner.report.printer import WorkerStream
from runner.std.shell import CommandTimedOut
from runner.supervisor.timeouts import TimeoutWatchdog
from runner.transport.messages import Grant, Ready, Reply, Stop
from runner.worker.runtime import WorkerRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers import Project

    Make = Callable[[dict[str, str | Callable[..., Any]]], Project]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, /proc")
MODES = ["process", "thread"]


def appears(path: Path, limit: float = 30) -> str:
    """Wait until a task has written the file."""
    pause, end = threading.Event(), time.monotonic() + limit
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} does not appear"
        pause.wait(0.02)
    return path.read_text()


def lines(path: Path) -> Counter[str]:
    return Counter(path.read_text().splitlines()) if path.exists() else Counter()


# -- copies that a function forks ---------------------------------------------------------------

FORMS = ["returns", "raises", "exits", "yields", "flies", "awaits", "loops", "batches"]


FORKING = """
import asyncio
import os
import sys
from pathlib import Path

from runner import Inbox, Outbox, task

def say(name, text):
    with Path(name).open("a") as file:
        file.write(f"{text}\\n")

def forked(n):
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    else:
        say("copies", n)
    return not pid

@task
def returns(n):
    return -1 if forked(n) else n

@task
def raises(n):
    if forked(n):
        raise ValueError("in the copy")
    return n

@task
def exits(n):
    if forked(n):
        sys.exit(3)
    return n

@task
def yields(n):
    copy = forked(n)
    yield -1 if copy else n

@task
async def flies(n):
    return -1 if forked(n) else n

@task
async def awaits(n):
    copy = forked(n)
    await asyncio.sleep(0)
    return -1 if copy else n

@task
def loops(inbox: Inbox, outbox: Outbox):
    for n in inbox:
        outbox.put(-1 if forked(n) else n)

@task
def batches(some):
    copy = forked(some[0])
    for n in some:
        yield -1 if copy else n

@task
class Tears:
    def __enter__(self):
        forked("enter")
        return self

    def __exit__(self, *error):
        say("torn", os.getpid())

    def __call__(self, n):
        return -1 if forked(n) else n

@task
def source(name):
    for n in range(10):
        yield -1 if forked(f"{name} {n}") else n

@task
def keep(item, *, name):
    say("kept", f"{name} {item}")
"""


def chain(name: str, mode: str, call: str = "", more: str = "") -> str:
    return f"""
[tasks.{name}]
call = "{call or name}"
mode = "{mode}"
inputs = "in_{name}"
outputs = "out_{name}"
{more}
[tasks.range_{name}]
call = "std.range"
args = [0, 10]
outputs = "in_{name}"
[tasks.keep_{name}]
call = "keep"
mode = "thread"
with = {{ name = "{name}" }}
inputs = "out_{name}"
[queues.in_{name}]
[queues.out_{name}]
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", pytest.param("thread", marks=pytest.mark.slow)])
def test_a_copy_that_comes_back_counts_for_nothing(mode: str, project: Make) -> None:
    forms = [chain(form, mode, more="batch = 5" if form == "batches" else "") for form in FORMS]
    forms.append(chain("tears", mode, "Tears"))
    source = f"""
[tasks.source]
mode = "{mode}"
args = ["source"]
outputs = "made"
[tasks.keep_source]
call = "keep"
mode = "thread"
with = {{ name = "source" }}
inputs = "made"
[queues.made]
"""
    made = project({"tasks.toml": "".join(forms) + source, "plugins/forking.py": FORKING})
    outcome = made.run("tasks.toml", "--grace", "2s", preexec_fn=_bounded)
    assert outcome.exit == 0, outcome
    assert lines(made.path / "kept") == {f"{name} {n}": 1 for name in (*FORMS, "tears", "source") for n in range(10)}
    each = len(FORMS)  # all but one of these and the class fork for each item, one for each list
    copies = lines(made.path / "copies")
    assert copies == {**{f"source {n}": 1 for n in range(10)}, "enter": 1, **{str(n): each for n in range(10)}} | {
        str(n): each + 1 for n in (0, 5)
    }
    assert len(lines(made.path / "torn")) == 1
    assert "ValueError: in the copy" in outcome.out + outcome.err


def _bounded() -> None:
    """No more processes than these, should each copy go on and fork."""
    import resource

    resource.setrlimit(resource.RLIMIT_NPROC, (4000, 4000))


def pooling():
    import multiprocessing
    import os
    import time
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path

    from runner import task

    def nap(n):
        print(f"nap {n} of many")
        return n

    @task
    def pool():
        context = multiprocessing.get_context("fork")
        child = context.Process(target=time.sleep, args=(1000,))
        child.start()
        child.terminate()
        child.join()
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            print(sum(executor.map(nap, range(100))), child.exitcode)
            Path("up").write_text("up")
            list(executor.map(time.sleep, [1000, 1000]))

    @task
    def busy():
        time.sleep(1000)

    @task
    def daemon():
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                Path("daemon").write_text(str(os.getpid()))
                time.sleep(60)
            os._exit(0)
        while not Path("daemon").exists():
            time.sleep(0.01)
        os.system("setsid sleep 60 &")


@pytest.mark.slow
def test_a_pool_that_a_thread_task_forks_works_and_dies_with_runner(project: Make) -> None:
    text = '[tasks.pool]\nmode = "thread"\n[tasks.busy]\n'
    running = (made := project({"tasks.toml": text, "plugins/pooling.py": pooling})).start("tasks.toml")
    appears(made.path / "up")
    assert running.process.stdout is not None
    lines: list[str] = []
    while "pool | 4950 -15\n" not in lines or sum(line.endswith(" of many\n") for line in lines) < 100:
        lines.append(running.process.stdout.readline())
        assert lines[-1], lines
    running.process.kill()
    running.finish()  # fails when a process is left


@pytest.mark.parametrize("mode", ["process", pytest.param("thread", marks=pytest.mark.slow)])
def test_a_daemon_does_not_hold_up_the_end(mode: str, project: Make) -> None:
    made = project({"tasks.toml": f'[tasks.daemon]\nmode = "{mode}"\n', "plugins/pooling.py": pooling})
    running = made.start("tasks.toml", **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL))
    try:
        assert running.process.wait(20) == 0
        assert psutil.pid_exists(int((made.path / "daemon").read_text())), "it has a session of its own"
    finally:
        kill_all(marked(running.token))
        running.process.wait(20)


# -- the orderly end -----------------------------------------------------------------------------


def ending():
    import asyncio
    import atexit
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

    from runner import task

    log = Path("log").open("a")  # noqa: SIM115  that nobody closes it is the point

    @atexit.register
    def bye():
        print("bye")

    def upload():
        time.sleep(0.3)
        Path("uploaded").write_text("yes")

    @task
    def works(n):
        log.write(f"{n}\n")
        threading.Thread(target=upload).start()
        ThreadPoolExecutor(1).submit(time.sleep, 0.1).add_done_callback(lambda _: Path("pooled").write_text("yes"))

    @task
    def leaves(n):
        threading.Thread(target=time.sleep, args=(1000,), name="uploader").start()
        ThreadPoolExecutor(1, "pool").submit(time.sleep, 1000)

    @task
    async def waits(n):
        await asyncio.to_thread(time.sleep, 1000)

    @task
    async def flies(n):
        print("up", flush=True)
        await asyncio.sleep(1000)


ONE = """
[queues.n]
[tasks.src]
call = "std.range"
args = [0, {items}]
outputs = "n"
[tasks.{task}]
mode = "{mode}"
inputs = "n"
{more}
"""


def one(name: str, mode: str, more: str = "", items: int = 1) -> dict[str, Any]:
    return {"tasks.toml": ONE.format(task=name, mode=mode, more=more, items=items), "plugins/ending.py": ending}


@pytest.mark.parametrize("mode", MODES)
def test_threads_executors_files_and_atexit_end_as_in_any_program(mode: str, project: Make) -> None:
    made = project(one("works", mode))
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert lines(made.path / "log") == {"0": 1}
    assert (made.path / "uploaded").exists()
    assert (made.path / "pooled").exists()
    byes = ["bye", "works | bye"] if mode == "process" else ["bye"]  # runner itself has looked for functions there
    assert [line for line in outcome.lines if "bye" in line] == byes


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_threads_that_do_not_end_are_named_and_cut_after_the_grace(mode: str, project: Make) -> None:
    outcome = project(one("leaves", mode)).run("tasks.toml", "--grace", "300ms", timeout=30)
    assert outcome.exit == 0, outcome
    said = outcome.out + outcome.err
    assert "cut threads `uploader`, `pool_0`, not over after the grace of 0.3 s" in said, outcome
    assert "worker `leaves` of task `leaves`" in said or mode == "thread"


def test_a_time_limit_ends_an_item_that_waits_for_a_thread(project: Make) -> None:
    made = project(one("waits", "process", 'timeout = "300ms"'))
    outcome = made.run("tasks.toml", "--grace", "300ms", timeout=30)
    assert (outcome.exit, "TimedOut" in outcome.err) == (4, True), outcome


@pytest.mark.slow
def test_the_second_ctrl_c_is_at_once_with_async_thread_workers(project: Make) -> None:
    made = project(one("flies", "thread", "workers = 24", 100))
    running = made.start("tasks.toml", "--grace", "60s")
    assert running.process.stdout is not None
    assert running.process.stderr is not None
    assert running.process.stdout.readline().endswith("up\n")
    running.process.send_signal(signal.SIGINT)
    assert "again ends at once" in running.process.stderr.readline()
    began = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    running.process.wait(30)
    assert time.monotonic() - began < 20  # it was a second for each worker
    assert running.finish().exit == 130


# -- input, limits, output -----------------------------------------------------------------------


def reading():
    import subprocess

    from runner import task

    @task
    def work(line):
        subprocess.run(["sh", "-c", "cat"])
        try:
            print("line", line, input())
        except EOFError:
            print("line", line)


READING = """
[queues.n]
[tasks.lines]
outputs = "n"
[tasks.work]
mode = "thread"
inputs = "n"
"""


def test_what_a_thread_task_starts_does_not_read_standard_input(project: Make) -> None:
    made = project(
        {"tasks.toml": READING.replace("[tasks.lines]", '[tasks.lines]\nargs = ["-"]'), "plugins/p.py": reading}
    )
    outcome = made.run("tasks.toml", input="".join(f"row{n}\n" for n in range(20)))
    assert outcome.exit == 0, outcome
    assert outcome.lines == sorted(f"work | line row{n}" for n in range(20))


def limited(folder: Path, command: str) -> None:
    """A command with a limit of half a second ends then, with what it writes into `child`."""
    child = folder / "child"
    try:
        with std.Shell(command.replace("CHILD", str(child)), shell=True, limit=dt.timedelta(seconds=0.5)) as run:
            began = time.monotonic()
            with pytest.raises(CommandTimedOut, match=r"longer than 0\.5 s and was killed"):
                run("x")
            assert time.monotonic() - began < 10
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(int(appears(child))).wait(5)
    except psutil.TimeoutExpired:
        raise AssertionError("it lives on") from None
    finally:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError):
            os.kill(int(child.read_text()), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setsid"), reason="needs setsid")
@pytest.mark.parametrize(
    "command",
    [
        "exec setsid -w sh -c 'echo $$ > CHILD; exec sleep 60'",
        "setsid sh -c 'echo $$ > CHILD; exec sleep 60'; echo over",
    ],
)
def test_a_commands_limit_holds_in_a_session_of_its_own(command: str, tmp_path: Path) -> None:
    limited(tmp_path, command)


def hurries(count: int) -> Any:
    yield from range(count)


def dawdles(item: int) -> None:
    time.sleep(0.25)


def waits_for_room() -> None:
    tasks = [
        task("src", hurries, outputs="n", mode="process", args=(8,), timeout=1.2),
        task("sink", dawdles, inputs="n", mode="thread"),
    ]
    outcome = harness.run(plan(tasks, {"n": QueueConfig("n", size=1)}))
    assert (outcome.result.exit_code, outcome.result.headline.done) == (0, 8)


@pytest.mark.slow
def test_the_time_in_which_a_source_waits_for_room_is_not_its_own() -> None:
    waits_for_room()


def test_a_worker_is_held_up_when_its_pipe_is_full() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        source = WorkerStream(_Raw(), "work", reader, "out")  # type: ignore[arg-type]  # it is asked for no more
        os.write(writer, b"a line\n")
        assert not source.full()
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 2100)  # each fills half of a page
        assert source.full()
    finally:
        os.close(reader)
        os.close(writer)


class _Raw:
    def create_splitter(self, stream: str) -> LineSplitter:
        return LineSplitter()


PRINTING = """
from runner import task

@task
def work(n):
    for _ in range(3000):
        print("x" * 100)
"""


@pytest.mark.slow  # the quick ones above ask the same of its parts
@pytest.mark.parametrize("log", ["prefix", "raw"])
def test_the_time_in_which_what_is_printed_is_not_taken_is_not_the_items(log: str, project: Make) -> None:
    made = project({"tasks.toml": ONE.format(task="work", mode="process", more='timeout = "500ms"', items=3)})
    made.write({"plugins/p.py": PRINTING})
    running = made.start("tasks.toml", "--log", log)
    threading.Event().wait(4)  # nobody reads
    outcome = running.finish()
    assert (outcome.exit, len(outcome.out.splitlines())) == (0, 9000), outcome.err


# -- process 1 -----------------------------------------------------------------------------------


def orphans():
    import subprocess

    from runner import task

    @task
    def leaves(n):
        subprocess.run(["sh", "-c", "setsid true & exit 0"])
        return n

    @task
    def counts(batch):
        import time
        from pathlib import Path

        def zombies():
            stats = [path.read_text().rsplit(")", 1)[1].split() for path in Path("/proc").glob("[0-9]*/stat")]
            return [stat for stat in stats if stat[0] == "Z" and stat[1] == "1"]

        end = time.monotonic() + 20
        while (left := zombies()) and time.monotonic() < end:  # one that is reaped soon is none
            time.sleep(0.05)
        print("zombies", len(left), "code", subprocess.run(["sh", "-c", "exit 7"]).returncode)


def test_as_process_1_orphans_are_reaped_and_exit_codes_are_not(project: Make) -> None:
    alone = ["unshare", "-fp", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs unshare, and the right to")
    text = ONE.format(task="leaves", mode="process", more='outputs = "m"', items=20)
    text += '[queues.m]\n[tasks.counts]\nmode = "thread"\nbatch = 1000\ninputs = "m"\n'
    made = project({"tasks.toml": text, "plugins/orphans.py": orphans})
    command = [*alone, sys.executable, "-m", "runner", "run", "tasks.toml"]
    env = {**os.environ, TOKEN: "none"}
    done = subprocess.run(command, cwd=made.path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "counts | zombies 0 code 7\n"), done.stderr


# -- planted bugs --------------------------------------------------------------------------------

_calls: list[int] = []


def forks_once(item: int) -> None:
    """Each call, in whatever process, writes a byte into the pipe."""
    os.write(_calls[1], b"x")
    if item == 0 and not (pid := os.fork()):
        return
    if item == 0:
        os.waitpid(pid, 0)


def calls_thrice() -> None:
    """Three items of one grant are three calls, although the first one forks."""
    _calls[:] = os.pipe()
    try:
        with contextlib.ExitStack() as stack:
            rig = Rig("thread", stack)
            rig.fleet.start(rig.spec("forks_once", module=__name__, queues=()), 1)
            rig.until(Ready)
            rig.fleet.send(0, Grant(7, 10.0, rig.grant(7, [0, 1, 2]).parts))
            assert rig.until(Reply).acks[0].done == 3
            rig.fleet.send(0, Stop(inputs_ended=True))
            rig.until(WorkerExited)
        assert os.read(_calls[0], 100) == b"xxx"
    finally:
        for fd in _calls:
            os.close(fd)


def lives_on() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        limited(Path(folder), "setsid sh -c 'echo $$ > CHILD; exec sleep 60'; echo over")


BUGS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "a copy goes on": (WorkerRuntime, "abandon_fork", lambda self: None, calls_thrice),
    "only the group of a command is killed": (linux_only, "descendant_pids", lambda pid: [], lives_on),
    "waiting for room is a source's time": (TimeoutWatchdog, "_forgive", lambda *_: None, waits_for_room),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, attribute, mistake, notice = BUGS[bug]
    if notice is not waits_for_room:  # a test of its own
        notice()
    monkeypatch.setattr(where, attribute, mistake)
    with pytest.raises(AssertionError):
        notice()
