"""The plugin `std`: sources, sinks, commands; by themselves, and in runs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from runner import std
from runner.plugins import PluginSet
from runner.std.shell import CommandFailed, CommandTimedOut, fill_template
from runner.tasks import inspect_shape

pytestmark = pytest.mark.usefixtures("short_diffs")


@pytest.fixture
def put(tmp_path):
    def write(data: bytes | str, name: str = "in.txt") -> str:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    return write


# --- lines -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\n\n", ["", ""]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b"a\rb\x0bc\xe2\x80\xa8d\n", ["a\rb\x0bc\u2028d"]),
        ("bäcker\n".encode(), ["bäcker"]),
    ],
)
def test_lines(put, data, expected):
    assert list(std.lines(put(data))) == expected


def test_lines_with_ends_without_empty_ones_and_in_other_encodings(put):
    assert list(std.lines(put("a\r\n\nb"), keep_ends=True)) == ["a\r\n", "\n", "b"]
    assert list(std.lines(put("a\n\r\n\nb"), skip_empty=True)) == ["a", "b"]
    assert list(std.lines(put("ä\nö\n".encode("latin-1")), encoding="latin-1")) == ["ä", "ö"]
    assert list(std.lines(put("ä\nö".encode("utf-16")), encoding="utf-16")) == ["ä", "ö"]
    assert list(std.lines(put("ä\nਊ\n".encode("utf-16-le")), encoding="utf-16-le")) == ["ä", "ਊ"]


def test_bytes_that_are_no_text_are_named_by_file_line_and_place(put):
    path = put(b"good\nb\xffd\n")
    read = std.lines(path)
    assert next(read) == "good"
    with pytest.raises(ValueError, match=rf"{path}:2: byte 2 of the line, 0xff, is not valid utf-8; .*encoding"):
        next(read)
    assert list(std.lines(path, errors="replace")) == ["good", "b\ufffdd"]


def test_lines_that_cannot_be(put, tmp_path):
    with pytest.raises(ValueError, match=r":2: a line of more than 10 bytes; `most` allows longer ones"):
        list(std.lines(put("0123456789\n0123456789x\n"), most=10))
    with pytest.raises(ValueError, match=r"unknown encoding 'utf-9'"):
        list(std.lines(put("x"), encoding="utf-9"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        list(std.lines(str(tmp_path / "nowhere.txt")))
    with pytest.raises(IsADirectoryError):
        list(std.lines(str(tmp_path)))


# --- csv, jsonl, glob, range -----------------------------------------------------------------------------------------


def test_csv(put):
    path = put(b'\xef\xbb\xbfname,note\r\nAnna,"a, ""b""\r\nc"\r\n\r\nBo,\r\n')
    assert list(std.csv_rows(path)) == [{"name": "Anna", "note": 'a, "b"\r\nc'}, {"name": "Bo", "note": ""}]
    assert list(std.csv_rows(put("1;2\n3;4"), fields=["x", "y"], delimiter=";")) == [
        {"x": "1", "y": "2"},
        {"x": "3", "y": "4"},
    ]
    assert list(std.csv_rows(put(""))) == []
    assert list(std.csv_rows(put("x" * 200_000 + "\n"), fields=["x"])) == [{"x": "x" * 200_000}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n3\n", r":3: 1 values, but there are 2 fields"),
        ("a,b\n1,2,3\n", r":2: 3 values, but there are 2 fields"),
        ("a,a\n1,2\n", r":1: duplicate field 'a'"),
        ('a,b\n1,"2\n3,4\n', r":3: invalid CSV: unexpected end of data"),
    ],
)
def test_csv_that_is_none(put, text, says):
    path = put(text)
    with pytest.raises(ValueError, match=path + says):
        list(std.csv_rows(path))


def test_jsonl(put):
    assert list(std.jsonl(put('{"a": 1}\n\n[null, "ä"]\r\n7'))) == [{"a": 1}, [None, "ä"], 7]
    path = put('{"a": 1}\n{"a": }\n')
    read = std.jsonl(path)
    assert next(read) == {"a": 1}
    with pytest.raises(ValueError, match=rf"{path}:2: invalid JSON: Expecting value"):
        next(read)
    with pytest.raises(ValueError, match=r":1: invalid JSON: nested too deeply"):
        list(std.jsonl(put("[" * 200_000)))


def test_glob(tmp_path):
    for name in ("b.png", "a.png", "c.txt", "sub/d.png", "sub/deep/e.png", ".hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()

    def found(pattern, **more):
        return list(std.glob_paths(pattern, root=str(tmp_path), **more))

    assert found("*.png") == ["a.png", "b.png"]
    assert found("**/*.png") == ["a.png", "b.png", "sub/d.png", "sub/deep/e.png"]
    assert found("*.png", files_only=False) == ["a.png", "b.png", "folder.png"]
    assert found("*.png", hidden=True) == [".hidden.png", "a.png", "b.png"]
    assert sorted(found("*.png", sort=False)) == ["a.png", "b.png"]
    with pytest.raises(NotADirectoryError, match="the folder does not exist"):
        list(std.glob_paths("*", root=str(tmp_path / "nowhere")))


def test_range():
    assert list(std.numbers(0, 3)) == [0, 1, 2]
    assert list(std.numbers(3, 0, -2)) == [3, 1]


# --- sinks -----------------------------------------------------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_nothing_stands_under_the_name_before_the_end(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old\n")
    with std.WriteLines(str(path)) as write:
        write("a")
        write(7)
        assert path.read_text() == "old\n"
        assert len(names(tmp_path)) == 2
    assert path.read_text() == "a\n7\n"
    assert names(tmp_path) == ["out.txt"]


def test_without_items_there_is_an_empty_file(tmp_path):
    with std.WriteLines(str(tmp_path / "a")):
        pass
    with std.WriteCsv(str(tmp_path / "b"), fields=["x", "y"]):
        pass
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("", "x,y\n")


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old\n")
    write = std.WriteLines(str(path)).__enter__()
    write("new")
    write.__exit__(RuntimeError, RuntimeError(), None)
    assert path.read_text() == "old\n"
    assert names(tmp_path) == ["out.txt"]


def test_a_csv_file_that_is_kept_has_its_head_however_little_came(tmp_path):
    stopped = SimpleNamespace(stopping=True)
    with std.WriteCsv(str(tmp_path / "out.csv"), fields=["n"], partial=True, context=stopped):
        pass
    assert (tmp_path / "out.csv").read_text() == "n\n"


@pytest.mark.parametrize(("partial", "expected"), [(False, []), (True, ["out.txt"])])
def test_a_run_that_is_cut_short_leaves_nothing_unless_it_is_asked_to(tmp_path, capsys, partial, expected):
    context = SimpleNamespace(stopping=False, batched=False)
    with std.WriteLines(str(tmp_path / "out.txt"), partial=partial, context=context) as write:
        write("a")
        context.stopping = True
    assert names(tmp_path) == expected
    assert ("is not written: the run was stopped" in capsys.readouterr().err) == (not partial)


def test_a_full_disk_leaves_no_half_items(tmp_path, monkeypatch):
    real, calls = os.write, []

    def full(fd, data):
        calls.append(1)
        if len(calls) == 2:
            return real(fd, data[:2])
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    path = tmp_path / "out.txt"
    again = SimpleNamespace(stopping=False, tried_again=lambda error: True)
    with std.WriteLines(str(path), context=again) as write:
        monkeypatch.setattr(os, "write", full)
        write("first")
        with pytest.raises(OSError, match=r"out\.txt: No space left"):
            write("second")
        write("third")
    assert path.read_text() == "first\nthird\n"


def test_mode_and_link_are_kept(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.touch()
    real.chmod(0o640)
    link.symlink_to("real.txt")
    with std.WriteLines(str(link)) as write:
        write("a")
    assert link.is_symlink()
    assert real.read_text() == "a\n"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    old = os.umask(0o027)
    try:
        with std.WriteLines(str(tmp_path / "new.txt")):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new.txt").stat().st_mode) == 0o640


def test_places_where_nothing_can_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; make it first"):
        std.WriteLines(str(tmp_path / "nowhere" / "x")).__enter__()
    with pytest.raises(IsADirectoryError, match="this is a folder"):
        std.WriteLines(str(tmp_path)).__enter__()
    with std.WriteLines("/dev/null") as write:
        write("a")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_second_writer_of_one_file_is_refused(tmp_path):
    path = str(tmp_path / "out.txt")
    with std.WriteLines(path) as write:
        write("a")
        with pytest.raises(FileExistsError, match="another worker is writing this file"):
            std.WriteLines(path).__enter__()
    assert names(tmp_path) == ["out.txt"]
    assert Path(path).read_text() == "a\n"


def test_what_a_killed_run_left_is_swept(tmp_path):
    (tmp_path / ".out.txt.part").write_text("left")
    with std.WriteLines(str(tmp_path / "out.txt")):
        pass
    assert names(tmp_path) == ["out.txt"]
    assert (tmp_path / "out.txt").read_text() == ""


def test_lines_that_would_not_be_one(tmp_path):
    with std.WriteLines(str(tmp_path / "x")) as write:
        with pytest.raises(ValueError, match="would be two lines"):
            write("a\nb")
        with pytest.raises(TypeError, match="not dict; `write_jsonl`"):
            write({})
    with pytest.raises(ValueError, match="cannot be written line by line"):
        std.WriteLines("x", encoding="utf-16-le")


@dataclasses.dataclass
class Point:
    x: int
    y: int


def test_write_jsonl(tmp_path):
    path = tmp_path / "x.jsonl"
    with std.WriteJsonl(str(path), sort_keys=True) as write:
        write({"b": "ä\n", "a": [1]})
        write([1, 2])
        write(Point(1, 2))
        for bad in (object(), float("nan")):
            with pytest.raises((TypeError, ValueError)):
                write(bad)
    assert path.read_text("utf-8") == '{"a": [1], "b": "ä\\n"}\n[1, 2]\n{"x": 1, "y": 2}\n'


def test_a_batch_is_many_items_and_a_list_is_one(tmp_path):
    path = tmp_path / "x.jsonl"
    with std.WriteJsonl(str(path), context=SimpleNamespace(stopping=False, batched=True)) as write:
        write([{"a": 1}, [2]])
    assert path.read_text() == '{"a": 1}\n[2]\n'


def test_write_csv_is_read_again(tmp_path):
    path, rows = tmp_path / "x.csv", [{"a": 'x, "y"\nz', "b": "1"}, {"b": "2", "a": ""}]
    with std.WriteCsv(str(path)) as write:
        for row in rows:
            write(row)
        with pytest.raises(ValueError, match="are the columns"):
            write({"a": 1})
        with pytest.raises(ValueError, match="are the columns"):
            write({"a": 1, "b": 2, "c": 3})
        with pytest.raises(TypeError):
            write("text")
    assert list(std.csv_rows(str(path))) == [{"a": 'x, "y"\nz', "b": "1"}, {"a": "", "b": "2"}]


def test_standard_output(capsys):
    with std.WriteCsv(fields=["x", "y"]) as write:
        write(Point(1, 2))
        write(Point(3, 4))
    with std.WriteLines() as write:
        write("a")
    std.print_items({"b": 1})
    assert capsys.readouterr().out == "x,y\n1,2\n3,4\na\n{'b': 1}\n"


# --- shell -----------------------------------------------------------------------------------------------------------

NASTY = [
    "a b",
    "'",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "x\ny",
    "*",
    "-n",
    "\\",
    "{}",
    "ä",
    "&& false",
]


@pytest.mark.parametrize("name", NASTY)
def test_no_name_is_anything_but_a_name(name, tmp_path):
    code = "import sys; sys.stdout.write(sys.argv[1])"
    with std.Shell([sys.executable, "-c", code, "{}"], gives="out", cwd=str(tmp_path)) as run:
        assert run(name) == name
    with std.Shell("printf %s {}", shell=True, gives="out", cwd=str(tmp_path)) as run:
        assert run(name) == name
    with std.Shell("printf '%s,' {a} {b}", shell=True, gives="out", cwd=str(tmp_path)) as run:
        assert run({"a": name, "b": "x"}) == f"{name},x,"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("template", "item", "expected"),
    [
        ("{}", 7, "7"),
        ("{}", Path("a/b"), "a/b"),
        ("{}", b"\xff", "\udcff"),
        ("{1}-{0}", ("x", "y"), "y-x"),
        ("{x}{y}", Point(1, 2), "12"),
        ("{0}", {0: "zero"}, "zero"),
        ("{.} {/} {//} {/.}", "d/e.f/a.tar.gz", "d/e.f/a.tar a.tar.gz d/e.f a.tar"),
        ("{.} {/} {//} {/.}", "plain", "plain plain . plain"),
        ("{f/.}.jpg", {"f": "d/a.png"}, "a.jpg"),
        ("{{}} {{f}} {print $1} ${{HOME}} {a b}", "x", "{} {f} {print $1} ${HOME} {a b}"),
    ],
)
def test_what_is_put_in(template, item, expected):
    assert fill_template(template, item) == expected


@pytest.mark.parametrize(
    ("template", "item", "says"),
    [
        ("{nme}", {"name": 1}, "`{nme}` .* has no 'nme'; it has 'name'"),
        ("{5}", ["a"], "it has 1 elements"),
        ("{x}", "text", r"the item \(str\) has no 'x'"),
        ("{__class__}", Point(1, 2), "has no '__class__'"),
        ("{}", {"a": 1}, "would be of type dict; name a field"),
        ("{}", None, "of type NoneType"),
        ("{}", "a\0b", "NUL"),
    ],
)
def test_what_cannot_be_put_in(template, item, says):
    with pytest.raises((LookupError, TypeError, ValueError), match=says):
        fill_template(template, item)


def test_results():
    with std.Shell(["sh", "-c", "echo out; echo err >&2; exit 3"], ok=[0, 3]) as run:
        result = run("x")
    assert result.pop("seconds") > 0
    assert result == {"item": "x", "code": 3, "out": "out", "err": "err"}
    with std.Shell(["cat"], stdin="{a}", text=False, gives="out") as run:
        assert run({"a": "x\n"}) == b"x\n"
    with std.Shell(["cat"], stdin="<{}>", gives="out") as run:
        assert run("y" * 1_000_000) == "<" + "y" * 1_000_000 + ">"
    with std.Shell(["true"], stdin="{}", gives="item") as run:
        assert run("y" * 1_000_000) == "y" * 1_000_000
    with std.Shell(["sh", "-c", "cat; echo $A; pwd"], env={"A": "b"}, cwd="/", gives="out") as run:
        assert run("nothing to read") == "b\n/"


def test_a_command_that_fails_says_how():
    fails = ["sh", "-c", "echo first >&2; echo last >&2; exit 7", "{}"]
    with std.Shell(fails) as run, pytest.raises(CommandFailed, match=r"exit code 7: sh -c .* 'a b'\n  first\n  last"):
        run("a b")
    with std.Shell(["sh", "-c", "kill -SEGV $$"]) as run, pytest.raises(CommandFailed, match="killed by SIGSEGV"):
        run("x")
    with std.Shell(["no-such-program"]) as run, pytest.raises(FileNotFoundError, match="no-such-program"):
        run("x")
    with std.Shell(["printf", r"\377"]) as run, pytest.raises(UnicodeDecodeError):
        run("x")
    for wrong in ([], "text"):
        with pytest.raises(ValueError, match="list of arguments, or one text"):
            std.Shell(wrong)


def test_output_is_bounded():
    with (
        std.Shell(["sh", "-c", "exec yes"], most=100_000) as run,
        pytest.raises(CommandFailed, match=r"more than 100,0"),
    ):
        run("x")
    with std.Shell(["sh", "-c", "yes | head -c 1000000 >&2; echo end >&2"]) as run:
        assert run("x")["err"].endswith("y\nend")


def gone(pid: int, limit: float = 10) -> bool:
    try:
        psutil.Process(pid).wait(limit)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


@pytest.mark.slow
def test_a_time_limit_kills_grandchildren_as_well(tmp_path):
    pids = tmp_path / "pids"
    text = f"sleep 1000 & echo $! >> {pids}; (sleep 1000 & echo $! >> {pids}; wait) & wait"
    with std.Shell(text, shell=True, limit=dt.timedelta(seconds=0.5)) as run:
        with pytest.raises(CommandTimedOut, match=r"longer than 0\.5 s and was killed"):
            run("x")
        assert all(gone(int(pid)) for pid in pids.read_text().split())
        assert len(pids.read_text().split()) == 2
    with std.Shell("echo {}", shell=True, gives="out") as run:  # and the next one runs
        assert run("next") == "next"


@pytest.mark.slow
def test_what_holds_the_output_open_is_ended_with_its_command():
    with std.Shell("sleep 1000 & echo $!", shell=True, gives="out") as run:
        began = time.monotonic()
        first = run("x")
        assert gone(int(first))
        assert gone(int(run("y")))
    assert time.monotonic() - began < 30


# --- names -----------------------------------------------------------------------------------------------------------


def test_names(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text("from runner import task\n@task\ndef lines(): ...\ndef csv(): ...\n")
    plugins = PluginSet(tmp_path)
    assert plugins.find_function("lines").plugin == "mine"
    assert plugins.find_function("std.lines").plugin == plugins.find_function("glob").plugin == "std"
    with pytest.raises(Exception, match="is not marked as a task function"):
        plugins.find_function("csv")
    with pytest.raises(Exception, match=r"no task function `std\.lnes`") as error:
        plugins.find_function("std.lnes")
    assert error.value.hint == "did you mean `lines`?"


def test_std_is_imported_only_when_it_is_used(tmp_path):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "mine.py").write_text("from runner import task\n@task\ndef f(): ...\n")
    code = f"""
