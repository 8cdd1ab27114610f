"""`runner ps`, `top` and `stop`: runs that are going on, seen and ended from another terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from helpers import Outcome, Project, Running
from topology_runs import wait_for

from runner import events, linux_only
from runner.cli import app
from runner.cli.ps import RunNow
from runner.cli.stop import RunProcess
from runner.cli.top import RunWatch, top
from runner.errors import UsageError
from runner.report import status
from runner.report.journal import event_line
from runner.store import records, run_lock, running_runs

FILE = """
    title = "Endless"

    [queues]
    numbers = { size = 10 }

    [tasks.make]
    outputs = "numbers"

    [tasks.take]
    mode   = "MODE"
    inputs = "numbers"
"""
WORK = """
    import itertools
    import time
    from runner import task

    @task
    def make():
        yield from itertools.count()

    @task
    def take(item):
        time.sleep(0.02)
"""

Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Execute a verb in this process."""

    def execute(folder: Path, *args: str) -> Outcome:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["runner", *args])
        capfd.readouterr()
        code = app.main()
        out, err = capfd.readouterr()
        return Outcome(["runner", *args], code, out, err)

    return execute


def begin(project: Any, mode: str = "thread", **more: Any) -> tuple[Project, Running]:
    """Start the endless run, and wait until its workers execute."""
    made = project({"tasks.toml": FILE.replace("MODE", mode), "plugins/work.py": WORK})
    running = made.start("--progress", "none", **more)
    wait_for(lambda: executing(made.path / ".runner"), 30)
    return made, running


def executing(state: Path) -> bool:
    found = running_runs.find_running(state)
    return bool(found) and '"state":"executing"' in found[-1].status


def ended(running: Running) -> Outcome:
    running.process.send_signal(signal.SIGINT)
    running.process.send_signal(signal.SIGTERM)
    return running.finish()


def test_ps_shows_the_workers_and_not_a_run_that_was_killed(project: Any, command: Command) -> None:
    made, running = begin(project, "process")
    shown = command(made.path, "ps")
    assert shown.exit == 0, shown
    [head, columns, *rows] = shown.out.splitlines()
    assert "Endless" in head
    assert f"process {running.process.pid}" in head
    assert columns.split() == ["task", "worker", "pid", "state", "for", "alive", "cpu", "memory", "items"]
    assert [row.split()[:2] for row in rows] == [["make", "make"], ["take", "take"]]
    [found] = command(made.path, "ps", "--json").json
    assert (found["title"], found["pid"], found["here"], found["stopping"]) == (
        "Endless",
        running.process.pid,
        True,
        None,
    )
    assert found["queues"].keys() == {"numbers"}
    children = {each.pid for each in psutil.Process(running.process.pid).children(recursive=True)}
    assert {worker["pid"] for worker in found["workers"]} <= children
    assert [worker["alive"] for worker in found["workers"]] == [True, True]
    assert found["workers"][1]["state"] == "executing"
    assert found["workers"][1]["item_age"] < 30
    running.process.send_signal(signal.SIGKILL)
    running.process.wait()
    assert command(made.path, "ps").out == "no run is going on in .runner\n"
    assert command(made.path, "ps", "--json").json == []
    assert not running.finish().out


def test_stop_drains_and_ends_with_the_runs_own_exit_code(project: Any, command: Command) -> None:
    made, running = begin(project)
    outcome = command(made.path, "stop")
    assert outcome.exit == 143, outcome
    assert "has been told to stop; waiting for its end" in outcome.err
    assert "stopped by SIGTERM (exit 143)" in outcome.err
    assert "+ 0 left; `make` had not ended" in outcome.err
    assert running.finish().exit == 143


