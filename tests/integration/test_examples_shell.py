"""Checksums by commands: what the plain script writes, for names of every kind."""

import subprocess
import sys

from helpers import ROOT

EXAMPLE = ROOT / "examples/shell"


def test_the_same_checksums_as_the_serial_script(project, tmp_path):
    files = tmp_path / "files"
    for number, name in enumerate(["a b.txt", "-n.txt", "$(x).txt", "'.txt", "sub/ä.txt", "sub/deep/{}.txt", "no.md"]):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(str(number) * number)
    mine, serial = tmp_path / "mine.txt", tmp_path / "serial.txt"
    subprocess.run([sys.executable, EXAMPLE / "plain.py", files, "**/*.txt", serial], check=True, timeout=60)
    params = {"root": files, "pattern": "**/*.txt", "out": mine}
    options = [word for key, value in params.items() for word in ("-p", f"{key}={value}")]
    outcome = project({}).run(EXAMPLE / "tasks.toml", *options)
    assert outcome.exit == 0, outcome
    assert mine.read_text() == serial.read_text()
    assert len(mine.read_text().splitlines()) == 6