import sys, pathlib
from runner.plugins import PluginSet
plugins = PluginSet(pathlib.Path({str(tmp_path)!r}))
plugins.find_function("f")
assert "runner.std" not in sys.modules
before = set(sys.modules)
plugins.find_function("std.lines")
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"csv", "json", "glob", "subprocess", "selectors", "shlex", "pydantic", "typer", "rich"}
    assert not heavy & set(done.stdout.split()), done.stdout


def test_a_class_may_ask_for_its_context_when_it_is_made():
    assert inspect_shape(std.WriteLines).constructor_context == "context"
    assert inspect_shape(std.lines).context == "context"


# --- runs ------------------------------------------------------------------------------------------------------------

COPY = """
[queues]
a = {}
b = {}
[tasks.lines]
with = { path = "in.txt" }
outputs = ["a"]
[tasks.shell]
with = { command = ["sh", "-c", "printf '<%s>' \\"$0\\"", "{}"], gives = "out" }
mode = "MODE"
workers = 2
ordered = true
inputs = ["a"]
outputs = ["b"]
[tasks.write_lines]
with = { path = "out.txt" }
inputs = ["b"]
"""


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_run_of_commands(mode, project):
    made = project({"tasks.toml": COPY.replace("MODE", mode), "in.txt": "a b\n$(x)\n'\n" * 10})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert (made.path / "out.txt").read_text() == "<a b>\n<$(x)>\n<'>\n" * 10


