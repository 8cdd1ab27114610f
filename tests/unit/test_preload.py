"""The fork server has what every worker needs: a later worker is ready within milliseconds."""

import subprocess
import sys


def test_the_fork_server_imports_what_every_worker_runs():
    code = (
        "import sys, runner.engines.fork_server; before = set(sys.modules);"
        "import runner.engines.child, runner.worker, runner.transport.socket_link, runner.transport.stdio;"
        "print(sorted(set(sys.modules) - before))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


def test_it_imports_nothing_that_only_some_runs_need():
    """`hashlib` loads OpenSSL, 5 ms, and is for sources with a key; the ledger of a durable run is the command's."""
    code = (
        "import sys, runner.engines.fork_server, runner.worker.produce;"
        "print(sorted({'hashlib', 'sqlite3', 'runner.store.ledger_file'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
