"""The machine around a run: what it was started with, what is closed, full, stopped, swept away or not allowed.

Each case of a table is a command under one condition. None of them may end with 70, hang, or show a traceback of ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers import TOKEN

from runner.engines import process_setup, spawn
from runner.engines.reactor import LocalReactor
from runner.engines.spawn import Spawner
from runner.report.printer import Printer
from runner.worker.runtime import WorkerRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="conditions of Linux")

FILE = """
[params]
mode = "process"
how = ""
[queues]
n = {}
m = {}
[tasks.src]
call = "std.range"
args = [0, 30]
outputs = ["n"]
[tasks.work]
args = ["${how}"]
mode = "${mode}"
inputs = ["n"]
outputs = ["m"]
[tasks.keep]
call = "std.write_lines"
args = ["out.txt"]
inputs = ["m"]
"""


PLUGIN = """
import os
import signal
import socket
import stat
import struct
import time
from pathlib import Path

from runner import task

kept = []

def sockets():
    for fd in range(3, 256):
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd
        except OSError:
            pass

@task
def work(item, how):
    if item == 13:
        if how == "close":
            os.closerange(3, 256)
        elif how == "close one":
            os.close(next(sockets()))
        elif how == "close other":
            os.close(list(sockets())[-1])
        elif how == "dup":
            kept.append(socket.socketpair())
            for fd in list(sockets()):
                os.dup2(kept[0][0].fileno(), fd)
        elif how == "elsewhere":
            for fd in list(sockets()):
                os.dup2(1, fd)
        elif how == "stopped server":
            os.kill(os.getppid(), signal.SIGSTOP)
            os._exit(1)
        elif how == "killed server":
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(1)
        elif how == "junk":
            for fd in sockets():
                os.write(fd, b"junk " * 10)
        elif how.isdigit():
            for fd in sockets():
                os.write(fd, struct.pack("<2s2xIQ", b"rn", 100, int(how)))
    elif how == "slow":
        time.sleep(0.02)
    elif how == "sweep" and item == 20 and not Path("once").exists():
        Path("once").touch()
        os._exit(1)
    return item

@task
def speak(item, how):
    print("K", item, "y" * 400)
