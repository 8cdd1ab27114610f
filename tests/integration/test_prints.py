"""What tasks print comes out line by line, whole, in order, in the name of its worker; and nothing of it is lost."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from topology_runs import USES_KIT, Finished, balance, make, run, task_file

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("short_diffs")
MODES = ["thread", "process"]
LINES = 200

PRINTS = (
    USES_KIT
    + """
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from runner import Context, task

LINES = 200


@task
def plain(context: Context):
    for number in range(LINES):
        print("plain", context.worker, number)


@task
def pieces(context: Context):
    \"\"\"A line in many writes; the other workers write meanwhile.\"\"\"
    for number in range(LINES):
        for part in ("pieces ", context.worker, " "):
            print(part, end="", flush=True)
        sys.stdout.write(f"{number}\\n")


@task
def err(context: Context):
    for number in range(LINES):
        print("err", context.worker, number, file=sys.stderr)


@task
def binary(context: Context):
    for number in range(LINES):
        sys.stdout.buffer.write(f"binary {context.worker} {number}\\n".encode())
    sys.stdout.buffer.flush()


@task
def wide(context: Context):
    for number in range(LINES):
        print("wide", context.worker, number, "\\u20ac\\u2603\\U0001f40d")


@task
def logged(context: Context):
    for number in range(20):
        context.log.info("logged %s %s", context.worker, number)


@task
def low(context: Context):
    for number in range(LINES):
        os.write(1, f"low {context.worker} {number}\\n".encode())


@task
def in_c(context: Context):
    libc = ctypes.CDLL(None)
    for number in range(LINES):
        libc.puts(f"in_c {context.worker} {number}".encode())
    libc.fflush(None)


@task
def child(context: Context):
    script = f"for n in $(seq 0 49); do echo child {context.worker} $n; echo child_err {context.worker} $n >&2; done"
    subprocess.run(["sh", "-c", script], check=True)


@task
def sub_thread(context: Context):
    def talk():
        for number in range(20):
            print("sub_thread", context.worker, number)

    thread = threading.Thread(target=talk)
    thread.start()
    thread.join()


@task
def long(context: Context):
    for number in range(3):
        print(f"long {context.worker} {number} " + "\\u20ac" * 350_000)


@task
def long_low(context: Context):
    data = memoryview(f"long_low {context.worker} 0 {'x' * 1_000_000}\\n".encode())
    while data:
        data = data[os.write(1, data[:10_007]) :]


@task
def garbage(context: Context):
    for number in range(5):
        sys.stdout.buffer.write(b"garbage " + bytes(each for each in range(256) if each not in b"\\n\\r\\x1b") + b"\\n")
    sys.stdout.buffer.flush()


@task
def control(context: Context):
    print("control \\x1b[2J\\x1b[1mbold\\x1b[0m\\x07", context.worker)
    print("10%\\r50%\\r100%")


@task
def unfinished(context: Context):
    sys.stdout.write(f"unfinished {context.worker}")


@task
def unfinished_low(context: Context):
    os.write(1, f"unfinished_low {context.worker}".encode())


@task
def empty(context: Context):
    print(f"empty {context.worker} above\\n\\nempty {context.worker} below")


@task
def item(number, context: Context):
    print("item", context.worker, number)
    if number == 50:
        raise ValueError("fifty")


def _last_words(context):
    for number in range(LINES):
        print("words", context.worker, number)


@task
def killed(context: Context):
    _last_words(context)
    os.kill(os.getpid(), signal.SIGKILL)


@task
def exited(context: Context):
    _last_words(context)
    os._exit(3)


@task
def crashed(context: Context):
    ctypes.CDLL(None).puts(b"words from C")
    _last_words(context)
    ctypes.string_at(1)


