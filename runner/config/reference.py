"""The tables of docs/reference/file.md, made of the grammar: what is written there cannot differ from what is read."""

from __future__ import annotations

from runner.config import grammar

#: What stands in a page around a table; `NAME` is one of `grammar.TABLES`.
BEGIN_MARK, END_MARK = "<!-- keys: NAME -->", "<!-- end -->"

_KINDS = {
    "after": "names, or a table",
    "args": "a list",
    "batch": "a number, or a table",
    "bool": "`true`, `false`",
    "call": "a name",
    "duration": "a time",
    "env": "a table of strings",
    "exceptions": "names",
    "float": "a number",
    "int": "a whole number",
    "path": "a path",
    "ports": "names, or a table",
    "queue": "a name",
    "queues": "names",
    "rate": '`"50/s"`, `"100/min"`',
    "engine": "a name",
    "size": "a size",
    "str": "a string",
    "strs": "strings",
    "table": "a table",
    "with": "a table",
    "list": "a list",
    "any": "anything",
}


def fill_page(page: str) -> str:
    """The page with every marked table as the grammar has it."""
    for name in grammar.TABLES:
        begin = BEGIN_MARK.replace("NAME", name)
        before, mark, rest = page.partition(begin)
        if mark:
            page = f"{before}{begin}\n\n{key_table(name)}\n\n{END_MARK}{rest.partition(END_MARK)[2]}"
    return page


def key_table(name: str) -> str:
    """One table of keys as Markdown."""
    rows = ["| key | default | value | meaning |", "|---|---|---|---|"]
    rows += [_row(name, key) for key in grammar.TABLES[name].values()]
    return "\n".join(rows)


def _row(table_name: str, key: grammar.Key) -> str:
    default = f"`{key.default}`" if key.default and _is_value(key) else key.default
    if key.kind == "table" and key.table in grammar.TABLES and table_name == "task":
        inner = [f"{each.name} = {each.default}" for each in grammar.TABLES[key.table].values() if each.default]
        default = f"`{{ {', '.join(inner)} }}`" if inner else ""
    missing = grammar.UNSUPPORTED_KEYS.get((table_name, key.name))
    meaning = key.help + (f". Not in this version: {missing.description}" if missing else "")
    return f"| `{key.name}` | {default} | {_value(key)} | {meaning} |".replace("  ", " ")


def _is_value(key: grammar.Key) -> bool:
    return " " not in key.default or key.default.startswith(("{", "["))


def _value(key: grammar.Key) -> str:
    if key.choices:
        return ", ".join(f'`"{choice}"`' for choice in key.choices)
    if key.table in grammar.TABLES and key.kind in {"table", "batch"}:
        inner = ", ".join(f"`{name}`" for name in grammar.TABLES[key.table])
        return f"{'a number, or ' * (key.kind == 'batch')}a table of {inner}"
    text = _KINDS.get(key.kind, "")
    return f"{text}, at least {key.low:g}" if key.kind == "int" and key.low else text