def test_standard_input_and_output(project):
    text = """
[run]
log = "raw"
[queues]
a = {}
[tasks.csv]
outputs = ["a"]
[tasks.write_jsonl]
inputs = ["a"]
batch = 10
"""
    outcome = project({"tasks.toml": text}).run("tasks.toml", input="x,y\n1,2\n3,4\n")
    assert outcome.exit == 0, outcome
    assert outcome.out == '{"x": "1", "y": "2"}\n{"x": "3", "y": "4"}\n'


def test_failures_are_tried_again_and_then_dead(project):
    text = """
[queues]
a = {}
[tasks.range]
with = { start = 0, stop = 3 }
outputs = ["a"]
[tasks.shell]
with = { command = ["sh", "-c", "echo $0 >> tries; echo because >&2; test $0 != 1", "{}"] }
mode = "thread"
inputs = ["a"]
attempts = 2
backoff = { first = "1ms" }
dead = "d"
[tasks.write_jsonl]
with = { path = "dead.jsonl" }
inputs = ["d"]
"""
    made = project({"tasks.toml": text.replace("a = {}\n", "a = {}\nd = {}\n", 1)})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 4, outcome
    assert sorted((made.path / "tries").read_text().split()) == ["0", "1", "1", "2"]
    letter = json.loads((made.path / "dead.jsonl").read_text())
    assert (letter["item"], letter["attempts"]) == (1, 2)
    assert letter["error"].startswith("CommandFailed: exit code 1: sh -c")
    assert "because" in letter["error"]


