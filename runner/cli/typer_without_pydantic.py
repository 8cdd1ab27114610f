"""Start without pydantic: typer imports it (100 ms) to convert even a plain string, which needs no conversion.

The seam is private to typer, so it is used only where it is as expected; otherwise typer does what it always does,
and runner starts as slowly as every typer program. `bench/start.py` measures the difference.
"""

from __future__ import annotations

from typing import Any

import typer.core


def skip_pydantic() -> None:
    """Ask pydantic only about values that are not what their parameter wants already."""
    try:
        from typer._coercion import RuntimeParam
    except ImportError:
        return
    usual: Any = getattr(typer.core, "build_runtime_param", None)
    if usual is None or getattr(usual, "light", False):
        return

    class Late(RuntimeParam):
        def _coerce_value(self, value: Any, param: Any, ctx: Any) -> Any:
            if self.parameter_info.parser is None:
                if type(value) is self.annotation:
                    return value
                if self.annotation == list[str] and isinstance(value, (list, tuple)):
                    return list(value)
            return usual(param.type_descriptor).coerce(value, param, ctx)

    def build(descriptor: Any) -> Any:
        return Late(descriptor.parameter_info, descriptor.annotation)

    build.light = True  # type: ignore[attr-defined]
    typer.core.build_runtime_param = build  # type: ignore[attr-defined]
