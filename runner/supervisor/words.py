"""Units in the supervisor's own sentences."""

from __future__ import annotations


def format_seconds(value: float) -> str:
    """A time as the file would write it.

    >>> format_seconds(30), format_seconds(0.25), format_seconds(120)
    ('30s', '250ms', '2m')
    """
    if value < 1:
        return f"{value * 1000:g}ms"
    return f"{value / 60:g}m" if value >= 60 and value % 60 == 0 else f"{value:g}s"
