"""Starting a process while what starts it dies."""

import os
import signal

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