"""


@pytest.fixture
def made(project: Any) -> Any:
    return project({"tasks.toml": FILE, "plugins/work.py": PLUGIN})


RUNNER = f"{sys.executable} -m runner"


def shell(made: Any, script: str, **env: str) -> Callable[[], tuple[int, str]]:
    """Start a script of bash, in which `runner` is the command; its exit code and all it wrote, when that is wanted."""
    script = f'set -o pipefail; runner() {{ {RUNNER} "$@"; }}; {script}'
    environment = {**os.environ, **env, TOKEN: "x"}
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=made.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )

    def finish() -> tuple[int, str]:
        try:
            out, _ = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            pytest.fail(f"no end: {script}")
        text = out.decode("utf-8", "replace")
        assert process.returncode not in {70, 139}, text
        assert "runner's own" not in text, text
        assert "Traceback" not in text, text
        return process.returncode, text

    return finish


# -- descriptors and letters -----------------------------------------------------------------------------

#: A condition of the outputs, and the codes of `run`, `check` of a good file, and `check` of a bad one.
OUTPUTS = [
    (">&-", 0, 0, 3),
    ("2>&-", 0, 0, 3),
    ("<&- >&- 2>&-", 0, 0, 3),
    ("> /dev/full", 0, 1, 3),
    ("2> /dev/full", 1, 0, 3),
    ("1< /dev/null", 0, 1, 3),
    ("| true", 0, 0, 3),
]


@pytest.mark.parametrize(("condition", "run", "good", "bad"), OUTPUTS[3:4])
def test_outputs_that_are_closed_or_full(made: Any, condition: str, run: int, good: int, bad: int) -> None:
    outputs(made, condition, run, good, bad)


@pytest.mark.slow
@pytest.mark.parametrize(("condition", "run", "good", "bad"), OUTPUTS[:3] + OUTPUTS[4:])
def test_more_outputs_that_are_closed_or_full(made: Any, condition: str, run: int, good: int, bad: int) -> None:
    outputs(made, condition, run, good, bad)
    for command in ("run --json", "run -q", "list functions", "graph", "show", "explain", "report", "schema"):
        shell(made, f"runner {command} {condition}")()


def outputs(made: Any, condition: str, run: int, good: int, bad: int) -> None:
    made.write({"bad.toml": "[tasks.a]\ncal = 'é'\n"})
    running = [
        shell(made, f"runner {command} {condition}")
        for command in ("run tasks.toml", "check tasks.toml", "check bad.toml")
    ]
    ended = [finish() for finish in running]
    assert [code for code, _ in ended] == [run, good, bad], ended
    assert (made.path / "out.txt").read_text().splitlines() == [str(n) for n in range(30)]


LETTERS = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "utf-16"},
]


@pytest.mark.parametrize("env", LETTERS[:1])
def test_letters_that_an_output_cannot_show(made: Any, env: dict[str, str]) -> None:
    made.write({"odd.toml": 'title = "é→☃"\n[tasks.a]\ncall = "é☃"\n'})
    running = [shell(made, f"runner {command}", **env) for command in ("graph", "check odd.toml")]
    (drawn, graph), (checked, found) = [finish() for finish in running]
    assert (drawn, checked) == (0, 3), (graph, found)
    assert "E107" in found, found
    assert "\\u2603" in found, found


@pytest.mark.slow
@pytest.mark.parametrize("env", LETTERS)
def test_letters_in_every_command(made: Any, env: dict[str, str]) -> None:
    made.write({"odd.toml": 'title = "é→☃"\n[tasks.a]\ncall = "é☃"\n'})
    for command in ("", "show", "list", "list functions", "run", "run -n", "report", "explain E301", "run odd.toml"):
        assert shell(made, f"runner {command}", **env)()[0] in {0, 3}, command


STREAMS_OF_PYTHON = """
import os, sys
import runner
sys.stdout = None
if len(sys.argv) > 1:
    os.closerange(0, 3)
else:
    sys.stderr = None
before = [os.path.exists(f"/proc/self/fd/{n}") for n in range(3)]
result = runner.run("tasks.toml", params={"mode": "thread"})
assert [os.path.exists(f"/proc/self/fd/{n}") for n in range(3)] == before
open("code", "w").write(str(result.exit_code))
"""


@pytest.mark.parametrize("closed", [pytest.param("", marks=pytest.mark.slow), "closed"])
def test_a_service_without_streams(made: Any, closed: str) -> None:
    made.write({"service.py": STREAMS_OF_PYTHON})
    code, text = shell(made, f"{sys.executable} service.py {closed}")()
    assert (code, (made.path / "code").read_text()) == (0, "0"), text


# -- signals ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_signals_that_the_starter_ignores_stay_ignored(made: Any) -> None:
    script = "trap '' HUP INT TERM; runner run -p how=slow & p=$!; while [ ! -e out.txt ] && ! ls -A | grep -q part;"
    script += " do kill -0 $p || exit 9; sleep 0.05; done; kill -HUP $p; kill -INT $p; kill -TERM $p; wait $p"
    code, text = shell(made, script)()
    assert code == 0, text
    assert "30 read = 30 done" in text


EXITS = """
[queues]
n = {}
[tasks.src]
call = "std.range"
args = [0, 3]
outputs = ["n"]
[tasks.process]
call = "std.shell"
with = { command = ["sh", "-c", "exit {}"] }
inputs = ["n"]
mode = "MODE"
"""
IGNORING = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT})
os.execv(sys.executable, [sys.executable, "-m", "runner", *sys.argv[1:]])
"""


