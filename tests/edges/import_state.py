"""A module with state that is made when it is imported; for tests/edges/test_imports.py."""

from __future__ import annotations

import uuid

MADE = uuid.uuid4().hex


def made(count: int) -> list[str]:
    return [MADE] * count
