"""Numbers and durations, as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Short, with the unit.

    >>> duration(0.0042), duration(3.25), duration(252), duration(7384)
    ('4ms', '3.2s', '4m12s', '2h03m')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds != int(seconds) else f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def number(count: int, word: str) -> str:
    """A count with its word.

    >>> number(1, "item"), number(1200, "item")
    ('1 item', '1,200 items')
    """
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def moment(seconds: float) -> str:
    """A short time, to two figures.

    >>> moment(1.48e-7), moment(0.0000123), moment(0.0042), moment(0.25), moment(3.1), moment(252)
    ('0.15us', '12us', '4.2ms', '250ms', '3.1s', '4m12s')
    """
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        value = seconds / size
        if value < 999.5 and unit != "s":
            return (
                f"{value:.2f}{unit}"
                if value < 0.995
                else f"{value:.1f}{unit}"
                if value < 9.95
                else f"{value:.0f}{unit}"
            )
    return duration(seconds)


def count(items: int) -> str:
    """A count; from a million on to three figures.

    >>> count(999_999), count(1_234_567), count(10_000_000)
    ('999,999', '1.23M', '10.0M')
    """
    if items < 1_000_000:
        return f"{items:,}"
    value, unit = (items / 1e6, "M") if items < 999_500_000 else (items / 1e9, "G")
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f}{unit}"


def bytes_(size: int) -> str:
    """Bytes in the unit that suits.

    >>> bytes_(512), bytes_(21_520_384), bytes_(3_400_000_000)
    ('512B', '22MB', '3.4GB')
    """
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f}{unit}" if value >= 9.95 or unit == "B" else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}TB"
