"""Which installed plugins may be used at all; decided by names, before anything is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DISABLE = "RUNNER_DISABLE_PLUGINS"
ONLY = "RUNNER_PLUGINS"


@dataclass(frozen=True, slots=True)
class Choice:
    """`blocked` and `only` are names of plugins or of distributions; each word in `why` says who wants it so.

    `only` (None: everybody) and `none` concern installed plugins; `blocked` local ones as well.
    """

    blocked: Mapping[str, str]
    only: frozenset[str] | None = None
    none: str = ""
    only_why: str = ""

    @classmethod
    def read(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        blocked: Iterable[str] = (),
        none: bool = False,
        only: Iterable[str] = (),
    ) -> Choice:
        """From the environment and the command line, whose `--only-plugin` counts instead of RUNNER_PLUGINS.

        >>> Choice.read({"RUNNER_DISABLE_PLUGINS": "a, b"}).reason("b", "", installed=True)
        'RUNNER_DISABLE_PLUGINS'
        """
        env = os.environ if env is None else env
        disabled = _words(env.get(DISABLE, ""))
        everything = disabled & {"1", "true", "all"}
        names = {_plain(word): DISABLE for word in disabled - everything}
        names |= {_plain(word): f"--no-plugin {word}" for word in blocked}
        chosen, why = frozenset(map(_plain, only)), "--only-plugin"
        if not chosen and ONLY in env:
            chosen, why = frozenset(map(_plain, _words(env[ONLY]))), ONLY
        limited = bool(chosen) or ONLY in env
        return cls(
            names,
            chosen if limited else None,
            "--no-plugins" if none else DISABLE if everything else "",
            why,
        )

    def reason(self, name: str, distribution: str, *, installed: bool) -> str:
        """What blocks a plugin; empty when nothing does."""
        mine = {_plain(name), _plain(distribution)} - {""}
        for word in mine:
            if word in self.blocked:
                return self.blocked[word]
        if not installed:
            return ""
        if self.none:
            return self.none
        return self.only_why if self.only is not None and not mine & self.only else ""


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}


def _plain(name: str) -> str:
    """Names of distributions are the same with `-`, `_` or `.`, and in any case."""
    return name.replace("_", "-").replace(".", "-").lower()
