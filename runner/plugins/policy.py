"""Which installed plugins may be used at all; decided by names, before anything is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DISABLE_VARIABLE = "RUNNER_DISABLE_PLUGINS"
ONLY_VARIABLE = "RUNNER_PLUGINS"


class PluginPolicy(Struct, frozen=True):
    """`blocked` and `only` are names of plugins or of distributions; each word in `why` says who wants it so.

    `only` (None: everybody) and `none` concern installed plugins; `blocked` local ones as well.
    """

    blocked_names: Mapping[str, str]
    allowed_names: frozenset[str] | None = None
    blocks_installed: str = ""
    allowed_names_source: str = ""

    @classmethod
    def read(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        blocked: Iterable[str] = (),
        none: bool = False,
        only: Iterable[str] = (),
    ) -> PluginPolicy:
        """From the environment and the command line, whose `--only-plugin` counts instead of RUNNER_PLUGINS.

        >>> PluginPolicy.read({"RUNNER_DISABLE_PLUGINS": "a, b"}).reason_to_block("b", "", installed=True)
        'RUNNER_DISABLE_PLUGINS'
        """
        env = os.environ if env is None else env
        disabled = _words(env.get(DISABLE_VARIABLE, ""))
        everything = disabled & {"1", "true", "all"}
        names = {_plain(word): DISABLE_VARIABLE for word in disabled - everything}
        names |= {_plain(word): f"--no-plugin {word}" for word in blocked}
        chosen, why = frozenset(map(_plain, only)), "--only-plugin"
        if not chosen and ONLY_VARIABLE in env:
            chosen, why = frozenset(map(_plain, _words(env[ONLY_VARIABLE]))), ONLY_VARIABLE
        limited = bool(chosen) or ONLY_VARIABLE in env
        return cls(
            names,
            chosen if limited else None,
            "--no-plugins" if none else DISABLE_VARIABLE if everything else "",
            why,
        )

    def reason_to_block(self, name: str, distribution: str, *, installed: bool) -> str:
        """What blocks a plugin; empty when nothing does."""
        mine = {_plain(name), _plain(distribution)} - {""}
        for word in mine:
            if word in self.blocked_names:
                return self.blocked_names[word]
        if not installed:
            return ""
        if self.blocks_installed:
            return self.blocks_installed
        return self.allowed_names_source if self.allowed_names is not None and not mine & self.allowed_names else ""


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def _plain(name: str) -> str:
    """Names of distributions are the same with `-`, `_` or `.`, and in any case."""
    return name.replace("_", "-").replace(".", "-").lower()
