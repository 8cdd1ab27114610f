"""What is written: whole or nothing, one writer, pipes and devices, names, and JSON alone on standard output."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import std
from runner.std import targets

CALLS = ("open", "write", "fsync", "replace", "lseek", "ftruncate", "fchmod", "close", "unlink")


class Faulty:
    """`os` with one call that fails: the n-th of a name."""

    def __init__(self, name: str, number: int, code: int = errno.ENOSPC) -> None:
        self.name, self.number, self.code = name, number, code
        self.seen: Counter[str] = Counter()
        self.struck = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name != self.name:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.seen[name] += 1
            if self.seen[name] != self.number:
                return real(*args, **kwargs)
            self.struck = True
            if name == "close":
                real(*args, **kwargs)
            if name == "write":
                real(args[0], bytes(args[1])[:2])
            raise OSError(self.code, os.strerror(self.code))

        return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_run(path: Path, faulty: Any, monkeypatch: Any) -> tuple[int, str]:
    """Write four items through a sink whose system fails; how many it took, and how it ended."""
    taken, end = 0, ""
    with monkeypatch.context() as patch:
        patch.setattr(targets, "os", faulty)
        try:
            with std.WriteCsv(str(path)) as write:
                for number in range(4):
                    with contextlib.suppress(OSError):
                        write({"n": number})
                        taken += 1
        except OSError as error:
            end = str(error)
    return taken, end


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_whichever_call_fails_the_file_is_whole_or_as_it_was(call, there, tmp_path, monkeypatch):
    path, number = tmp_path / "out.csv", 0
    while True:
        number += 1
        path.unlink(missing_ok=True)
        if there:
            path.write_text("old\n")
        faulty = Faulty(call, number)
        taken, end = one_run(path, faulty, monkeypatch)
        now = path.read_text() if path.exists() else None
        whole = now == "n\n0\n1\n2\n3\n"
        assert whole or now == ("old\n" if there else None), (call, number, now)
        if not whole:
            assert end, f"{call} {number}: nothing is there, and nothing is said"
            assert "out.csv" in end
        elif taken < 4:
            raise AssertionError(f"{call} {number}: {taken} were taken")
        if call != "unlink":
            assert [name for name in names(tmp_path) if name != "out.csv"] == [], (call, number)
        for name in names(tmp_path):
            (tmp_path / name).unlink()
        if not faulty.struck:
            assert whole
            return


FULL = """
[queues]
n = {}
[tasks.src]
call = "std.range"
args = [0, 3000]
outputs = ["n"]
[tasks.write_lines]
with = { path = "small/out.txt" }
inputs = ["n"]
MORE
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", ["", "batch = 7", "ordered = true", "attempts = 2\nbackoff = { first = '1ms' }", 'on_error = "skip"']
)
def test_a_disk_that_is_really_full(more, project):
    made = project({"tasks.toml": FULL.replace("MORE", more)})
    script = (
        "mkdir small && mount -t tmpfs -o size=8k tmpfs small && echo old > small/out.txt && "
        f"{sys.executable} -m runner run tasks.toml; echo code $?; cat small/out.txt; ls -A small"
    )
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=made.path, capture_output=True, text=True, timeout=60, check=False
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr[:100]}")
    assert done.stdout == "code 1\nold\nout.txt\n", done
    assert "small/out.txt is not written, what was there before stays: No space left" in done.stderr


def test_a_full_disk_ends_a_run_with_1_and_names_what_is_lost(project, monkeypatch):
    import runner

    made = project({"tasks.toml": FULL.replace("MORE", "").replace("3000", "5"), "small/out.txt": "old\n"})
    monkeypatch.chdir(made.path)
    monkeypatch.setattr(targets, "os", Faulty("write", 3))
    result = runner.run("tasks.toml", quiet=True)
    assert (result.exit_code, result.dead) == (1, 3)
    assert "No space left" in result.tasks["write_lines"].why
    assert (made.path / "small/out.txt").read_text() == "old\n"
    assert sorted(letter["preview"] for letter in result.letters()) == ["2", "3", "4"]
    monkeypatch.setattr(targets, "os", Faulty("fsync", 1))
    result = runner.run("tasks.toml", quiet=True)
    assert (result.exit_code, result.dead) == (1, 0)
    assert names(made.path / "small") == ["out.txt"]


# -- one writer -------------------------------------------------------------------------------

