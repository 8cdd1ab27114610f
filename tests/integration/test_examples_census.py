"""The census of the standard library: runner's file is the plain script's, byte for byte."""

import subprocess
import sys

import pytest
from helpers import ROOT

EXAMPLE = ROOT / "examples/census"


@pytest.mark.timeout(300)  # half a minute of computing on two cores, and they may be busy
@pytest.mark.slow
def test_the_same_counts_as_the_serial_script(project, tmp_path):
    mine, serial = tmp_path / "mine.json", tmp_path / "serial.json"
    with subprocess.Popen([sys.executable, EXAMPLE / "plain.py", serial]) as script:
        try:
            outcome = project({}).run(EXAMPLE / "tasks.toml", "-p", f"out={mine}", timeout=200)
            assert script.wait(90) == 0
        finally:
            script.kill()
    assert outcome.exit == 0, outcome
    assert "+ 0 dead + 0 dropped + 0 left" in outcome.err, outcome
    assert mine.read_text() == serial.read_text()
    assert list(tmp_path.glob("*.part")) == []
