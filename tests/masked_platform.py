"""Runs on a system that has only what macOS has: the environment that masks the rest, and sessions of pytest in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = Path(__file__).parent / "masked"
#: No session of masked tests takes so long: one that does hangs.
LIMIT = 600.0


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment, with the mask in force in every interpreter that is started with it."""
    path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH", ""))))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": path, **more}


def run_tests(names: Sequence[str], marked: str = "not slow") -> subprocess.CompletedProcess[str]:
    """Run tests in a session of pytest of their own whose interpreters are all masked."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", marked, "-p", "no:cacheprovider", "-n", "0"]
    return subprocess.run(
        [*command, "--timeout=300", *names], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=LIMIT
    )