TWO = """
[params]
b = "out.txt"
[queues]
a = {}
[tasks.range]
args = [0, 3]
outputs = ["a"]
[queues.b]
[tasks.more]
call = "std.range"
args = [100, 103]
outputs = ["b"]
[tasks.first]
call = "std.write_lines"
args = ["out.txt"]
inputs = ["a"]
[tasks.second]
call = "std.write_jsonl"
with = { path = "${b}" }
inputs = ["b"]
"""


@pytest.mark.slow
def test_two_writers_of_one_file_by_whatever_names(project, monkeypatch):
    import runner

    made = project({"tasks.toml": TWO, "sub/x": ""})
    monkeypatch.chdir(made.path)
    (made.path / "link").symlink_to("out.txt")
    (made.path / "here").symlink_to(".")
    for name in ("out.txt", "./out.txt", "sub/../out.txt", str(made.path / "out.txt"), "link", "here/out.txt"):
        with pytest.raises(runner.ConfigError, match=r"E317 tasks `first` and `second` both write the file"):
            runner.run("tasks.toml", params={"b": name}, quiet=True)
    assert runner.run("tasks.toml", params={"b": "OUT.txt"}, quiet=True).ok
    assert runner.run("tasks.toml", params={"b": "/dev/null"}, quiet=True).ok
    assert runner.run("tasks.toml", params={"b": "out.txt"}, skip=["second", "more"], quiet=True).ok


def test_within_a_run_a_file_is_begun_once(tmp_path):
    path = str(tmp_path / "out")
    for run in ("one", "two"):
        context = SimpleNamespace(run=run, stopping=False, batched=False)
        with std.WriteLines(path, context=context) as write:
            write(run)
        with pytest.raises(FileExistsError, match="an earlier worker of this run has written a part of this file"):
            std.WriteLines(path, context=context).__enter__()
        assert Path(path).read_text() == f"{run}\n"


