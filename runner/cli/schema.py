"""`runner schema`."""

from __future__ import annotations

import json


def schema() -> None:
    """Write the JSON Schema (draft 2020-12) of the file, for editors.

    In Even Better TOML and other editors with Taplo, `#:schema ./runner.schema.json` in the first line of a file
    gives completion, help and errors while you type.

    Examples:
      runner schema > runner.schema.json
    """
    from runner.config.schema import build

    print(json.dumps(build(), indent=2, ensure_ascii=False))
