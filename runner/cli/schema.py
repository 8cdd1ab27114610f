"""`runner schema`."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Option


def schema(
    record: Annotated[
        bool, Option("--record", help="Of what `run --json` and `report --json` write, instead.")
    ] = False,
) -> None:
    """Write the JSON Schema (draft 2020-12) of the file, for editors.

    In Even Better TOML and other editors with Taplo, `#:schema ./runner.schema.json` in the first line of a file
    gives completion, help and errors while you type.

    Examples:
      runner schema > runner.schema.json

      runner schema --record > record.schema.json
    """
    from runner.config.grammar import build_schema
    from runner.report.record import record_schema

    print(json.dumps(record_schema() if record else build_schema(), indent=2, ensure_ascii=False))
