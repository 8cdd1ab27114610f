"""The tables of docs/reference/file.md, made of the grammar: what is written there cannot differ from what is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.config import grammar
from runner.config.resolved import to_toml

if TYPE_CHECKING:
    from runner.config.reader import Key, KeyTable

#: What stands in a page around a table; `NAME` is one of `grammar.TABLES`.
BEGIN_MARK, END_MARK = "<!-- keys: NAME -->", "<!-- end -->"


def fill_page(page: str) -> str:
    """Return the page with every marked table as the grammar has it."""
    for name, table in grammar.TABLES.items():
        begin = BEGIN_MARK.replace("NAME", name)
        before, mark, rest = page.partition(begin)
        if mark:
            page = f"{before}{begin}\n\n{key_table(table)}\n\n{END_MARK}{rest.partition(END_MARK)[2]}"
    return page


def key_table(table: KeyTable) -> str:
    """Return one table of keys as Markdown."""
    rows = ["| key | default | value | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{key.name}` | {_show_default(key)} | {key.type.description} | {key.help} |".replace("  ", " ")
        for key in table.values()
    ]
    return "\n".join(rows)


def _show_default(key: Key) -> str:
    if inner := key.type.expand({}):
        return f"`{to_toml(inner)}`"
    return key.default if key.parse_default() is None else f"`{key.default}`"
