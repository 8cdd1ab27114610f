"""Which installed plugins may be used at all; decided by names, before anything is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DISABLE_VARIABLE = "RUNNER_DISABLE_PLUGINS"
ONLY_VARIABLE = "RUNNER_PLUGINS"


@dataclass(frozen=True, slots=True)
class PluginPolicy:
    """The plugins that may be used, by names of plugins or of distributions.

    `blocked_names` says for each name which option or variable blocks it; `blocks_others` is the one that blocks all
    installed plugins but those of `allowed_names`, if there is one.
    """

    blocked_names: Mapping[str, str]
    blocks_others: str = ""
    allowed_names: frozenset[str] = frozenset()

    @classmethod
    def read(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        blocked: Iterable[str] = (),
        none: bool = False,
        only: Iterable[str] = (),
    ) -> PluginPolicy:
        """Read the environment and the command line, whose `--only-plugin` counts instead of RUNNER_PLUGINS.

        >>> PluginPolicy.read({"RUNNER_DISABLE_PLUGINS": "a, b"}).reason_to_block("b", "distribution-of-b")
        'RUNNER_DISABLE_PLUGINS'
        """
        env = os.environ if env is None else env
        disabled = _split_words(env.get(DISABLE_VARIABLE, ""))
        everything = disabled & {"1", "true", "all"}
        names = {normalized_name(word): DISABLE_VARIABLE for word in disabled - everything}
        names |= {normalized_name(word): f"--no-plugin {word}" for word in blocked}
        if none or everything:
            return cls(names, "--no-plugins" if none else DISABLE_VARIABLE)
        if chosen := frozenset(map(normalized_name, only)):
            return cls(names, "--only-plugin", chosen)
        if ONLY_VARIABLE in env:
            return cls(names, ONLY_VARIABLE, frozenset(map(normalized_name, _split_words(env[ONLY_VARIABLE]))))
        return cls(names)

    def reason_to_block(self, name: str, distribution: str | None) -> str:
        """Return the option or variable that blocks a plugin (installed if it has a distribution); empty: none does."""
        mine = {normalized_name(name), normalized_name(distribution or name)}
        for word in mine:
            if word in self.blocked_names:
                return self.blocked_names[word]
        return "" if distribution is None or mine & self.allowed_names else self.blocks_others


def _split_words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def normalized_name(name: str) -> str:
    """Normalize a name: distributions' names are the same with `-`, `_` or `.`, and in any case."""
    return name.replace("_", "-").replace(".", "-").lower()
