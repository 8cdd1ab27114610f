"""The census finds what it is there to find; a project is what its test wrote."""

import contextlib
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import psutil
import pytest
from helpers import TOKEN, WORKER, Census, Project, Running, source, still_there

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors and shared memory are read from /proc")


def test_a_clean_test_leaves_nothing():
    assert list(Census.take().leaks()) == []


def test_a_child_is_found_and_killed():
    census = Census.take()
    with subprocess.Popen(SLEEP) as child:
        (leak,) = census.leaks(limit=0.1)
        assert leak.startswith(f"child process {child.pid} ")
        assert child.wait(10) == -9


def test_a_child_that_ends_in_time_is_no_leak():
    census = Census.take()
    with subprocess.Popen([sys.executable, "-c", ""]):
        assert list(census.leaks()) == []


def test_a_thread_is_found():
    census = Census.take()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="straggler", daemon=True)  # if this fails, pytest still ends
    thread.start()
    assert list(census.leaks(limit=0.1)) == ["thread straggler"]
    ended.set()
    thread.join()


def test_a_descriptor_is_found():
    census = Census.take()
    descriptor = os.open(__file__, os.O_RDONLY)
    assert list(census.leaks(limit=0.1)) == [f"descriptor {__file__}"]
    os.close(descriptor)


def test_shared_memory_is_found():
    census = Census.take()
    name = Path("/dev/shm") / f"runner-census-{WORKER}-{uuid.uuid4().hex}"
    name.touch()
    try:
        assert f"shared memory {name.name}" in list(census.leaks(limit=0.1))
    finally:
        name.unlink()


def start(code: str) -> Running:
    """A command that is not runner, started as a project starts runner."""
    token = uuid.uuid4().hex
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, TOKEN: token}
    command = [sys.executable, "-c", code]
    return Running(subprocess.Popen(command, env=environment, start_new_session=True, encoding="utf-8", **pipes), token)


def test_an_outcome_has_all_a_test_asks_for():
    outcome = start("""print('b\\na\\n{"x": 1}'); raise SystemExit('oh')""").finish()
    assert (outcome.exit, outcome.err, outcome.json) == (1, "oh\n", {"x": 1})
    assert outcome.lines == ["a", "b", '{"x": 1}']


def test_a_command_that_hangs_fails_with_what_it_wrote():
    running = start("print('so far', flush=True); import time; time.sleep(60)")
    with pytest.raises(pytest.fail.Exception, match=r"(?s)no end after 0\.5 s.*so far"):
        running.finish(timeout=0.5)


def test_a_grandchild_left_behind_is_found_and_killed():
    running = start(
        "import subprocess; null = subprocess.DEVNULL;"
        f"print(subprocess.Popen({SLEEP!r}, start_new_session=True, stdout=null, stderr=null, stdin=null).pid)"
    )
    with pytest.raises(AssertionError, match="left behind") as caught:
        running.finish()
    pid = int(str(caught.value).partition("--- out\n")[2].split()[0])
    with contextlib.suppress(psutil.NoSuchProcess):
        assert still_there([psutil.Process(pid)], limit=10) == []


def test_files_are_dedented_text_or_the_body_of_a_function(tmp_path):
    def plugin():
        def bake():
            return "loaf"

    Project(tmp_path).write({"tasks.toml": "\n    [tasks.bake]\n    workers = 2\n", "plugins/x.py": plugin})
    assert (tmp_path / "tasks.toml").read_text() == "[tasks.bake]\nworkers = 2\n"
    assert (tmp_path / "plugins/x.py").read_text() == 'def bake():\n    return "loaf"\n'
    assert source("x\n") == "x\n"
