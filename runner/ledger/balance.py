"""The balance: every item that came in has ended in exactly one way.

For each line: put = done + dead + dropped + left. For the whole run the headline says the same in terms of what
sources read: items that a task makes beyond one for each it took (a generator that yields many, a queue that is
copied) are counted as *made*.
"""

from __future__ import annotations

from msgspec import Struct

from runner.structs import dataclass


@dataclass(slots=True)
class ItemCounts:
    """Counts of items, of one line or of one task."""

    put: int = 0
    done: int = 0
    dead: int = 0
    dropped: int = 0
    left: int = 0

    @property
    def missing(self) -> int:
        """0 when the balance holds, once what is left has been counted.

        >>> ItemCounts(put=5, done=3, dead=1, left=1).missing
        0
        """
        return self.put - self.done - self.dead - self.dropped - self.left


class TaskTally(Struct):
    """Counts of items of one task, as a ledger on disk has them: how they ended, and what the balance is made of."""

    done: int = 0
    dead: int = 0
    dropped: int = 0
    repeated: int = 0
    taken: int = 0
    sent: int = 0
    read: int = 0

    @property
    def surplus(self) -> int:
        """Return what it sent beyond what it took or read; below 0, what has come to its end there.

        >>> TaskTally(taken=5, sent=2).surplus
        -3
        """
        return self.sent - self.taken - self.read


@dataclass(frozen=True, slots=True)
class Balance:
    """The run's balance in one line.

    >>> print(Balance(read=10_000, done=9_987, dead=13, repeated=3))
    10,000 read = 9,987 done + 13 dead + 0 dropped + 0 left   (3 repeated)
    >>> print(Balance(read=1, made=9, done=10))
    1 read + 9 made = 10 done + 0 dead + 0 dropped + 0 left
    """

    read: int = 0
    made: int = 0
    done: int = 0
    dead: int = 0
    dropped: int = 0
    left: int = 0
    repeated: int = 0

    @property
    def missing(self) -> int:
        """0 when the balance holds."""
        return self.read + self.made - self.done - self.dead - self.dropped - self.left

    def __str__(self) -> str:
        made = f" + {self.made:,} made" if self.made else ""
        again = f"   ({self.repeated:,} repeated)" if self.repeated else ""
        return (
            f"{self.read:,} read{made} = {self.done:,} done + {self.dead:,} dead"
            f" + {self.dropped:,} dropped + {self.left:,} left{again}"
        )
