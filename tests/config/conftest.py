"""Hundreds of tests that read text: looking for leaked processes after each would take longer than they do."""

from __future__ import annotations

import pytest

#: The plugins of the corpus are no tests, and one of them cannot be imported on purpose.
collect_ignore = ["corpus"]


@pytest.fixture(autouse=True)
def census() -> None:
    """Nothing here starts a process or a thread in this one."""
