"""Starting a process while what starts it dies."""

import subprocess
import sys
from pathlib import Path

import pytest

#: The moment in which a dying server has let go of its socket, made longer: nobody listens there, and the server
#: is still a process that cannot be waited for.
DYING = """
import os, signal, socket, sys, threading
from multiprocessing import forkserver
from runner.engines.spawn import Spawner

spawner = Spawner("forkserver")
spawner.start_fork_server([])
server = forkserver._forkserver
deaf = socket.socket(socket.AF_UNIX)
deaf.bind(sys.argv[1])
server._forkserver_address = sys.argv[1]
threading.Timer(0.1, os.kill, (server._forkserver_pid, signal.SIGKILL)).start()
process = spawner.start(print, ("started",), "late")
process.join()
spawner.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork server")
def test_a_fork_server_that_dies_is_waited_for(tmp_path: Path):
    command = [sys.executable, "-c", DYING, str(tmp_path / "deaf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
