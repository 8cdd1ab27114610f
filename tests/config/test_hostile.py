"""Whatever comes in: a clean error within a second, exit 3, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from helpers import load_config

from runner import check, config
from runner.errors import ConfigError
from runner.problems import render_problems

DANCE = b"[tasks.dance]\n"
HOSTILE = {
    "binary": bytes(range(256)) * 40,
    "elf": b"\x7fELF\x02\x01\x01" + b"\x00" * 100,
    "utf-16": DANCE.decode().encode("utf-16"),
    "utf-32": DANCE.decode().encode("utf-32"),
    "latin-1": DANCE + "help = 'Bäckerei'".encode("latin-1"),
    "empty": b"",
    "only a mark": b"\xef\xbb\xbf",
    "ten megabytes": DANCE + b"# a long comment\n" * 650_000,
    "ten megabytes in one string": DANCE + b'help = "' + b"a" * 10_000_000 + b'"',
    "a dotted key of 40 KB": b"a" + b".a" * 20_000 + b" = 1\n",
    "a header of 40 KB": b"[a" + b".a" * 20_000 + b"]\n",
    "a thousand arrays": DANCE + b"args = " + b"[" * 1000 + b"]" * 1000,
    "a thousand open arrays": DANCE + b"args = " + b"[" * 1000,
    "a hundred thousand open arrays": DANCE + b"args = " + b"[" * 100_000,
    "a thousand inline tables": DANCE + b"with = " + b"{ a = " * 1000 + b"1" + b" }" * 1000,
    "an integer of a million digits": DANCE + b"attempts = " + b"9" * 1_000_000,
    "an integer of 4000 digits": DANCE + b"attempts = " + b"9" * 4000,
    "a float of many digits": DANCE + b"args = [1." + b"9" * 900_000 + b"x]",
    "a long bare word": b"a" * 1_000_000,
    "a long line of keys": DANCE + b"x=1\n" * 200_000,
    "fifty thousand wrong keys": DANCE + b"".join(b"k%d = 1\n" % number for number in range(50_000)),
    "fifty thousand tables": b"".join(b"[tasks.t%d]\nx = 1\n" % number for number in range(40_000)),
    "five thousand tasks": b"".join(b"[tasks.t%d]\ninputs = 'q'\n" % number for number in range(5_000)),
    "two thousand tasks in a row": b"[queues]\n"
    + b"".join(b"q%d = {}\n" % number for number in range(2000))
    + b"".join(b"[tasks.t%d]\ninputs = 'q%d'\noutputs = 'q%d'\n" % (n, n, (n + 1) % 2000) for n in range(2000)),
    "two hundred unknown names among a thousand": b"[queues]\n"
    + b"".join(b"queue_number_%d = {}\n" % number for number in range(1000))
    + DANCE
    + b"inputs = ["
    + b"".join(b"'queue_nubmer_%d_x', " % number for number in range(200))
    + b"]",
    "a dense graph": b"[queues]\n"
    + b"".join(b"q%d = {}\n" % number for number in range(150))
    + b"".join(
        b"[tasks.t%d]\ninputs = [" % n
        + b"".join(b"'q%d'," % q for q in range(150))
        + b"]\noutputs = ["
        + b"".join(b"'q%d'," % q for q in range(150))
        + b"]\n"
        for n in range(60)
    ),
    "fifty thousand good tasks and a bad one": b"".join(b"[tasks.t%d]\n" % n for n in range(50_000)) + b"x = 1",
    "a chain of two thousand": b"[queues]\n"
    + b"".join(b"q%d = {}\n" % number for number in range(1_999))
    + b"[tasks.x]\nz = 1\n"
    + b"".join(b"[tasks.t%d]\ninputs = 'q%d'\noutputs = 'q%d'\n" % (n, n, n + 1) for n in range(1_998)),
    "ten thousand names in one list": DANCE + b"after = [" + b"'nobody', " * 50_000 + b"]",
    "an escape sequence in a name": DANCE + b'"\\u001b[31mred" = 1\n',
    "an escape character": DANCE + b"help = '\x1b[31m'\n",
    "bidi in a name": DANCE + '"‮edom" = 1\n'.encode(),
    "bidi in a task": '[tasks."‮abc"]\n'.encode(),
    "nul in a string": DANCE + b'call = "a\\u0000b"\n',
    "a name of 10,000 characters": b"[tasks." + b"a" * 10_000 + b"]\n",
    "a regex trap": DANCE + b"timeout = '" + b"1s" * 50_000 + b"x'\n",
    "references in references": b"[params]\na = '${a}'\n" + DANCE + b"help = '" + b"${a}" * 20_000 + b"${'\n",
    "nested references": DANCE + b"help = '" + b"${" * 100_000 + b"'\n",
    "quotes": b'"' * 300_000,
    "escapes": DANCE + b'help = "' + b"\\" * 300_001 + b'"\n',
    "brackets": b"[" * 300_000,
    "lone carriage returns": DANCE + b"\r" * 1000,
    "a huge duration": DANCE + b"timeout = '" + b"9" * 39 + b"d'\n",
    "a huge rate": DANCE + b"rate = '1e400/s'\n",
    "not a number": DANCE + b"backoff = { jitter = nan, factor = inf }\n",
    "a date": b"[tasks.dance]\ntimeout = 1979-05-27\n",
}


def said(path) -> str:
    working = time.process_time()
    try:
        loaded = config.examine(path, env={})
        problems = check.check_file(loaded)
        assert any(each.severity == "error" for each in problems)
    except ConfigError as error:
        problems = error.problems
    text = render_problems(problems)
    assert time.process_time() - working < LIMIT
    return text


#: A second is promised, and each takes less than half of one on a machine of today; what is not linear takes minutes.
LIMIT = 20.0


#: As long as each other, and longer than all that is quick together.
LARGE = {
    "fifty thousand tables",
    "fifty thousand good tasks and a bad one",
    "two thousand tasks in a row",
    "fifty thousand wrong keys",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in HOSTILE]
)
def test_a_clean_error_within_a_second(name, tmp_path):
    file = tmp_path / "tasks.toml"
    file.write_bytes(HOSTILE[name])
    text = said(file)
    assert "E" in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert max(map(len, text.split("\n"))) < 600
    assert len(text.replace(str(tmp_path), "")) < 60_000


def test_what_is_no_file(tmp_path):
    assert "E101 the file does not exist" in said(tmp_path / "nothing.toml")
    assert "E101 this is a folder, not a file" in said(tmp_path)
    assert "E101 this is not a regular file" in said("/dev/zero")
    assert "E101 the file does not exist" in said("a\x00b")
    assert "E101" in said("x" * 5000)
    secret = tmp_path / "secret.toml"
    secret.write_text("[tasks.dance]")
    secret.chmod(0)
    if os.geteuid():
        assert "E101 the file cannot be read: Permission denied" in said(secret)
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    assert "E101" in said(tmp_path / "loop.toml")


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "E101 this is not a regular file" in said(tmp_path / "pipe")


def test_a_mark_and_windows_line_ends_are_fine(tmp_path):
    file = tmp_path / "tasks.toml"
    file.write_bytes(b"\xef\xbb\xbf[tasks.dance]\r\nhelp = 'x'\r\n")
    assert load_config(file, env={}).tasks["dance"].help == "x"


def test_the_command_reads_a_pipe_and_standard_input(tmp_path):
    command = [sys.executable, "-m", "runner", "check"]
    for name, data, exit_code in (("-", b"[tasks.x]\ncall = 'os:getcwd'", 0), ("-", b"\xff\xfe", 3)):
        done = subprocess.run([*command, name], input=data, capture_output=True, cwd=tmp_path, check=False, timeout=20)
        assert done.returncode == exit_code, done
        assert b"Traceback" not in done.stderr
    read, write = os.pipe()
    threading.Thread(target=lambda: (os.write(write, b"[tasks.x]\ncall = 'os:getcwd'"), os.close(write))).start()
    done = subprocess.run(
        [*command, f"/dev/fd/{read}"], pass_fds=(read,), capture_output=True, cwd=tmp_path, check=False, timeout=20
    )
    os.close(read)
    assert done.returncode == 0, done


def test_more_tests_than_make_sense(tmp_path):
    text = "[tasks.a]\n" + "".join(f'[[tests]]\nname = "{number}"\n' for number in range(1001))
    (tmp_path / "tasks.toml").write_text(text)
    found = config.examine(tmp_path / "tasks.toml")
    assert [problem.code for problem in found.problems] == ["E117"]
    assert "the file has 1,001 tests, and at most 1,000 make sense" in found.problems[0].message
