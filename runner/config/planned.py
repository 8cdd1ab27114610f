"""The words of the language that this version refuses with E108, in one table: they are planned.

No schema, completion or page of the reference offers them. When the engine learns one, its line leaves this table and
its key joins `grammar`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class PlannedFeature(NamedTuple):
    """A key or a value: as a file writes it, what it will give, and whether this version refuses a value of the key.

    A value that only says what happens anyway (`durable = false`) is not refused.
    """

    written: str
    feature: str
    is_refused: Callable[[Any], bool] = lambda value: True

    @property
    def message(self) -> str:
        """The message of E108."""
        return f"`{self.written}` is planned: this version of runner does not have {self.feature} yet"


#: By table and key.
PLANNED: dict[tuple[str, str], PlannedFeature] = {
    ("task", "workers"): PlannedFeature(
        'workers = "2..16"', "workers that adapt", lambda value: isinstance(value, str) and ".." in value
    ),
}