@task
def killed_item(number, context: Context):
    print("words", context.worker, number)
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
"""
)
FILES = {"plugins/prints.py": PRINTS}

#: Printed by Python itself: always in the worker's name.
NAMED = {"plain": LINES, "pieces": LINES, "binary": LINES, "wide": LINES}
#: Written past Python: in threads nobody can tell whose it is.
LOW = {"low": LINES, "in_c": LINES, "child": 50}
OTHERS = ["unfinished", "empty", "control", "garbage", "long", "sub_thread", "logged", "err"]
#: Threads share what is below Python, so that unfinished lines of several would become one.
ONLY_PROCESSES = ["unfinished_low", "long_low"]


def speakers(mode: str) -> dict[str, dict[str, Any]]:
    names = [*NAMED, *LOW, *OTHERS, *(ONLY_PROCESSES if mode == "process" else [])]
    return {name: {"workers": [f"{name}-a", f"{name}-b"]} for name in names}


@pytest.fixture(scope="module", params=MODES)
def spoken(request, tmp_path_factory) -> Finished:
    """Everybody speaks at the same time."""
    tasks = {
        **speakers(request.param),
        "numbers": {"call": "count", "args": [100], "outputs": "numbers"},
        "item": {"inputs": "numbers", "workers": ["item-a", "item-b"]},
    }
    project = make(tmp_path_factory.mktemp(request.param), task_file(tasks, mode=request.param), FILES)
    outcome = project.run("tasks.toml", encoding="utf-8", errors="surrogateescape")
    assert outcome.exit == 4, outcome.err
    assert "1 dead" in balance(outcome)
    return Finished(project.path, outcome)


@pytest.fixture
def mode(spoken, request):
    return request.node.callspec.params["spoken"]


def lines(text: str, word: str) -> Iterator[tuple[str, list[str]]]:
    """The prefix and the words of each line whose first word this is."""
    for line in text.split("\n"):
        name, bar, rest = line.partition(" | ")
        words = rest.split(" ")
        if bar and words[0] == word:
            yield name, words[1:]


def numbers(text: str, word: str, *, low: bool = False) -> dict[str, list[int]]:
    """What each worker has counted; with `low`, another prefix than the worker's is as good."""
    found = defaultdict(list)
    for name, (worker, number, *_) in lines(text, word):
        assert name == worker or (low and name == "-")
        found[worker].append(int(number))
    return dict(found)


def both(word: str, count: int) -> dict[str, list[int]]:
    return {f"{word}-a": list(range(count)), f"{word}-b": list(range(count))}


def test_every_line_has_a_name(spoken):
    assert [line for line in spoken.outcome.out.split("\n")[:-1] if not re.match(r"[\w-]+ \| ", line)] == []


@pytest.mark.parametrize(("word", "count"), NAMED.items())
def test_lines_are_whole_in_order_and_named(spoken, word, count):
    assert numbers(spoken.outcome.out, word) == both(word, count)


@pytest.mark.parametrize(("word", "count"), LOW.items())
def test_what_c_code_and_child_programs_write(spoken, mode, word, count):
    assert numbers(spoken.outcome.out, word, low=mode == "thread") == both(word, count)


def test_standard_error_stays_standard_error(spoken, mode):
    assert numbers(spoken.outcome.err, "err") == both("err", LINES)
    found = numbers(spoken.outcome.err, "child_err", low=mode == "thread")
    assert found == {"child-a": list(range(50)), "child-b": list(range(50))}
    assert list(lines(spoken.outcome.out, "err")) == []


def test_what_is_logged(spoken):
    found = re.findall(r"^(logged-[ab]) \| INFO logged (\S+) (\d+)$", spoken.outcome.err, re.MULTILINE)
    assert sorted(found) == sorted(
        (name, name, str(number)) for name in ("logged-a", "logged-b") for number in range(20)
    )


def test_a_thread_of_a_tasks_own(spoken, mode):
    assert numbers(spoken.outcome.out, "sub_thread", low=mode == "thread") == both("sub_thread", 20)


def test_wide_characters_arrive(spoken):
    assert {tuple(words[2:]) for _, words in lines(spoken.outcome.out, "wide")} == {("€☃\U0001f40d",)}


def test_a_line_of_a_megabyte(spoken):
    """It may come in parts, each with the name; no character is lost, and none is torn."""
    for worker in ("long-a", "long-b"):
        parts = [line.partition(" | ")[2] for line in spoken.outcome.out.split("\n") if line.startswith(f"{worker} | ")]
        expected = "".join(f"long {worker} {number} " + "€" * 350_000 for number in range(3))
        assert len("".join(parts)) == len(expected)
        assert "".join(parts) == expected


def test_a_line_of_a_megabyte_from_below(spoken, mode):
    for worker in ("long_low-a", "long_low-b") if mode == "process" else ():
        parts = [line.partition(" | ")[2] for line in spoken.outcome.out.split("\n") if line.startswith(f"{worker} | ")]
        assert "".join(parts) == f"long_low {worker} 0 " + "x" * 1_000_000


