"""The state folder under a hostile or full disk, terminal escapes, secrets: what others decide of what runner does."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

import runner
from runner import runs
from runner.cli import app, streams
from runner.errors import UnsafeFolder
from runner.report.log import LineSplitter
from runner.secret_masks import SecretMask
from runner.store import dead_letters as store
from runner.store import records, run_folders

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
FOREIGN = 64111

FILE = """
    [queues]
    n = {}

    [tasks.src]
    call    = "std.range"
    mode    = "thread"
    args    = [0, 5]
    outputs = ["n"]

    [tasks.work]
    mode    = "thread"
    inputs  = ["n"]
"""
WORK = """
    from runner import task

    @task
    def work(n):
        raise ValueError("x" * 5000)
"""
BALANCE = "5 read = 0 done + 5 dead + 0 dropped + 0 left"


@pytest.fixture
def made(project, monkeypatch):
    made = project({"tasks.toml": FILE, "plugins/work.py": WORK})
    monkeypatch.chdir(made.path)
    return made


def command(*args: str, capfd: Any, monkeypatch: Any) -> SimpleNamespace:
    """The command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["runner", *args])
    code = app.main()
    streams.restore_stdout()
    out, err = capfd.readouterr()
    return SimpleNamespace(exit=code, out=out, err=err)


# -- a disk that takes no more ----------------------------------------------------------------