def test_a_source_that_fails_leaves_no_file(project):
    text = """
[queues]
a = {}
[tasks.jsonl]
with = { path = "in.jsonl" }
outputs = ["a"]
[tasks.write_jsonl]
with = { path = "out.jsonl" }
inputs = ["a"]
"""
    made = project({"tasks.toml": text, "in.jsonl": '{"a": 1}\n{"a": \n'})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 1, outcome
    assert "in.jsonl:2: invalid JSON" in outcome.err
    assert "out.jsonl is not written" in outcome.err
    assert not [name for name in names(made.path) if "out.jsonl" in name]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('mode = "process"\nwith = { path = "x" }', "writes a file whole or not at all, which only a thread can"),
        ('workers = 2\nwith = { path = "x" }', "writes one file: it can have one worker only"),
        ('lifespan = { items = 3 }\nwith = { path = "x" }', "its worker cannot be replaced during the run"),
    ],
)
def test_a_file_has_one_writer_in_a_thread(change, says, project):
    text = f'[queues]\na = {{}}\n[tasks.range]\nargs = [0, 3]\noutputs = ["a"]\n[tasks.write_lines]\ninputs = ["a"]\n{change}\n'
    outcome = project({"tasks.toml": text}).run("tasks.toml")
    assert outcome.exit == 3, outcome
    assert says in outcome.err
    assert "E304" in outcome.err