@pytest.mark.parametrize("mode", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_stop_now_ends_at_once(project: Any, command: Command, mode: str) -> None:
    made, running = begin(project, mode)
    outcome = command(made.path, "stop", "last", "--now")
    assert outcome.exit == 143, outcome
    assert "SIGTERM: ending at once" in running.finish().err


@pytest.mark.slow
def test_stop_without_waiting_and_of_nothing(project: Any, command: Command) -> None:
    made, running = begin(project)
    told = command(made.path, "stop", "--no-wait")
    assert told.exit == 0
    assert f"(process {running.process.pid}) has been told to stop" in told.err
    assert running.finish().exit == 143
    for verb in ("stop", "top"):
        nothing = command(made.path, verb)
        assert nothing.exit == 2
        assert nothing.err == "no run is going on in .runner; `runner list runs` has those that have ended\n"
    run = next((made.path / ".runner" / "runs").iterdir())
    assert sorted(each.name for each in run.iterdir()) == ["record.json"]


@pytest.mark.slow
def test_of_several_runs_one_must_be_named(project: Any, command: Command) -> None:
    made, first = begin(project)
    second = made.start("--progress", "none")
    state = made.path / ".runner"
    wait_for(lambda: len(running_runs.find_running(state)) == 2, 30)
    unsaid = command(made.path, "stop")
    assert unsaid.exit == 2
    assert unsaid.err.startswith("2 runs are going on in .runner: ")
    assert command(made.path, "stop", "2").exit == 2  # the beginning of both
    by_pid = {each.holder.pid: each.run for each in running_runs.find_running(state)}
    assert command(made.path, "stop", by_pid[second.process.pid], "--now").exit == 143
    second.finish()
    assert [each.run for each in running_runs.find_running(state)] == [by_pid[first.process.pid]]
    ended(first)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that no run is."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    assert process.poll() is None, "it was ended"
    process.kill()
    process.communicate()


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make a run whose lock this process holds, and in which something else stands."""
    held = []

    def make(**holder: Any) -> Path:
        folder = tmp_path / ".runner" / "runs" / "20260101-000000-aa"
        folder.mkdir(parents=True, mode=0o700)
        fd = os.open(folder / records.GOING_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        held.append(fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.write(fd, msgspec.json.encode({**msgspec.to_builtins(run_lock.this_process()), **holder}))
        return folder

    yield make
    for fd in held:
        os.close(fd)


def test_a_process_that_has_the_number_of_a_run_by_now_is_not_signalled(
    hold: Any, tmp_path: Path, command: Command, bystander: subprocess.Popen[bytes]
) -> None:
    hold(pid=bystander.pid, started=linux_only.process_start(bystander.pid) + 1)
    outcome = command(tmp_path, "stop")
    assert outcome.exit == 1, outcome
    assert "has just ended" in outcome.err


@pytest.mark.slow
def test_planted_a_stop_that_goes_by_the_number_alone_is_noticed(
    hold: Any, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    hold(pid=process.pid, started=linux_only.process_start(process.pid) + 1)
    monkeypatch.setattr(run_lock.LockHolder, "is_same_process", lambda _: True)
    command(tmp_path, "stop", "--now")
    assert process.wait(30) == -signal.SIGTERM
    process.communicate()


def test_a_lock_that_no_process_holds_is_no_run(tmp_path: Path) -> None:
    folder = tmp_path / ".runner" / "runs" / "20260101-000000-aa"
    folder.mkdir(parents=True, mode=0o700)
    with closing(records.RecordFile(tmp_path / ".runner", folder.name)) as kept:
        kept.mark_running()
        kept.write_status(msgspec.json.encode(run_lock.this_process()) + b"\n")
        assert [each.run for each in running_runs.find_running(tmp_path / ".runner")] == [folder.name]
        left = {each.name: each.read_bytes() for each in folder.iterdir()}
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, data in left.items():  # as a run leaves them that is killed
        (folder / name).write_bytes(data)
    assert running_runs.find_running(tmp_path / ".runner") == []
    assert records.find_holder(folder) is None


def test_a_number_that_another_process_has_by_now_is_not_signalled(tmp_path: Path) -> None:
    folder = tmp_path / ".runner" / "runs" / "20260101-000000-aa"
    folder.mkdir(parents=True, mode=0o700)
    with subprocess.Popen(["sleep", "60"]) as bystander, (folder / records.GOING_FILE).open("wb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            started = run_lock.process_start(bystander.pid) + 1
            holder = msgspec.structs.replace(run_lock.this_process(), pid=bystander.pid, started=started)
            os.pwrite(file.fileno(), msgspec.json.encode(holder), 0)
            (folder / records.GOING_FILE).chmod(0o600)
            with closing(RunProcess(holder)) as process:
                is_sent = process.send_stop(running_runs.RunningRun(folder.name, folder, holder, ""), now=False)
            assert not is_sent
            assert bystander.poll() is None
        finally:
            bystander.kill()


def status_of(*workers: events.WorkerNow) -> str:
    """Write the status of a run whose workers these are."""
    planned = events.TaskPlanned("take", "take", "process", tuple(each.name for each in workers), ("q",), ())
    lines = [
        msgspec.json.encode({"runner": "1", "version": 1, **msgspec.to_builtins(run_lock.this_process())}).decode()
    ]
    plan = events.RunPlan(tasks=(planned,), queues=(events.QueuePlanned("q", 10),))
    count = events.TaskCounts(0, 0, 0, 0, 0, len(workers), len(workers))
    told = [
        events.RunStarted(100.0, "20260101-000000-aa", "Title", ("take",), plan, 1.0),
        events.Progress(101.0, {"take": count}, {"q": 3}, {"take": workers}, {"q": 2.5}),
    ]
    return "\n".join([*lines, *map(event_line, told), ""])


def test_a_worker_of_another_machine_is_not_looked_up_under_its_number(tmp_path: Path) -> None:
    spent = events.Spent()
    far = events.WorkerNow("far", "executing", spent, os.getpid(), 5, 0.5, 1000, 1.5, "node-7")
    near = events.WorkerNow("near", "executing", spent, os.getpid(), 5, 0.0, None, 1.5)
    running = running_runs.RunningRun("run", tmp_path, run_lock.this_process(), status_of(far, near))
    found = RunNow.read(running)
    there, here = found.as_json()["workers"]
    assert (there["node"], there["alive"], there["cpu"], there["memory"]) == ("node-7", None, 0.5, 1000)
    assert (here["node"], here["alive"]) == (None, True)
    assert here["memory"] > 1 << 20
    assert f"{os.getpid()}@node-7" in found.lines()[2].split()
    assert found.as_json()["queues"]["q"]["oldest"] == 2.5


def follow_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Follow a run that ends with 143."""
    state = tmp_path / ".runner"
    with closing(records.RecordFile(state, "20260101-000000-aa")) as kept:
        kept.mark_running()
        kept.write_status(status_of().encode())
        looks, asked = RunWatch.is_going_on, []

        def end(watch: RunWatch) -> bool:
            """Answer as it is; the run ends once its status has been seen."""
            if asked:
                kept.write_record('{"exit_code": 143, "balance": {"read": 5, "done": 5}}')
                kept.close()
            asked.append(looks(watch))
            return asked[-1]

        monkeypatch.setattr(RunWatch, "is_going_on", end)
        top("last", state, as_json=True)
        assert asked == [True, False]


def test_top_ends_well_whatever_the_run_has_ended_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    follow_to_the_end(tmp_path, monkeypatch)
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[0])["queues"]["q"]["oldest"] == 2.5
    assert "stopped by SIGTERM (exit 143)" in err