def test_a_killed_writer_holds_nothing_whatever_its_number(tmp_path):
    path = tmp_path / "out"
    code = (
        "import os, sys\nfrom runner import std\n"
        f"write = std.WriteLines({str(path)!r}).__enter__()\nwrite('half')\nprint('there', flush=True)\n"
        "sys.stdin.read()\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
        with pytest.raises(FileExistsError, match="another worker is writing this file"):
            std.WriteLines(str(path)).__enter__()
    finally:
        writer.kill()
        writer.communicate()
    assert names(tmp_path) == [".out.part"]
    with std.WriteLines(str(path)) as write:
        write("whole")
    assert (names(tmp_path), path.read_text()) == (["out"], "whole\n")


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    path, refused, wrote = tmp_path / "out", [], []
    barrier = threading.Barrier(8)

    def writer(number: int) -> None:
        barrier.wait()
        for turn in range(20):
            try:
                with std.WriteLines(str(path)) as write:
                    write(f"{number} {turn}")
                    write("end")
                wrote.append(number)
            except FileExistsError:
                refused.append(number)

    threads = [threading.Thread(target=writer, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(wrote) + len(refused) == 160
    assert wrote
    assert path.read_text().endswith("\nend\n")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("planted", ["link", "fifo"])
def test_a_part_that_is_not_ours_is_left_alone(planted, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    part = tmp_path / ".out.part"
    if planted == "link":
        part.symlink_to(victim)
    else:
        os.mkfifo(part)
    with std.WriteLines(str(tmp_path / "out")) as write:
        write("a")
    assert victim.read_text() == "precious\n"
    assert (tmp_path / "out").read_text() == "a\n"
    assert names(tmp_path) == [".out.part", "out", "victim"]


# -- names, pipes, devices --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ö" * 127, "x" * 255, "😀" * 63, "a\nb", "a\udcff", " ", "-x", "a%s{}"])
def test_names(name, tmp_path):
    with std.WriteLines(str(tmp_path / name)) as write:
        write("a")
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == [name]


def test_two_long_names_are_two_files(tmp_path):
    one, other = (str(tmp_path / ("ö" * 126 + end)) for end in "ab")
    with std.WriteLines(one) as write, std.WriteLines(other) as writes:
        write("a")
        writes("b")
    assert (Path(one).read_text(), Path(other).read_text()) == ("a\n", "b\n")


PIPED = """
[queues]
a = {}
[tasks.range]
args = [0, 3]
outputs = ["a"]
[tasks.write_csv]
call = "std.write_lines"
with = { path = "PATH" }
inputs = ["a"]
"""


@pytest.mark.slow
def test_the_standard_output_by_its_other_names(project):
    made = project({"tasks.toml": PIPED.replace("PATH", "${out}") + '[params]\nout = "-"\n'})
    run = f"{sys.executable} -m runner run -q tasks.toml -p out="
    done = subprocess.run(
        ["bash", "-c", f"{run}/dev/stdout; {run}/dev/fd/3 3>&1 | cat"],
        cwd=made.path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n1\n2\n" * 2, "")


@pytest.mark.slow
def test_where_a_shell_leads_output(project):
    made = project({"tasks.toml": PIPED.replace("PATH", "${out}") + '[params]\nout = "-"\n'})
    (made.path / "link").symlink_to("/dev/stdout")
    run = f"{sys.executable} -m runner run -q tasks.toml -p out="
    script = f"""
{run}/dev/stdout 2>&1 | cat; {run}- > file; cat file; {run}/dev/stdout > file; cat file; {run}link 2>&1 | cat
{run}/dev/stderr 2>&1; {run}/dev/fd/3 3>&1 | cat; {run}/proc/self/fd/4 4> file; cat file; {run}>(cat > sub; echo end > ended)
until [ -e ended ]; do :; done; cat sub; mkfifo fifo; cat fifo & {run}fifo; wait
{run}- --log raw; {run}/dev/null; {run}- --json 2>/dev/null | {sys.executable} -c 'import json, sys; json.load(sys.stdin)'
"""
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=made.path,
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.stdout == "0\n1\n2\n" * 10, done
    assert done.stderr == ""


def test_a_descriptor_that_is_not_there_and_one_in_a_process(project):
    made = project(
        {
            "tasks.toml": PIPED.replace("PATH", "/dev/fd/77"),
            "plugins/p.py": "from runner import task\n@task\ndef reads(path): return path\n",
        }
    )
    outcome = made.run("tasks.toml")
    assert outcome.exit == 1, outcome
    assert "/dev/fd/77: runner was started without this descriptor" in outcome.err
    (made.path / "tasks.toml").write_text('[tasks.reads]\nargs = ["/dev/fd/63"]\n')
    outcome = made.run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert "`/dev/fd/63` is a descriptor of runner itself, and task `reads` runs in others" in outcome.err


def test_half_an_item_ends_a_pipe(tmp_path, monkeypatch):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        monkeypatch.setattr(targets, "os", Faulty("write", 2, errno.EIO))
        sink = std.WriteLines(f"/dev/fd/{writer}").__enter__()
        sink("one")
        for item in ("two", "three"):
            with pytest.raises(OSError, match="Input/output error"):
                sink(item)
        with pytest.raises(OSError, match="has not got everything"):
            sink.__exit__(None, None, None)
        assert os.read(reader, 100) == b"one\ntw"
    finally:
        os.close(reader)
        os.close(writer)


def test_mode_is_kept_and_what_may_not_be_written_is_not(tmp_path):
    path = tmp_path / "out"
    path.write_text("old\n")
    path.chmod(0o444)
    if os.geteuid() != 0:
        with pytest.raises(PermissionError, match="may not be written"):
            std.WriteLines(str(path)).__enter__()
    path.chmod(0o600)
    with std.WriteLines(str(path)) as write:
        write("a")
        assert {(tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path)} == {0o600}
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        std.WriteLines(str(loop)).__enter__()
    assert names(tmp_path) == ["loop", "out"]


# -- what an item may be ----------------------------------------------------------------------


class Deadly:
    """Its text ends the thread that asks for it."""

    def __str__(self) -> str:
        raise SystemExit

    def __fspath__(self) -> str:
        raise SystemExit


def test_an_item_that_cannot_be_written_leaves_no_trace(tmp_path):
    path = tmp_path / "out"
    with std.WriteJsonl(str(path)) as write:
        write({"a": 1})
        for bad in (
            float("inf"),
            "\ud800",
            b"x",
            {1},
            {1: 1, "1": 2},
            {"x": [{True: 1, "true": 2}]},
            {(1,): 2},
            Deadly(),
        ):
            with pytest.raises((ValueError, TypeError)):
                write(bad)
        write({1: 2})
    assert path.read_text() == '{"a": 1}\n{"1": 2}\n'
    with std.WriteCsv(str(path)) as write:
        for bad in ({}, {1: 1, "1": 2}, {"a": "\ud800"}, {"a": Deadly()}, {"other": "\ud800"}):
            with pytest.raises((ValueError, TypeError)):
                write(bad)
        write({"b": 1})  # the first that is written says what the columns are
    assert path.read_text() == "b\n1\n"


def test_columns_that_are_there_twice(project):
    for task, more in (("csv", 'outputs = ["a"]'), ("write_csv", 'inputs = ["a"]')):
        other = '[tasks.print]\ninputs = ["a"]' if task == "csv" else '[tasks.range]\nargs = [0, 1]\noutputs = ["a"]'
        text = (
            f'[queues]\na = {{}}\n[tasks.{task}]\nwith = {{ path = "x", fields = ["a", "b", "a"] }}\n{more}\n{other}\n'
        )
        outcome = project({"tasks.toml": text}).run("tasks.toml")
        assert (outcome.exit, "have `a` twice" in outcome.err) == (3, True), outcome
    with pytest.raises(ValueError, match="duplicate field 'a'"):
        std.WriteCsv("x", fields=["a", "a"])
    with pytest.raises(ValueError, match="duplicate field 'a'"):
        next(std.csv_rows(os.devnull, fields=["a", "a"]))


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(st.lists(JSON, max_size=4), st.integers(1, 3), st.data())
def test_what_is_written_is_read_again(values, columns, data):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "x"))
        with std.WriteJsonl(path) as write:
            for value in values:
                write(value)
        assert list(std.jsonl(path)) == values
        cells = TEXT.filter(lambda text: not text.startswith("\ufeff"))  # a mark at the beginning is none of the text
        fields = data.draw(st.lists(cells, min_size=columns, max_size=columns, unique=True))
        rows = data.draw(st.lists(st.fixed_dictionaries(dict.fromkeys(fields, TEXT)), max_size=4))
        with std.WriteCsv(path, fields=fields) as write:
            for row in rows:
                write(row)
        assert list(std.csv_rows(path)) == rows
        with Path(path).open(encoding="utf-8", newline="") as file:
            assert list(csv.DictReader(file, strict=True)) == rows or "\x00" in "".join(map(str, rows))


# -- JSON alone -------------------------------------------------------------------------------

NOISY = """
import atexit, ctypes, os, subprocess, sys
from sys import stdout
from runner import task

os.write(1, b"a banner\\n")
subprocess.run(["echo", "of a child"])
ctypes.CDLL(None).printf(b"of C\\n")
print("of Python", file=sys.__stdout__)
atexit.register(lambda: os.write(1, b"at the end\\n"))
taken = os.dup(1)

@task
def noise():
    stdout.write("taken\\n")
    os.write(taken, b"taken\\n")
    subprocess.run(["echo", "of a child"])
    print("printed")
"""


@pytest.mark.parametrize("mode", ["thread", pytest.param("process", marks=pytest.mark.slow)])
def test_json_and_nothing_else(mode, project):
    made = project({"tasks.toml": f'[tasks.noise]\nmode = "{mode}"\n', "plugins/noisy.py": NOISY})
    commands = [
        ["run", "--json"],
        ["run", "--json", "--log", "raw"],
        *(
            []
            if mode == "process"
            else [["list", "functions", "--json"], ["list", "runs", "--json"], ["check", "--format", "json"]]
        ),
        ["report", "--json", "--trace", "trace.json"],
    ]
    for command in commands:
        verb, *args = command
        outcome = made.run(*args, verb=verb)
        assert outcome.exit == 0, outcome
        assert json.loads(outcome.out) is not None, command


# -- planted bugs -----------------------------------------------------------------------------


def test_planted_no_sync_error_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "_sync_file", lambda fd: contextlib.suppress(OSError).__enter__() or _tries(fd))
    path = tmp_path / "out.csv"
    faulty = Faulty("fsync", 1)
    _, end = one_run(path, faulty, monkeypatch)
    assert not end
    assert path.exists()  # which the matrix above would not accept of a failed sync: nothing was said


def _tries(fd: int) -> None:
    with contextlib.suppress(OSError):
        targets.os.fsync(fd)


def test_planted_a_part_without_a_lock_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "_lock_file", lambda fd: None)
    let_in = []
    with contextlib.suppress(OSError), std.WriteLines(str(tmp_path / "out")) as write:
        write("a")
        with std.WriteLines(str(tmp_path / "out")) as other:
            let_in.append(other)  # which the tests above take for a fault
    assert let_in