def test_binary_garbage_passes_without_what_a_terminal_would_act_on(spoken):
    shown = (
        "\t" + "".join(map(chr, [*range(0x20, 0x7F)])) + bytes(range(0x80, 0x100)).decode("utf-8", "surrogateescape")
    )
    for worker in ("garbage-a", "garbage-b"):
        assert spoken.outcome.out.count(f"{worker} | garbage {shown}\n") == 5


def test_colours_pass_and_a_progress_bar_shows_its_last_state(spoken):
    for worker in ("control-a", "control-b"):
        assert f"{worker} | control \x1b[1mbold\x1b[0m {worker}\n{''}" in spoken.outcome.out
        assert f"{worker} | 100%\n" in spoken.outcome.out


def test_an_unfinished_last_line_is_finished(spoken, mode):
    for worker in ("unfinished-a", "unfinished-b"):
        assert f"{worker} | unfinished {worker}\n" in spoken.outcome.out
    for worker in ("unfinished_low-a", "unfinished_low-b") if mode == "process" else ():
        assert f"{worker} | unfinished_low {worker}\n" in spoken.outcome.out


def test_empty_lines_stay(spoken):
    for worker in ("empty-a", "empty-b"):
        mine = [line for line in spoken.outcome.out.split("\n") if line.startswith(f"{worker} | ")]
        assert mine == [f"{worker} | empty {worker} above", f"{worker} | ", f"{worker} | empty {worker} below"]


def test_what_is_printed_for_each_item(spoken):
    found = numbers(spoken.outcome.out, "item")
    assert sorted(number for each in found.values() for number in each) == list(range(100))


@pytest.mark.parametrize("mode", MODES)
def test_raw_leaves_output_alone(tmp_path, mode):
    """One after the other: in one process, Python's own output is torn by another thread's."""
    names = [*NAMED, *LOW, "garbage", "control", "unfinished"]
    tasks = {name: {"workers": [f"{name}-a"], "after": names[max(0, at - 1) : at]} for at, name in enumerate(names)}
    project = make(tmp_path, task_file(tasks, mode=mode, run={"log": "raw"}), FILES)
    outcome = project.run("tasks.toml", encoding=None, errors=None)
    assert outcome.exit == 0, outcome.err
    expected = b"".join(
        f"{word} {word}-a {number}{' €☃🐍' if word == 'wide' else ''}\n".encode()
        for word, count in (NAMED | LOW).items()
        for number in range(count)
    )
    garbage = bytes(each for each in range(256) if each not in b"\n\r\x1b")
    expected += b"garbage " + (garbage + b"\ngarbage ") * 4 + garbage + b"\n"
    expected += b"control \x1b[2J\x1b[1mbold\x1b[0m\x07 control-a\n10%\r50%\r100%\n" + b"unfinished unfinished-a"
    assert outcome.out == expected


def words_of(text: str, worker: str, log: str) -> list[str]:
    """The numbers that a worker printed last."""
    start = f"{worker} | words {worker} " if log == "prefix" else f"words {worker} "
    return [line.removeprefix(start) for line in text.split("\n") if line.startswith(start)]


@pytest.mark.parametrize("log", ["prefix", "raw"])
def test_nothing_is_lost_when_a_worker_dies_right_after_printing(tmp_path, log):
    tasks = {
        **{name: {"restarts": {"times": 0, "window": "1m"}} for name in ("killed", "exited", "crashed")},
        "numbers": {"call": "count", "args": [300], "outputs": "numbers"},
        "killed_item": {"inputs": "numbers"},
    }
    finished = run(tmp_path, task_file(tasks, mode="process", run={"log": log}), FILES)
    assert finished.outcome.exit == 1, finished.outcome
    out = finished.outcome.out
    for name in ("killed", "exited", "crashed"):
        assert words_of(out, name, log)[-LINES:] == [str(number) for number in range(LINES)]
    assert ("crashed | words from C\n" if log == "prefix" else "words from C\n") in out
    items = [int(number) for number in words_of(out, "killed_item", log)]
    assert items.count(99) == 3, "three workers died of it"
    assert set(items) == set(range(300))


@pytest.mark.parametrize("mode", MODES)
def test_one_thread_worker_lends_its_name_to_all_that_is_written(tmp_path, mode):
    """With a single thread worker it is clear who starts programs and calls C code."""
    finished = run(tmp_path, task_file({"child": {"workers": ["solo"]}}, mode=mode), FILES).ok()
    assert numbers(finished.outcome.out, "child") == {"solo": list(range(50))}
