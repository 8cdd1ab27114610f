"""For the tests of plugins and of files: one function over some items, or a whole file, and what came of it.

Opt in with `pytest_plugins = "runner.testing"`, which brings the fixture `project`; `run_task` and `run_file` are plain
functions. Everything runs in the process of the test, so items are Python objects, and threads can be mocked.
Each run has a time limit, so a test ends. (PYTEST_DONT_REWRITE: there is no assert in here.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from runner.testing.entry import Project, run_file, run_task
from runner.testing.running import Run, Running, TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["Project", "Run", "Running", "TaskRun", "project", "run_file", "run_task"]


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Mapping[str, str]], Project]:
    """Write a temporary project: `project({"tasks.toml": text, "plugins/x.py": text}).run(...)`."""
    return lambda files: Project(tmp_path).write(files)
