"""`runner each`: what reaches the commands, what they write, how they end, and what is left when the run ends early."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from helpers import marked_environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("short_diffs")
#: Writes the arguments that it is given, byte by byte, and what is on its standard input.
SHOWS = """
import os, sys
sys.stdout.buffer.write(b"".join(os.fsencode(each) + b"\\0" for each in sys.argv[1:]) + sys.stdin.buffer.read())
"""
#: Writes halves of lines, with pauses in which others can write, to both outputs.
TALKS = """
import sys
for number in range(200):
    for stream, letter in ((sys.stdout, "o"), (sys.stderr, "e")):
        stream.write(letter + sys.argv[1]); stream.flush()
    sys.stdout.write("\\n"); sys.stderr.write("\\n")
"""
NAMES = [
    b"plain",
    b"a b",
    b" lead",
    b"-rf",
    b"--",
    b"it's",
    b'"',
    b"$(x)",
    b"`x`",
    b"new\nline",
    b"\xff\xfe",
    b"{}",
    b"*",
]


def each(made: Any, *args: object, **options: Any) -> Any:
    return made.run(*args, verb="each", **options)


def raw(path: Path, *args: str | bytes, data: bytes = b"", limit: float = 60) -> subprocess.CompletedProcess[bytes]:
    """A run whose input and output are bytes."""
    command = [sys.executable, "-m", "runner", "each", *args]
    _, env = marked_environment({})
    return subprocess.run(command, cwd=path, env=env, input=data, capture_output=True, timeout=limit, check=False)


def last_line(outcome: Any) -> str:
    return next(line for line in reversed(outcome.err.splitlines()) if " read" in line)


@pytest.mark.slow
def test_values_reach_the_command_byte_for_byte(project: Any) -> None:
    made = project({"show.py": SHOWS})
    command = [sys.executable, "show.py", "{#}", "{}"]
    done = raw(made.path, "-0", "-k", "-j3", *command, data=b"\0".join(NAMES))
    expected = [(str(number).encode(), name) for number, name in enumerate(NAMES, 1)]
    assert done.returncode == 0, done
    assert done.stdout.split(b"\0")[:-1] == [part for pair in expected for part in pair]
    done = raw(made.path, "-k", *command, ":::", *NAMES)  # type: ignore[arg-type]  # both are bytes to the system
    assert done.stdout.split(b"\0")[:-1] == [part for pair in expected for part in pair], done


def test_lines_of_standard_input_are_the_values_and_commands_have_none(project: Any) -> None:
    made = project({"show.py": SHOWS})
    outcome = each(made, "-k", sys.executable, "show.py", input="one\n two \n\nlast")
    assert outcome.exit == 0, outcome
    assert outcome.out == "one\0 two \0\0last\0"
    outcome = each(made, "-k", "-r", "-a", "list", sys.executable, "show.py", input="not read")
    assert outcome.exit == 1, outcome
    assert "list" in outcome.err
    made.write({"list": "x\n\ny\n"})
    outcome = each(made, "-k", "-r", "-a", "list", sys.executable, "show.py", input="not read")
    assert (outcome.exit, outcome.out) == (0, "x\0y\0"), outcome


def test_several_sources_are_combined(project: Any) -> None:
    made = project({})
    outcome = each(made, "-k", "echo", "{2}-{1}", "{}", ":::", "a", "b", ":::", "1", "2")
    assert outcome.out.splitlines() == ["1-a a 1", "2-a a 2", "1-b b 1", "2-b b 2"], outcome
    outcome = each(made, "-k", "echo", ":::", "a", "b", ":::+", "1", "2", "3")
    assert outcome.out.splitlines() == ["a 1", "b 2"], outcome
    outcome = each(made, "-k", "--colsep", ",", "echo", "{2} {1}", ":::", "a,b", "c,d")
    assert outcome.out.splitlines() == ["b a", "d c"], outcome


def test_output_of_a_command_is_in_one_piece_and_the_outputs_stay_apart(project: Any) -> None:
    made = project({"talk.py": TALKS})
    outcome = each(made, "-q", "-j4", sys.executable, "talk.py", ":::", *"abcd")
    assert outcome.exit == 0, outcome
    for text, letter in ((outcome.out, "o"), (outcome.err, "e")):
        lines = text.splitlines()
        blocks = [lines[at : at + 200] for at in range(0, len(lines), 200)]
        assert sorted(blocks) == [[letter + name] * 200 for name in "abcd"]


@pytest.mark.slow
def test_the_order_of_the_input_is_kept_for_commands_that_fail_as_well(project: Any) -> None:
    made = project({})
    text = "test {} = 1 && while ! test -e done; do sleep 0.01; done; touch done; echo {}; test {} != 2"
    outcome = each(made, "-k", "-j2", "--tag", text, ":::", "1", "2", "3")
    assert outcome.exit == 4, outcome
    assert outcome.out.splitlines() == ["1\t1", "2\t2", "3\t3"]


def test_what_fails_is_tried_again_then_a_dead_letter_that_can_be_given_again(project: Any) -> None:
    made = project({"here": "", "there": ""})
    text = "echo {#} >> tries; echo out {}; echo err {} >&2; test -e {} || exit 3"
    outcome = each(made, "-k", "--retry", "1", "--joblog", "log", text, ":::", "here", "gone", "there")
    assert outcome.exit == 4, outcome
    assert sorted((made.path / "tries").read_text().split()) == ["1", "2", "2", "3"]
    assert outcome.out.splitlines() == ["out here", "out gone", "out there"]
    assert [line for line in outcome.err.splitlines() if line.startswith("err ")] == [
        "err here",
        "err gone",
        "err there",
    ]
    assert "3 read + 1 made = 3 done + 1 dead" in last_line(outcome)
    assert "(2, 'gone')" in outcome.err
    head, *rows = [line.split("\t") for line in (made.path / "log").read_text().splitlines()]
    assert head == ["Seq", "Host", "Starttime", "JobRuntime", "Send", "Receive", "Exitval", "Signal", "Command"]
    assert [(row[0], row[6], row[7]) for row in rows] == [("1", "0", "0"), ("2", "3", "0"), ("3", "0", "0")]
    assert abs(float(rows[0][2]) - time.time()) < 1000
    letters = made.run("list", "last", verb="dead")
    assert "gone" in letters.out + letters.err, letters
    (made.path / "gone").write_text("")
    outcome = made.run("retry", "last", verb="dead")
    assert outcome.exit == 0, outcome
    assert outcome.out.splitlines() == ["out gone"]
    assert sorted((made.path / "tries").read_text().split()) == ["1", "2", "2", "2", "3"]
    assert [line.split("\t")[0] for line in (made.path / "log").read_text().splitlines()] == ["Seq", "1", "2", "3", "2"]


@pytest.mark.parametrize(
    ("command", "code", "signal_number", "said"),
    [
        ("nowhere-to-be-found", "127", "0", "No such file"),
        pytest.param("./plain", "126", "0", "Permission denied", marks=pytest.mark.slow),
        pytest.param("kill -SEGV $$; echo {}", "-1", "11", "SIGSEGV", marks=pytest.mark.slow),
        pytest.param(
            "sleep 1000 & echo before; wait; echo {}", "-1", "9", "took longer than 0.4 s", marks=pytest.mark.slow
        ),
    ],
)
def test_every_end_of_a_command_is_told(project: Any, command: str, code: str, signal_number: str, said: str) -> None:
    made = project({"plain": ""})
    outcome = each(made, "--timeout", "0.4", "--joblog", "log", command, ":::", "x")
    assert (outcome.exit, said in outcome.err) == (4, True), outcome
    row = (made.path / "log").read_text().splitlines()[1].split("\t")
    assert (row[6], row[7]) == (code, signal_number)
    assert ("before" in outcome.out) == ("before" in command)


@pytest.mark.slow
def test_a_command_that_writes_without_end_is_killed(project: Any) -> None:
    outcome = each(project({}), "--max-output", "1MB", "yes", ":::", "x")
    assert (outcome.exit, "wrote more than 1,000,000 bytes" in outcome.err) == (4, True), outcome


def test_nothing_to_do_is_done(project: Any) -> None:
    made = project({})
    outcome = each(made, "echo", ":::")
    assert (outcome.exit, outcome.out, "0 read = 0 done" in outcome.err) == (0, "", True), outcome
    assert each(made, "echo").exit == 0  # standard input has nothing


@pytest.mark.slow
def test_lines_are_commands_where_there_is_no_command(project: Any) -> None:
    outcome = each(project({}), "-k", input="echo a | tr a b\necho $((1 + 1))\n")
    assert (outcome.exit, outcome.out) == (0, "b\n2\n"), outcome


def test_a_dry_run_prints_the_commands_and_runs_none(project: Any) -> None:
    made = project({})
    outcome = each(made, "--dry-run", "touch", "{}", ":::", "a b", "c'd")
    assert (outcome.exit, outcome.out) == (0, "touch 'a b'\ntouch 'c'\"'\"'d'\n"), outcome
    assert not [*made.path.iterdir()]


@pytest.mark.parametrize(
    "args",
    [
        ["-k", "-j2", "--retry", "1", "--tag", "echo", "{#}:{}", ":::", "a b", "${x}", "{}"],
        ["-k", "--timeout", "1m", 'echo "x{}y" {/.}', ":::", "a/b c.d", "'"],
        pytest.param(["-k", "echo", "{2}", "{1}", ":::", "a", "b", ":::", "1"], marks=pytest.mark.slow),
        pytest.param(
            ["--joblog", "log", "--halt", "soon,fail=50%", "--rate", "1000/s", "-a", "list", "echo", "{.}"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_file_that_is_shown_does_the_same(project: Any, args: list[str]) -> None:
    made = project({"list": "one.txt\n"})
    shown = each(made, "--show", *args)
    assert shown.exit == 0, shown
    tomllib.loads(shown.out)
    made.write({"tasks.toml": shown.out})
    checked = made.run("tasks.toml", "--strict", verb="check")
    assert checked.exit == 0, checked
    direct, by_file = each(made, *args), made.run("tasks.toml")
    assert direct.out
    assert (direct.exit, direct.out) == (by_file.exit, by_file.out)
    assert last_line(direct).split("   ")[1:] == last_line(by_file).split("   ")[1:]


@pytest.mark.parametrize("order", [(), pytest.param(("-k",), marks=pytest.mark.slow)])
@pytest.mark.parametrize("halt", ["soon,fail=2", pytest.param("now,fail=2", marks=pytest.mark.slow)])
def test_enough_failures_stop_the_run_and_what_they_wrote_is_printed(
    project: Any, halt: str, order: tuple[str, ...]
) -> None:
    made = project({})
    text = "echo {} >> seen; echo out {}; exit 1"
    outcome = each(made, *order, "-j1", "--halt", halt, "--joblog", "log", text, ":::", *map(str, range(500)))
    assert outcome.exit == 5, outcome
    seen = (made.path / "seen").read_text().split()
    assert 2 <= len(seen) < 250
    # In order there is no place for what ran after one that did not run.
    printed = [number for at, number in enumerate(seen) if not order or number == str(at)]
    assert outcome.out.splitlines() == [f"out {number}" for number in printed]
    assert [line.split("\t")[6] for line in (made.path / "log").read_text().splitlines()[1:]] == ["1"] * len(printed)


@pytest.mark.slow
def test_the_summary_can_be_had_as_json(project: Any) -> None:
    outcome = each(project({}), "--json", "echo", ":::", "a", "b")
    found = json.loads(outcome.out)
    assert (outcome.exit, found["exit_code"]) == (0, 0), outcome
    assert "a\n" in outcome.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--retries", "3", "true"], "`--retry`"),
        pytest.param(["-j", "x", "true"], "-j takes a number", marks=pytest.mark.slow),
        (["--halt", "now,success=1", "true"], "are not offered"),
        pytest.param(["echo", "{%}"], "{%}", marks=pytest.mark.slow),
        (["echo", "{2}", ":::", "a"], "{2}"),
        pytest.param(["--timeout", "200%", "true"], "--timeout takes", marks=pytest.mark.slow),
        pytest.param(["--rate", "fast", "true"], "rate", marks=pytest.mark.slow),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(project: Any, args: list[str], said: str) -> None:
    outcome = each(project({}), *args)
    assert outcome.exit in {2, 3}, outcome
    assert said in outcome.err, outcome
    assert "Traceback" not in outcome.err


WAITS = "echo $$ >> pids; sleep 1000 & echo $! >> pids; wait"


def wait_for_pids(path: Path, count: int) -> list[int]:
    end = time.monotonic() + 60
    while True:
        found = path.read_text().split() if path.exists() else []
        if len(found) >= count:
            return [int(each) for each in found]
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_no_command_outlives_runner(project: Any, number: int) -> None:
    made = project({})
    running = made.start("-j2", "--grace", "100ms", WAITS + " # {}", ":::", "1", "2", "3", verb="each")
    wait_for_pids(made.path / "pids", 4)
    running.process.send_signal(number)
    outcome = running.finish()  # fails when a process is left
    assert outcome.exit == (130 if number == signal.SIGINT else -9), outcome
    if number == signal.SIGINT:
        assert "left" in outcome.err


@pytest.mark.slow
def test_a_durable_run_that_was_killed_goes_on_where_it_was(project: Any) -> None:
    made = project({})
    text = "echo {} >> seen; test {} != 3 || test -e go || { echo $$ > here; sleep 1000; }; echo out {}"
    args = ["--resume", "-k", "-j1", "--joblog", "log", text, ":::", *map(str, range(8))]
    running = made.start(*args, verb="each")
    wait_for_pids(made.path / "here", 1)
    running.process.kill()
    first = running.finish()
    (made.path / "go").write_text("")
    outcome = each(made, *args)
    assert outcome.exit == 0, outcome
    seen = (made.path / "seen").read_text().split()
    assert set(seen) == {*map(str, range(8))}
    assert len(seen) <= 12  # what was in flight, or not yet noted, is done again
    assert {line.split("\t")[0] for line in (made.path / "log").read_text().splitlines()[1:]} == {
        *map(str, range(1, 9))
    }
    assert set((first.out + outcome.out).split("\n")) == {*(f"out {n}" for n in range(8)), ""}
    assert "goes on, with the values that it has read already" in outcome.err
    other = each(made, "--resume", "echo", ":::", "another")  # another command is another run
    assert (other.exit, other.out) == (0, "another\n"), other


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_stop_the_commands(project: Any) -> None:
    made = project({})
    runner = f"{sys.executable} -m runner each -q -k 'echo {{}} >> seen; echo {{}}'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; seq 300 | {runner} | head -n 1"],
        cwd=made.path, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"1\n")
    lost = re.fullmatch(rb"standard output: Broken pipe; (\d+) lines lost\n", done.stderr)
    assert lost, done.stderr
    assert 0 < int(lost[1]) < 300, "what stood in the pipe when `head` left may be lost too, and is not known of"
    assert len((made.path / "seen").read_text().split()) == 300


@pytest.mark.slow
def test_a_folder_that_may_not_be_written_is_no_hindrance(project: Any, tmp_path: Path) -> None:
    made = project({})
    (made.path / ".runner").write_text("a file")
    outcome = each(made, "--no-record", "echo", ":::", "a")
    assert (outcome.exit, outcome.out) == (0, "a\n"), outcome


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_very_many_values(project: Any) -> None:
    """By standard input, and as arguments: more than a file of tasks would take."""
    made = project({})
    data = b"".join(b"%d\n" % number for number in range(5_000))
    done = raw(made.path, "-k", "--no-record", "-j4", "true", data=data, limit=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert b"5,000 read = 5,000 done" in done.stderr
    values = [f"{number:040}" for number in range(5_000)]
    done = raw(made.path, "-q", "-k", "echo", "{}", ":::", *values, limit=600)
    assert (done.returncode, done.stdout.split()) == (0, [value.encode() for value in values])
    done = raw(made.path, "--dry-run", "echo", ":::", *values, limit=600)
    assert done.stdout.splitlines() == [f"echo {value}".encode() for value in values]