@pytest.mark.parametrize("wrong", [{"host": "elsewhere"}, {"boot": "another"}])
def test_a_run_of_another_machine_is_listed_and_not_signalled(
    hold: Any, tmp_path: Path, command: Command, bystander: subprocess.Popen[bytes], wrong: dict[str, str]
) -> None:
    folder = hold(pid=bystander.pid, **wrong)
    host = wrong.get("host", os.uname().nodename)
    assert f"(process {bystander.pid} on {host})" in command(tmp_path, "ps").out
    outcome = command(tmp_path, "stop")
    assert outcome.exit == 2
    where = f"there it can be stopped: runner stop {folder.name} --state {tmp_path / '.runner'}"
    assert outcome.err == f"run {folder.name} is going on on {host}; {where}\n"


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"[]", b"\xff\xfe", b'{"runner":"0.1.0","version":1}\n{"event":"Progress"}\n']
)
def test_whatever_a_status_holds_the_run_is_listed(hold: Any, tmp_path: Path, command: Command, content: bytes) -> None:
    folder = hold()
    (folder / records.STATUS_FILE).write_bytes(content)
    shown = command(tmp_path, "ps")
    assert shown.exit == 0, shown
    assert shown.out.startswith(folder.name)
    assert command(tmp_path, "ps", "--json").json[0]["workers"] == []


def test_a_folder_that_others_may_write_is_refused(hold: Any, tmp_path: Path, command: Command) -> None:
    hold()
    (tmp_path / ".runner").chmod(0o777)
    for verb in ("ps", "top", "stop"):
        outcome = command(tmp_path, verb)
        assert outcome.exit == 3, outcome
        assert "other users may write" in outcome.err


