"""Starting a process while what starts it dies."""

import os
import signal
import subprocess
import sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import psutil
import pytest

from runner.engines import spawn
from runner.engines.spawn import Spawner


def test_a_fork_server_that_dies_over_a_start_is_replaced_by_the_next_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spawn, "START_TIMEOUT_AFTER_SIGNAL", 0.0)
    spawner = Spawner("forkserver")
    spawner.start_fork_server([])
    try:
        assert spawner.server is not None
        first = spawner.server.pid
        os.kill(first, signal.SIGSTOP)  # it has not read the request when it dies
        with pytest.raises(EOFError):
            spawner.start(print, (), "one", hurried=lambda: os.kill(first, signal.SIGKILL) is not None)
        started = spawner.start(print, (), "two")
        started.wait_for_exit_code(20)
        assert started.exit_code == 0
        os.close(started.status_fd)
        assert spawner.server.pid != first
    finally:
        spawner.close()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="named shared memory cannot be listed here")
def test_the_resource_tracker_is_started_by_the_first_task_that_needs_it_and_removes_what_is_left():
    def finish(target: Any, *args: object) -> list[psutil.Process]:
        started = spawner.start(target, args, "one")
        started.wait_for_exit_code(20)
        os.close(started.status_fd)
        assert started.exit_code == 0
        assert spawner.server is not None
        return psutil.Process(spawner.server.pid).children()

    block = Path(f"/dev/shm/runner-test-{os.getpid()}")
    spawner = Spawner("forkserver")
    spawner.start_fork_server([])
    try:
        assert finish(print) == []
        assert len(finish(SharedMemory, block.name, True, 1000)) == 1
        assert block.exists()  # other workers may use it
        finish(print)
    finally:
        spawner.close()
    assert not block.exists()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="named shared memory cannot be listed here")
def test_a_fork_server_removes_shared_memory_although_runner_dies_at_once():
    block = Path(f"/dev/shm/runner-test-{os.getpid()}")
    code = f"""
import os
from multiprocessing.shared_memory import SharedMemory
from runner.engines.spawn import Spawner
spawner = Spawner("forkserver")
spawner.start(SharedMemory, ({block.name!r}, True, 1000), "one").wait_for_exit_code(20)
print(os.path.exists({str(block)!r}), flush=True)
os.kill(os.getpid(), 9)
"""
    # Standard error stays open until the fork server and the tracker have ended.
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert outcome.stdout == "True\n"
    assert "1 leaked shared_memory" in outcome.stderr
    assert not block.exists()