@pytest.mark.parametrize("mode", ["process", pytest.param("thread", marks=pytest.mark.slow)])
def test_ends_of_children_are_heard_although_the_starter_did_not_want_to(made: Any, mode: str) -> None:
    made.write({"exits.toml": EXITS.replace("MODE", mode), "start.py": IGNORING})
    code, text = shell(made, f"{sys.executable} start.py run exits.toml")()
    assert code == 4, text
    assert "3 read = 1 done + 2 dead" in text


@pytest.mark.slow
def test_a_signal_that_the_starter_blocks_is_heard(made: Any) -> None:
    made.write({"start.py": IGNORING})
    script = f"{sys.executable} start.py run -p how=slow & p=$!; until ls -A | grep -q part; do kill -0 $p || exit 9; sleep 0.05; done"
    code, text = shell(made, f"{script}; kill -TERM $p; wait $p")()
    assert code == 143, text


def test_what_a_run_needs_of_its_process_is_given_back() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with process_setup.deliver_signals():
            assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
            assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGCHLD, before)


# -- who closes or writes into what is not his -----------------------------------------------------------


def blamed(made: Any, how: str, **options: Any) -> None:
    (made.path / "out.txt").unlink(missing_ok=True)
    outcome = made.run("-p", f"how={how}", **options)
    assert outcome.exit == 4, outcome
    assert "30 read = 29 done + 1 dead + 0 dropped + 0 left" in outcome.err, outcome
    assert sorted((made.path / "out.txt").read_text().split(), key=int) == [str(n) for n in range(30) if n != 13]
    listed = made.run("list", verb="dead")
    assert "13" in listed.out, listed


@pytest.mark.parametrize("how", ["close", "close one", "junk"])
def test_who_closes_or_writes_into_the_socket_is_blamed(made: Any, how: str) -> None:
    blamed(made, how)


def test_who_closes_the_socket_of_what_it_is_given_is_replaced(made: Any) -> None:
    """What it did with the item arrives by the other one."""
    outcome = made.run("-p", "how=close other")
    assert outcome.exit == 0, outcome
    assert "30 read = 30 done" in outcome.err
    assert "exited with code 0; a new one takes its place" in outcome.err
    assert sorted((made.path / "out.txt").read_text().split(), key=int) == [str(n) for n in range(30)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", ["dup", "elsewhere", "0", str(2**31), str(2**39), str(2**64 - 1), "stopped server", "killed server"]
)
def test_more_ways_to_close_or_write_into_the_socket(made: Any, how: str) -> None:
    blamed(made, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["close", "junk"])
def test_the_same_when_each_worker_is_spawned(made: Any, how: str) -> None:
    blamed(made, how, env={"RUNNER_START_METHOD": "spawn"})


# -- the fork server -------------------------------------------------------------------------------------


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    made = Spawner("forkserver")
    made.start_fork_server([])
    yield made
    made.close()


def pid(spawner: Spawner) -> int:
    assert spawner.server is not None
    return spawner.server.pid


def started(spawner: Spawner) -> int | None:
    process = spawner.start(print, (), "one")
    process.wait_for_exit_code(20)
    os.close(process.status_fd)
    return process.exit_code


@pytest.mark.slow
def test_a_stopped_fork_server_is_replaced(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "START_TIMEOUT", 0.3)
    first = pid(spawner)
    os.kill(first, signal.SIGSTOP)
    with pytest.raises(spawn.ForkServerTimeout):
        spawner.start(print, (), "one")
    monkeypatch.undo()
    assert started(spawner) == 0
    assert pid(spawner) != first


def test_a_signal_shortens_the_wait_for_a_stopped_fork_server(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spawn, "START_TIMEOUT_AFTER_SIGNAL", 0.1)
    monkeypatch.setattr(spawn, "START_TIMEOUT", 600)
    os.kill(pid(spawner), signal.SIGSTOP)
    with pytest.raises(spawn.ForkServerTimeout):
        spawner.start(print, (b"x" * 200_000,), "one", hurried=lambda: True)  # more than a pipe holds


