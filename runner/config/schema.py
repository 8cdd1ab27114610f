"""The grammar as JSON Schema, draft 2020-12, for editors and other tools.

A schema knows types, names, ranges and units, and nothing of what belongs together; `runner check` knows that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.config import grammar

if TYPE_CHECKING:
    from runner.config.reader import Key, KeyTable


def build_schema() -> dict[str, Any]:
    """Return the schema of the whole file."""
    tables = [table for table in grammar.TABLES.values() if table is not grammar.TOP]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "runner",
        "description": "A file of tasks and queues for `runner run`.",
        **_describe_table(grammar.TOP),
        "required": ["tasks"],
        "$defs": {table.schema_id: _describe_table(table) for table in tables},
    }


def _describe_table(table: KeyTable) -> dict[str, Any]:
    required = [key.name for key in table.values() if key.required]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _describe_key(key) for key in table.values()},
        **({"required": required} if required else {}),
    }


def _describe_key(key: Key) -> dict[str, Any]:
    default = key.parse_default()
    return {"description": key.help, **key.type.schema, **({"default": default} if default is not None else {})}