def test_standard_input_is_for_one_thread_and_not_for_the_file_itself(project):
    text = '[queues]\na = {}\n[tasks.lines]\noutputs = ["a"]\nMORE\n[tasks.print]\ninputs = ["a"]\n'
    made = project({"tasks.toml": text.replace("MORE", 'mode = "process"')})
    outcome = made.run("tasks.toml")
    assert (outcome.exit, "reads standard input, which only a thread can" in outcome.err) == (3, True), outcome
    outcome = made.run("-", input=text.replace("MORE", ""))
    assert (outcome.exit, "from which this file itself was read" in outcome.err) == (3, True), outcome


def test_ctrl_c_ends_a_run_that_waits_for_standard_input(project):
    text = """
[queues]
a = {}
b = {}
[tasks.lines]
outputs = ["a"]
[tasks.shell]
with = { command = ["sh", "-c", "echo $0 > seen; echo $0", "{}"], gives = "out" }
inputs = ["a"]
outputs = ["b"]
[tasks.write_lines]
with = { path = "out.txt" }
inputs = ["b"]
"""
    made = project({"tasks.toml": text})
    running = made.start("tasks.toml", "--grace", "10m")
    running.process.stdin.write("one\n")
    running.process.stdin.flush()
    appears(made.path / "seen")
    running.process.send_signal(signal.SIGINT)
    running.process.wait(20)  # less than the grace: it does not wait for the pipe
    outcome = running.finish()
    assert outcome.exit == 130, outcome
    assert "out.txt is not written" in outcome.err
    assert not [name for name in names(made.path) if "out.txt" in name]