class Failing:
    """`os` for the store: the n-th call that changes the disk fails, after half of what was to be written."""

    calls = ("mkdir", "open", "write", "rename", "unlink", "rmdir")

    def __init__(self, at: int, number: int) -> None:
        self.left, self.number = at, number

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *args, **named: self.call(name, real, args, named)) if name in self.calls else real

    def call(self, name: str, real: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self.left -= 1
        if self.left == 0:
            if name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            raise OSError(self.number, os.strerror(self.number))
        return real(*args, **named)


def kept_letters(made: Any) -> int:
    found = store.runs_with_dead_letters(made.path / ".runner")
    assert len(found) <= 1
    return sum(1 for _ in store.read_letters(store.find_dead_letters(made.path / ".runner"))) if found else 0


def check_failing(made: Any, capfd: Any, monkeypatch: Any, number: int, step: int = 1) -> int:
    """Fail one call of each `step`, the first, the next, ... until a run passes; how many there were."""
    for at in range(1, 500, step):
        shutil.rmtree(made.path / ".runner", ignore_errors=True)
        failing = Failing(at, number)
        monkeypatch.setattr(run_folders, "os", failing)
        result = runner.run("tasks.toml")
        monkeypatch.setattr(run_folders, "os", os)
        said = capfd.readouterr().err
        assert result.exit_code == 4, said
        assert BALANCE in said, said
        lost = re.search(r"(\d+) of 5 dead letters cannot be written to .*: ", said)
        assert kept_letters(made) == 5 - (int(lost[1]) if lost else 0), said
        assert len(records.recorded_runs(made.path / ".runner")) == (
            "the record of this run cannot be kept" not in said
        ), said
        assert not list((made.path / ".runner").rglob("*.new"))
        if failing.left > 0:
            return at - 1
    return 500


@pytest.mark.parametrize(
    ("number", "step"),
    [(errno.ENOSPC, 3), *(pytest.param(number, 1, marks=pytest.mark.slow) for number in (errno.ENOSPC, errno.EIO))],
)
def test_whatever_the_disk_refuses_the_run_ends_well_and_says_what_it_kept(made, capfd, monkeypatch, number, step):
    assert 15 < check_failing(made, capfd, monkeypatch, number, step) < 200


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
@pytest.mark.parametrize(
    ("size", "mode"),
    [
        ("8k", "thread"),
        ("16k", "process"),
        pytest.param("8k", "process", marks=pytest.mark.slow),
        pytest.param("16k", "thread", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(made, mode, size):
    text = (made.path / "tasks.toml").read_text().replace('mode    = "thread"', f'mode = "{mode}"')
    (made.path / "tasks.toml").write_text(text)
    script = f"mkdir .runner; mount -t tmpfs -o size={size} tmpfs .runner && {sys.executable} -m runner run"
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script], cwd=made.path, capture_output=True, text=True, timeout=60
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 4, done.stderr
    assert BALANCE in done.stderr
    assert "dead letters cannot be written to" in done.stderr


@pytest.mark.parametrize("state", ["x" * 300, "tasks.toml/x/y", "/proc/nowhere/x"])
def test_a_folder_that_cannot_be(made, capfd, state):
    assert runner.run("tasks.toml", set={"run.state": state}).exit_code == 4
    said = capfd.readouterr().err
    assert BALANCE in said
    assert "the record of this run cannot be kept" in said
    assert "5 of 5 dead letters cannot be written to" in said


def test_a_folder_that_is_removed_meanwhile(made, capfd):
    work = """
        import shutil
        from runner import task

        @task
        def work(n):
            if n == 3:
                shutil.rmtree(".runner")
            raise ValueError(n)
    """
    made.write({"plugins/work.py": work})
    assert runner.run("tasks.toml").exit_code == 4
    said = capfd.readouterr().err
    assert "5 of 5 dead letters cannot be written to" in said
    assert "runner dead list" not in said


# -- a folder in which others write -----------------------------------------------------------


def hostile(kind: str, state: Any, victim: Any) -> None:
    state.mkdir(mode=0o700)
    part = state / "runs" if kind.startswith("runs") else state
    if kind.endswith(("link", "fifo")) and part == state:
        state.rmdir()
    if kind.endswith("link"):
        part.symlink_to(victim)
    elif kind.endswith("fifo"):
        os.mkfifo(part)
    else:
        part.mkdir(mode=0o700, exist_ok=True)
        if kind.endswith("foreign"):
            os.chown(part, FOREIGN, FOREIGN)
        else:
            part.chmod(0o777 if kind.endswith("all") else 0o770)


KINDS = [
    "link", "fifo", "all", "group", "runs link", "runs fifo", "runs all",
    pytest.param("foreign", marks=ROOT_ONLY), pytest.param("runs foreign", marks=ROOT_ONLY),
]  # fmt: skip


def check_refused(made: Any, kind: str) -> None:
    victim = made.path / "victim"
    victim.mkdir()
    hostile(kind, made.path / ".runner", victim)
    with pytest.raises(UnsafeFolder) as refused:
        runner.run("tasks.toml")
    assert str(refused.value).count("\n") == 0
    assert UnsafeFolder.exit_code == 3
    assert not list(victim.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_others_is_refused_and_never_followed(made, capfd, kind):
    check_refused(made, kind)
    with pytest.raises(UnsafeFolder):
        records.recorded_runs(made.path / ".runner")
    capfd.readouterr()
    assert runner.run("tasks.toml", set={"run.record": 0}).exit_code == 4, "the letters are told to be lost"
    assert "5 of 5 dead letters cannot be written to" in capfd.readouterr().err
    assert not list((made.path / "victim").iterdir())


def test_links_inside_it_are_never_followed(made, capfd):
    victim = made.path / "victim"
    victim.write_text("mine")
    runner.run("tasks.toml")
    (old,) = records.recorded_runs(made.path / ".runner")
    for name in ("record.json", "dead.jsonl"):
        (made.path / ".runner/runs" / old / name).unlink()
        (made.path / ".runner/runs" / old / name).symlink_to(victim)
    (made.path / ".runner/.gitignore").unlink()
    (made.path / ".runner/.gitignore").symlink_to(made.path / "planted")
    (made.path / ".runner/runs/20200101-x").symlink_to("/etc")
    assert runner.run("tasks.toml").exit_code == 4
    assert victim.read_text() == "mine"
    assert not (made.path / "planted").exists()
    for found in (records.find_record(made.path / ".runner", old), store.find_dead_letters(made.path / ".runner", old)):
        with pytest.raises(UnsafeFolder, match="is a link"):
            run_folders.open_run_file(found)
    assert "cannot" not in capfd.readouterr().err


def test_what_a_run_keeps_is_its_owners_alone_whatever_the_umask(made):
    before = os.umask(0)
    try:
        runner.run("tasks.toml")
    finally:
        os.umask(before)
    for path in [made.path / ".runner", *(made.path / ".runner").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_as_tmp_is_may_be_used(made, capfd):
    (made.path / ".runner").mkdir()
    (made.path / ".runner").chmod(0o1777)
    assert runner.run("tasks.toml").exit_code == 4
    assert kept_letters(made) == 5
    capfd.readouterr()


# -- several runs in one folder ---------------------------------------------------------------


def check_run_ids(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(runs.time, "strftime", lambda _: "20261129-120000-")
    assert len({runs._run_id() for _ in range(1000)}) == 1000


def test_runs_of_one_second_and_pid_have_ids_of_their_own(monkeypatch):
    check_run_ids(monkeypatch)


def test_a_run_that_goes_on_elsewhere_is_not_pruned(tmp_path):
    state = tmp_path / ".runner"
    with closing(records.RecordFile(state, "20260101-000000-a")) as there:
        there.mark_running()
        there.write_record('{"pid": 999999999, "began": 1.0}')  # of another container: nobody here has that pid
        here = records.RecordFile(state, "20260101-000001-b")
        here.write_record("{}")
        here.prune_old_records(1)
        (path,) = [state / "runs" / run / "record.json" for run in records.recorded_runs(state)[:1]]
        assert records.is_going_on(path, records.read_unchecked(path))
    assert not records.is_going_on(path, records.read_unchecked(path))
    here.prune_old_records(1)
    assert records.recorded_runs(state) == ["20260101-000001-b"]
    assert [each.name for each in (state / "runs").iterdir()] == ["20260101-000001-b"]


# -- what others have written there -----------------------------------------------------------

GARBAGE = {
    "nothing": b"",
    "cut": b'{"run": "x", "title": "T',
    "binary": bytes(range(256)) * 40,
    "deep": b"[" * 200_000,
    "numbers": b"9" * 100_000,
    "odd": json.dumps(
        {"pid": True, "began": 1e400, "seconds": {}, "title": ["\x1b"], "balance": {"read": [1]}, "exit_code": "x"}
    ).encode(),
    "long": b'{"title": "' + b"x" * 5_000_000 + b'"}',
}


@pytest.mark.slow
def test_old_records_that_are_none_stop_nothing(made, capfd, monkeypatch):
    for name, data in GARBAGE.items():
        with run_folders.open_run_folder(made.path / ".runner", name, make=True) as at:
            for file in ("record.json", "dead.jsonl"):
                run_folders.replace_file(at, file, data)
    assert runner.run("tasks.toml", set={"run.record": 30}).exit_code == 4
    capfd.readouterr()
    given = {"capfd": capfd, "monkeypatch": monkeypatch}
    listed = command("list", "runs", **given)
    assert (listed.exit, len(listed.out.splitlines())) == (0, len(GARBAGE) + 1)
    assert command("list", "runs", "--json", **given).exit == 0
    for name in GARBAGE:
        assert command("report", name, "--json", **given).exit == 2, name
        assert command("dead", "list", name, **given).exit == 0, name
    assert command("report", "--json", **given).exit == 0
    assert command("dead", "list", **given).out.count("ValueError") == 6
    assert runner.run("tasks.toml", set={"run.record": 1}).exit_code == 4
    assert len(records.recorded_runs(made.path / ".runner")) == 1


# -- terminals --------------------------------------------------------------------------------

ESCAPES = "\x1b]0;t\x07\x1b[31m\x9b2J\u202e\u200b\x85"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
EVIL = "x" + ESCAPES
HOSTILE = f"""
    title = {json.dumps("T" + ESCAPES + chr(10) + "T  ended in 1s")}
    [params]
    p = {{ default = {json.dumps(EVIL)}, help = {json.dumps(EVIL)} }}
    [queues]
    q = {{}}
    [tasks.src]
    mode = "thread"
    help = {json.dumps(EVIL)}
    with = {{ x = "${{p}}" }}
    outputs = ["q"]
    [tasks.bad]
    mode = "thread"
    inputs = ["q"]
"""
HOSTILE_WORK = f"""
    import os
    from runner import task

    with open("imported", "a") as file:
        file.write("x")

    @task
    def src(*, x: str = {EVIL!a}):
        {EVIL!a}
        yield x

    @task
    def bad(item):
        raise ValueError(item + chr(10) + "T  ended in 1s   9 read = 9 done")
"""
READING = [
    [], ["show"], ["show", "--origins"], ["check", "--static"], ["graph"],
    *(["graph", "--format", each] for each in ("mermaid", "dot", "svg")), ["graph", "--run", "last"],
    ["list", "tasks"], ["list", "params"], ["list", "runs"], ["list", "runs", "--json"],
    ["dead", "list"], ["dead", "show"], ["dead", "export"], ["report"], ["report", "--json"],
    ["run", "--help-params"],
]  # fmt: skip
LOADING = [["check"], ["run", "-n"], ["list", "functions"], ["list", "plugins"], ["run", "-v"], ["run", "--json"]]
WRONG = [
    [EVIL], ["run", EVIL], ["run", f"--{EVIL}"], ["list", EVIL], ["dead", EVIL], ["new", EVIL], ["new", "job", EVIL],
    ["run", "-p", f"{EVIL}=1"], ["run", "--set", f"{EVIL}=1"], ["run", "--grace", EVIL], ["run", "--progress", EVIL],
    ["run", "-t", EVIL], ["run", "--events", f"/nowhere/{EVIL}"], ["run", "--html", f"/nowhere/{EVIL}"],
    ["check", f"{EVIL}.toml"], ["check", "--format", EVIL], ["check", "--format", "github", "evil.toml"],
    ["check", "evil.toml"], ["graph", "--run", EVIL], ["dead", "list", EVIL], ["dead", "show", "last", EVIL],
    ["report", EVIL], ["report", "--events", EVIL], ["report", "--html", f"/nowhere/{EVIL}"], ["explain", EVIL],
    ["schema", EVIL], ["list", "runs", "--state", EVIL], ["dead", "list", "--state", EVIL], [f"--{EVIL}"],
]  # fmt: skip


@pytest.fixture
def evil(project, monkeypatch):
    made = project(
        {"tasks.toml": HOSTILE, "plugins/work.py": HOSTILE_WORK, "evil.toml": f"[tasks.a]\n{json.dumps(EVIL)} = 1\n"}
    )
    (made.path / f"plugins/b{EVIL}.py").write_text(f"raise ImportError({EVIL!r})")
    monkeypatch.chdir(made.path)
    return made


def check_harmless(evil: Any, capfd: Any, monkeypatch: Any) -> None:
    given = {"capfd": capfd, "monkeypatch": monkeypatch}
    first = command("run", **given)
    assert first.exit == 4, first.err
    assert sum(line.startswith("T") and "ended in" in line for line in first.err.splitlines()) == 1
    (evil.path / "imported").unlink()
    for args in [*READING, *WRONG, *LOADING]:
        done = command(*args, **given)
        assert done.exit not in {1, 70}, (args, done.err)
        for stream in (done.out, done.err):
            assert not STEERS.search(stream), (args, ascii(stream))
        assert args not in READING or not (evil.path / "imported").exists(), f"{args} has executed something"
        (evil.path / "imported").unlink(missing_ok=True)


def test_no_command_shows_what_steers_a_terminal_and_reading_executes_nothing(evil, capfd, monkeypatch):
    check_harmless(evil, capfd, monkeypatch)


def test_on_a_terminal_too_also_what_tasks_print(project):
    made = project({"tasks.toml": HOSTILE, "plugins/work.py": HOSTILE_WORK.replace("yield x", "print(x); yield x")})
    master, slave = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "runner", "run"], cwd=made.path, stdout=slave, stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # Linux says so of the end
        pass
    os.close(master)
    assert process.wait(60) == 4
    ours = re.sub(rb"\x1b\[[0-9;]*[mAKJ]|\r", b"", shown).decode()
    assert not STEERS.search(ours.replace("\n", "")), ascii(ours)
    assert r"\x9b2J\u202e\u200b\x85" in ours


def test_output_for_programs_stays_as_it_is_and_colours_end_on_a_terminal():
    line = "\x1b[31m\u202e\x9bred\n".encode()
    assert LineSplitter().feed(line) == [line]
    assert LineSplitter(raw=True, terminal=True).feed(line) == [line]
    assert LineSplitter(terminal=True).feed(line) == [b"\x1b[31m\\u202e\\x9bred\x1b[0m\n"]
    persian = "می‌خواهم\n".encode()
    assert LineSplitter(terminal=True).feed(persian) == [persian]


# -- secrets ----------------------------------------------------------------------------------

SECRET = 'p"w d/ü§\\'
SECRETS = f"""
    [params]
    token = {{ default = {json.dumps(SECRET)}, secret = true }}
    keys  = {{ default = ["alpha-key", "beta-key"], secret = true }}
    num   = {{ default = 987654, secret = true }}
    [queues]
    q = {{}}
    [tasks.src]
    mode = "MODE"
    with = {{ t = "https://u:${{token}}@h", k = "${{keys}}", n = "${{num}}" }}
    outputs = ["q"]
    [tasks.bad]
    mode = "MODE"
    inputs = ["q"]
    with = {{ t = "${{token}}" }}
    [tasks.ret]
    mode = "MODE"
    with = {{ t = "${{token}}", n = "${{num}}" }}
    [tasks.fails]
    mode = "MODE"
    with = {{ t = "${{token}}" }}
"""
SECRETS_WORK = """
    import json, urllib.parse
    from runner import Context, task

    @task
    def src(t, k, n):
        print("printed", t, k, n)
        yield from [t, *k, n, json.dumps({"t": t}), urllib.parse.quote(t), urllib.parse.quote_plus(t)]

    @task
    def bad(item, t):
        if isinstance(item, str) and item.startswith("alpha"):
            with open("sink.txt", "a") as file:
                file.write(f"{item} {t}")
            return
        raise ValueError(f"{item} {item!r} {t!r} {json.dumps(t)}")

    @task
    def ret(t, n, context: Context):
        context.log.warning("logged %s", t)
        return {"t": t, "n": n}

    @task
    def fails(t):
        raise OSError(t)
"""
LEAKS = re.compile(r'p\\*"w d|p%22w|alpha-key|beta-key|987654')


def check_secrets(project: Any, mode: str) -> None:
    text = SECRETS.replace("MODE", mode)
    made = project({"tasks.toml": text, "plugins/work.py": SECRETS_WORK})
    done = made.run("--events", "events.jsonl", "--json", "--report", "-v")
    assert done.exit == 1
    assert "***" in done.err
    assert LEAKS.search((made.path / "sink.txt").read_text()), "what a function is given is what the file says"
    for said in (done.out, done.err, made.run(verb="show").out, made.run("export", verb="dead").out):
        assert not LEAKS.search(said), said
    for path in [made.path / "events.jsonl", *(made.path / ".runner").rglob("*.*")]:
        assert path.is_dir() or not LEAKS.search(path.read_text(errors="replace")), path


@pytest.mark.parametrize("mode", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_a_secret_is_nowhere_but_in_functions(project, mode):
    check_secrets(project, mode)


@pytest.mark.slow
def test_thousands_of_secrets_cost_no_more_than_reading_the_text():
    mask = SecretMask(f"secret-{number:05}" for number in range(3000))
    text = "a secret-02999, a secret-0299 and secrets " * 2000
    assert mask(text) == text.replace("secret-02999", "***")
    assert mask.mask_bytes(b"secret-00001\n\xff") == b"***\n\xff"


def test_many_secrets_and_many_mistakes_in_one_file(project):
    params = "".join(f's{number} = {{ default = "secret-{number:05}", secret = true }}\n' for number in range(1500))
    made = project({"tasks.toml": f"[params]\n{params}[tasks.a]\n{''.join(f'x{n} = 1{chr(10)}' for n in range(199))}"})
    done = made.run("--static", verb="check", timeout=30)  # it was minutes
    assert done.exit == 3
    assert "secret-0" not in done.out


# -- env --------------------------------------------------------------------------------------


def test_env_of_a_thread_task_is_refused_wherever_its_mode_comes_from(project):
    work = """
        import os
        from runner import task

        @task(mode="thread")
        def one(): print(os.environ.get("LEVEL"))

        @task(mode="thread", env={"LEVEL": "3"})
        def two(): pass
    """
    for text in ('[tasks.one]\nenv = { LEVEL = "3" }', "[tasks.two]", '[tasks.one]\nmode = "thread"\nenv = {A = "b"}'):
        done = project({"tasks.toml": text, "plugins/work.py": work}).run()
        assert (done.exit, done.err.count(" E214 ")) == (3, 1), done
    text = '[defaults.task]\nenv = { LEVEL = "3" }\n[tasks.one]'
    assert project({"tasks.toml": text, "plugins/work.py": work}).run().out == "one | None\n"


# -- planted bugs -----------------------------------------------------------------------------


def check_noticed(check: Any) -> None:
    """The check fails: then it would have found the mistake."""
    try:
        check()
    except (AssertionError, pytest.fail.Exception):
        return
    pytest.fail("a planted bug was not noticed")


def test_planted_a_folder_that_is_only_looked_at_by_its_path(made, monkeypatch, capfd):
    monkeypatch.setattr(run_folders, "_refuse_foreign", lambda *_: None)
    check_noticed(lambda: check_refused(made, "all"))
    capfd.readouterr()


def test_planted_a_way_through_links(made, monkeypatch, capfd):
    monkeypatch.setattr(run_folders, "_DIRECTORY", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    check_noticed(lambda: check_refused(made, "runs link"))
    capfd.readouterr()


def test_planted_run_ids_of_time_and_pid(monkeypatch):
    monkeypatch.setattr(runs, "_run_id", lambda: f"{runs.time.strftime('%Y')}{os.getpid():x}")
    check_noticed(lambda: check_run_ids(monkeypatch))


@pytest.mark.slow
def test_planted_letters_that_are_lost_in_silence(made, monkeypatch, capfd):
    monkeypatch.setattr(store.DeadLetterFile, "write_error", "")
    check_noticed(lambda: check_failing(made, capfd, monkeypatch, errno.ENOSPC))
    capfd.readouterr()


def test_planted_a_stream_that_passes_everything(evil, monkeypatch, capfd):
    monkeypatch.setattr(streams, "printable_text", lambda text: text)
    check_noticed(lambda: check_harmless(evil, capfd, monkeypatch))
    capfd.readouterr()