ONLY_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@ONLY_ROOT
def test_a_folder_of_another_user_names_that_user_and_the_command(tmp_path: Path, command: Command) -> None:
    state = tmp_path / ".runner"
    state.mkdir(mode=0o700)
    os.chown(state, 65534, 65534)
    owner = pwd.getpwuid(65534).pw_name
    for verb in ("ps", "top", "stop"):
        outcome = command(tmp_path, verb)
        assert outcome.exit == 2, outcome
        assert outcome.err == (
            f".runner belongs to user {owner}, who alone sees its runs and ends them: "
            f"sudo -u {owner} runner {verb} --state {state}\n"
        )


@ONLY_ROOT
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")  # the child starts no thread
@pytest.mark.parametrize(("mode", "is_refused"), [(0o700, True), (0o755, False)])
def test_another_user_is_told_whose_run_it_is(mode: int, is_refused: bool) -> None:
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        state = Path(made) / ".runner"
        state.mkdir()
        state.chmod(mode)
        told, tell = os.pipe()
        if not (child := os.fork()):
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            try:
                running_runs.check_watched_folder(state, "ps")
            except UsageError as error:
                os.write(tell, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(tell)
        said = os.read(told, 4096).decode()
        os.close(told)
        assert ("belongs to user root, who alone sees its runs" in said) is is_refused


def test_where_nothing_can_be_written_the_run_and_ps_say_so_at_once(
    project: Any, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project({"tasks.toml": '[tasks.sleep]\ncall = "std.sleep"\nargs = [0]\nmode = "thread"\n'})
    (made.path / ".runner").write_text("a file is in the way", encoding="utf-8")
    outcome = made.run()
    assert outcome.exit == 0, outcome
    first = outcome.err.splitlines()[0]
    assert first.endswith(
        ".runner cannot be written (Not a directory): `runner ps`, `top` and `stop` do not see this run"
    )
    monkeypatch.setattr(os, "access", lambda *_: False)
    (made.path / ".runner").unlink()
    shown = command(made.path, "ps").out
    assert shown == (
        "no run is going on in .runner; it cannot be written, so a run here keeps no record and is not listed\n"
    )


def test_top_once_shows_tasks_queues_and_what_limits_the_run(project: Any, command: Command) -> None:
    made, running = begin(project)
    state = made.path / ".runner"
    wait_for(lambda: "take limits the run" in command(made.path, "top", "--once").out, 30)
    shown = command(made.path, "top", "--once")
    head, columns, *rows = shown.out.splitlines()
    assert head.startswith("Endless  ")
    assert columns.split()[0] == "task"
    assert [row.split()[0] for row in rows[:3]] == ["make", "numbers", "take"]
    found = command(made.path, "top", "--once", "--json").json
    assert found["progress"] == running_runs.find_running(state)[0].run
    assert found["tasks"]["take"]["state"] == "running"
    ended(running)


def test_top_follows_a_run_to_its_end(project: Any) -> None:
    made, running = begin(project)
    watching = made.start("--json", verb="top")
    line = json.loads(watching.process.stdout.readline())  # type: ignore[union-attr]
    assert line["title"] == "Endless"
    ended(running)
    outcome = watching.finish()
    assert outcome.exit == 0, outcome
    assert "stopped by Ctrl-C (exit 130)" in outcome.err
    assert outcome.err.rstrip().endswith("`make` had not ended")


@pytest.mark.slow
def test_the_end_of_watching_is_not_the_end_of_the_run(project: Any) -> None:
    made, running = begin(project)
    watching = made.start("--json", verb="top")
    watching.process.stdout.readline()  # type: ignore[union-attr]
    watching.process.send_signal(signal.SIGINT)
    outcome = watching.finish()
    assert outcome.exit == 0, outcome
    assert running.process.poll() is None
    ended(running)


@pytest.mark.slow
def test_a_daemon_that_a_task_has_forked_does_not_keep_the_run_going(project: Any) -> None:
    work = """
        import os, signal
        from pathlib import Path
        from runner import task

        @task
        def fork_daemon():
            if not (pid := os.fork()):
                signal.pause()
            Path("daemon").write_text(str(pid))
    """
    made = project({"tasks.toml": '[tasks.fork_daemon]\nmode = "thread"\n', "plugins/work.py": work})
    running = made.start()
    wait_for(lambda: (made.path / "daemon").exists() and (made.path / "daemon").read_text(), 30)
    running.process.wait(30)
    daemon = psutil.Process(int((made.path / "daemon").read_text()))
    try:
        assert daemon.is_running()
        assert running_runs.find_running(made.path / ".runner") == []
    finally:
        daemon.kill()
    assert running.finish().exit == 0


class FakeRecords:
    """Takes a status; `seconds` is how long that takes, `refuses` that the disk is full."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.seconds, self.refuses, self.watched = 0.0, False, False
        self.clock = 0.0

    def write_status(self, data: bytes) -> None:
        self.clock += self.seconds
        if self.refuses:
            raise OSError(28, "full")
        self.written.append(data)

    def is_watched(self) -> bool:
        return self.watched


def writings(kept: FakeRecords, seconds: float) -> int:
    """Count the writings of a run that tells how it is four times a second, behind the first one."""
    writer = status.StatusWriter(kept, lambda: kept.clock)  # type: ignore[arg-type]
    writer.handle_event(events.RunStarted(100.0, "run", "Title", ()))
    count = events.TaskCounts(0, 0, 0, 0, 0, 0, 1)
    before = len(kept.written)
    for tick in range(int(4 * seconds)):
        writer.handle_event(events.Progress(100.25 + tick / 4, {"take": count}, {}))
    return len(kept.written) - before


def test_a_status_is_written_once_a_second_and_more_often_while_it_is_watched() -> None:
    kept = FakeRecords()
    assert writings(kept, 20.0) == 20
    kept.watched = True
    assert writings(kept, 20.0) == 80


def test_a_run_is_watched_for_some_seconds(tmp_path: Path) -> None:
    folder = tmp_path / ".runner" / "runs" / "run"
    folder.mkdir(parents=True)
    kept = records.RecordFile(tmp_path / ".runner", "run")
    assert not kept.is_watched()
    running_runs.watch_run(folder)
    assert kept.is_watched()
    assert not kept.is_watched(records.RECORD_WATCHED_FILE)
    running_runs.watch_run(folder, record=True)
    assert kept.is_watched(records.RECORD_WATCHED_FILE)
    for seconds in (-records.WATCH_SECONDS, 3600):  # the clock of a file server may be another one
        os.utime(folder / records.WATCHED_FILE, (time.time() + seconds,) * 2)
        assert not kept.is_watched()
    running_runs.watch_run(folder)
    assert kept.is_watched()


def test_a_slow_or_full_disk_is_asked_less_often() -> None:
    kept = FakeRecords()
    kept.watched, kept.seconds = True, 0.1
    assert writings(kept, 40.0) <= 5  # of 40 s, 0.1 s each 10
    kept.seconds, kept.refuses, before = 0.0, True, len(kept.written)
    assert writings(kept, 40.0) == 0
    assert len(kept.written) == before


def test_a_status_is_what_the_run_has_told_last(tmp_path: Path) -> None:
    kept = FakeRecords()
    writer = status.StatusWriter(kept, lambda: kept.clock)  # type: ignore[arg-type]
    counts = {done: {"take": events.TaskCounts(done, 0, 0, 0, 0, 0, 1)} for done in range(10)}
    told = [
        events.RunStarted(100.0, "run", "Title", ("take",), plan=events.RunPlan(resolved="x" * 100)),
        events.Progress(101.0, counts[1], {}),
        events.WorkerProgress(101.5, "take", "take", 1.0, 9.0),
        events.WorkerProgress(101.6, "take", "take", 2.0, 9.0),
        events.RunStopping(102.0, "Ctrl-C", 112.0),
        events.Progress(103.0, counts[2], {"q": 5}),
    ]
    for event in told:
        writer.handle_event(event)
    found = status.parse_status(kept.written[-1].decode())
    assert [type(event).__name__ for event in found] == [
        "RunStarted", "WorkerProgress", "RunStopping", "Progress", "Progress",
    ]  # fmt: skip
    assert found[0].plan.resolved == ""  # type: ignore[attr-defined]
    assert found[1].done == 2.0  # type: ignore[attr-defined]
    assert found[-1].tasks["take"].done == 2  # type: ignore[attr-defined]
    watch = RunWatch(running_runs.RunningRun("run", tmp_path / "runs" / "run", run_lock.this_process(), ""))
    assert [*watch.new_events()] == []  # no status, no folder