def appears(path: Path, limit: float = 30) -> None:
    """Wait until a command has written the file."""
    import threading

    pause, end = threading.Event(), time.monotonic() + limit
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} does not appear"
        pause.wait(0.02)


HANGS = """
[queues]
a = {}
b = {}
[tasks.range]
args = [0, 1]
outputs = ["a"]
[tasks.shell]
mode = "MODE"
with = { command = "sleep 1000 & echo $! > child; wait", shell = true }
inputs = ["a"]
outputs = ["b"]
[tasks.write_jsonl]
with = { path = "out.jsonl" }
inputs = ["b"]
"""


@pytest.mark.parametrize("mode", [pytest.param("thread", marks=pytest.mark.slow), "process"])
def test_no_command_outlives_a_killed_runner(mode, project):
    made = project({"tasks.toml": HANGS.replace("MODE", mode), "out.jsonl": "old\n"})
    running = made.start("tasks.toml")
    appears(made.path / "child")
    running.process.kill()
    running.finish()  # fails when a process is left
    assert gone(int((made.path / "child").read_text()))
    assert (made.path / "out.jsonl").read_text() == "old\n"


@pytest.mark.parametrize("mode", [pytest.param(mode, marks=pytest.mark.slow) for mode in ("thread", "process")])
def test_no_command_outlives_a_run_that_is_ended(mode, project):
    made = project({"tasks.toml": HANGS.replace("MODE", mode)})
    running = made.fork("tasks.toml", "--grace", "100ms")
    appears(made.path / "child")
    running.process.send_signal(signal.SIGTERM)
    outcome = running.finish()
    assert outcome.exit == 143, outcome
    assert gone(int((made.path / "child").read_text()))
    assert not (made.path / "out.jsonl").exists()


@pytest.mark.slow
def test_the_timeout_of_a_task_kills_the_command_as_well(project):
    text = HANGS.replace("MODE", "process").replace("[tasks.shell]", '[tasks.shell]\ntimeout = "500ms"')
    made = project({"tasks.toml": text})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 4, outcome
    assert gone(int((made.path / "child").read_text()))


def test_a_killed_worker_takes_its_command_along_and_the_item_is_given_again(project):
    once = "test -e once && echo ok && exit; touch once; sleep 1000 & echo $! > child; kill -9 $PPID; wait"
    text = HANGS.replace("MODE", "process").replace("sleep 1000 & echo $! > child; wait", once)
    made = project({"tasks.toml": text})
    outcome = made.run("tasks.toml")
    assert outcome.exit == 0, outcome
    assert gone(int((made.path / "child").read_text()))
    assert [json.loads(line)["out"] for line in (made.path / "out.jsonl").read_text().splitlines()] == ["ok"]