def test_the_end_of_a_stopped_fork_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "_END_SECONDS", 0.2)
    made = Spawner("forkserver")
    made.start_fork_server([])
    server = pid(made)
    os.kill(server, signal.SIGSTOP)
    made.close()
    assert not psutil.pid_exists(server)


@pytest.mark.slow
def test_no_file_of_the_fork_server_is_left_and_its_folder_may_be_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("y" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    made = Spawner("forkserver")
    made.start_fork_server([])
    assert list(long.iterdir()) == []
    shutil.rmtree(long)
    for _ in range(2):  # the second is started by another server
        assert started(made) == 0
        made.kill_server()
    made.close()


def test_a_death_after_the_sweep_of_tmp_costs_only_time(made: Any, tmp_path: Path) -> None:
    swept = tmp_path / "t"
    swept.mkdir()
    outcome = made.run("-p", "how=sweep", env={"TMPDIR": str(swept)})
    assert outcome.exit == 0, outcome
    assert list(swept.iterdir()) == []


# -- what the machine does not allow ---------------------------------------------------------------------


def limited(number: int, value: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(number, (value, value))


LIMITS = [
    (resource.RLIMIT_NOFILE, 20, "ulimit -"),
    (resource.RLIMIT_NOFILE, 64, "ulimit -Hn"),
    (resource.RLIMIT_FSIZE, 1000, "ulimit -f"),
]


@pytest.mark.parametrize(("number", "value", "hint"), LIMITS)
def test_limits_are_named(made: Any, number: int, value: int, hint: str) -> None:
    outcome = made.run(preexec_fn=limited(number, value), env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert outcome.exit in {1, 3}, outcome
    assert len(outcome.err.splitlines()) <= 2, outcome
    assert hint in outcome.err


def as_user(uid: int) -> list[str]:
    """Return the beginning of a command of another user who may read everything."""
    caps = "+dac_override,+dac_read_search"
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps", caps, "--ambient-caps", caps]


CROWD = FILE.replace("[tasks.work]", "[tasks.work]\nworkers = 30")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
@pytest.mark.parametrize(
    ("mode", "most"), [pytest.param("thread", 5, marks=pytest.mark.slow), ("thread", 12), ("process", 9)]
)
def test_no_more_threads_or_processes(made: Any, mode: str, most: int) -> None:
    command = as_user(64111 + most)  # tests that execute side by side are not counted together
    if subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("setpriv may not do it here")
    made.write({"tasks.toml": CROWD})
    wanted = " ".join(command)
    script = f"{wanted} bash -c 'ulimit -u {most}; exec {RUNNER} run --no-record -p mode={mode}'"
    code, text = shell(made, script, HOME="/nonexistent")()
    assert code == 1, text
    assert "could not be started: " in text
    assert "ulimit -" in text
    assert "tasks.toml  failed after" in text


# -- readers ---------------------------------------------------------------------------------------------

SPEAKING = FILE.replace("[0, 30]", "[0, 600]").replace("[tasks.work]", '[tasks.work]\ncall = "speak"')


@pytest.mark.slow
def test_a_reader_who_stops_is_waited_for_until_a_signal(made: Any) -> None:
    made.write({"tasks.toml": SPEAKING})
    running = made.start("-p", "mode=thread", "--no-record")
    assert running.process.stdout is not None
    assert select.select([running.process.stdout], [], [], 60)[0]
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(1.5)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(30)
    outcome = running.finish()
    assert outcome.exit == 143, outcome
    lost = re.search(r"standard output: .*; ([\d,]+) lines lost", outcome.err)
    assert lost, outcome
    assert 1 <= int(lost[1].replace(",", "")) <= 601


@pytest.mark.slow
def test_a_slow_reader_loses_nothing_whatever_the_time() -> None:
    """The waits of the end, with a reader who begins late: they have no limit unless the run was cut short."""
    reader, writer = os.pipe()
    printer = Printer(writer, writer)
    for n in range(3000):
        printer.write("w", f"{n} {'y' * 300}\n", "out")
    got: list[bytes] = []
    late = threading.Timer(0.3, lambda: got.extend(iter(lambda: os.read(reader, 1 << 16), b"")))
    late.start()
    printer.wait_until_written()
    printer.close()
    os.close(writer)
    late.join()
    os.close(reader)
    assert not printer.has_lost_output
    assert b"".join(got).count(b"\n") == 3000


def test_after_a_signal_only_a_reader_who_reads_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.report.printer._STUCK", 0.1)
    reader, writer = os.pipe()
    sink, other = os.pipe()
    printer = Printer(writer, other)
    for n in range(1000):
        printer.write("w", f"{n} {'y' * 300}\n", "out")
    printer.wait_until_written(0.0)
    assert printer.has_lost_output
    assert printer.write_error.startswith("standard output: its reader has stopped reading; ")
    printer.print_message("still heard")
    printer.close(0.0)
    os.close(other)
    assert os.read(sink, 100) == b"still heard\n"
    os.close(reader)  # frees the thread that is stuck
    printer._thread.join(10)
    printer._close_descriptors()
    os.close(sink)
    os.close(writer)


# -- the test of the tests -------------------------------------------------------------------------------


def forget_to_blame(self: WorkerRuntime, answer: Any) -> None:
    self.show_position(0)
    self.port.send(answer)


def wait_for_ever(status_fd: int, hurried: Any) -> None:
    if not select.select([status_fd], [], [], 0.5)[0]:
        pytest.fail("it waits for ever")


def catch_all(self: LocalReactor, signals: Any) -> None:
    for number in signals:
        self._handlers[number] = signal.signal(number, self._post_signal)


def planted_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    class Port:
        def send(self, message: Any) -> None:
            from runner.worker.spec import SupervisorGone

            raise SupervisorGone

    from types import SimpleNamespace

    from runner.transport.messages import Ack, Reply
    from runner.worker.spec import SupervisorGone

    bench = SimpleNamespace(port=Port(), progress_slot=[7, 4], answered_items=0, save_instance=None)
    bench.show_position = lambda lease, index=0: WorkerRuntime.show_position(bench, lease, index)  # type: ignore[arg-type]
    with pytest.raises(SupervisorGone):
        WorkerRuntime.send_reply(bench, Reply((Ack(7, 5, ()),), (), 0.0))  # type: ignore[arg-type]
    from runner.transport.progress_page import unpack_position

    assert (unpack_position(*bench.progress_slot).lease, unpack_position(*bench.progress_slot).width) == (7, 5)


def planted_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    hub = LocalReactor()
    try:
        hub.catch_signals([signal.SIGHUP])
        os.kill(os.getpid(), signal.SIGHUP)
        assert not hub.has_pending_signal()
    finally:
        hub.close()
        signal.signal(signal.SIGHUP, before)


BUGS: list[tuple[Any, str, Any, Callable[[pytest.MonkeyPatch], None]]] = [
    (WorkerRuntime, "send_reply", forget_to_blame, planted_blame),
    (LocalReactor, "catch_signals", catch_all, planted_signal),
]


@pytest.mark.parametrize(("owner", "name", "bug", "check"), BUGS, ids=[bug.__name__ for _, _, bug, _ in BUGS])
def test_a_planted_bug_is_noticed(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, bug: Any, check: Callable[[pytest.MonkeyPatch], None]
) -> None:
    check(monkeypatch)
    monkeypatch.setattr(owner, name, bug)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(monkeypatch)


def test_a_planted_wait_is_noticed(spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "await_pid", wait_for_ever)
    with pytest.raises(pytest.fail.Exception):
        test_a_stopped_fork_server_is_replaced(spawner, monkeypatch)
    spawner.kill_server()
