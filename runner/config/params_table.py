"""The declarations in `[params]`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.config import value_types
from runner.config.diagnostics import Wrong
from runner.config.params import UNKNOWN, Param, Params, to_type, type_of
from runner.config.problems import did_you_mean, name
from runner.config.reader import Reader
from runner.config.source_map import VALUE

if TYPE_CHECKING:
    from runner.config.diagnostics import Report


def read(raw: Any, report: Report) -> Params:
    """Every declaration; a wrong one is reported, and its value is UNKNOWN."""
    params = Params(report)
    if not isinstance(raw, dict):
        report.add("E103", f"`params` must be a table, not {value_types.describe(raw)}", ("params", VALUE))
        return params
    for word, value in raw.items():
        before = len(report.problems)
        if not value_types.NAME.fullmatch(word):
            report.add("E107", f"{name(word)} is no name for a param", ("params", word), value_types.NAME_WANTED)
            continue
        long = isinstance(value, dict)
        table = value if long else {"default": value}
        if long and _may_be_secret(value):
            report.places.hide(("params", word, "default"), value.get("default", ""))
        made = Reader(report).table(table, "param", ("params", word), f"param {name(word)}")
        try:
            if len(report.problems) == before:
                params.declared[word] = _param(word, made)
                continue
        except Wrong as wrong:
            path = ("params", word, wrong.key, VALUE) if long and wrong.key else ("params", word)
            report.add(wrong.code, f"param {name(word)} {wrong.message}", path, wrong.hint)
        params.values[word] = UNKNOWN
    return params


def _may_be_secret(table: dict[str, Any]) -> bool:
    """Also when `secret` is misspelt or has a wrong value: the error must not show what it should have hidden."""
    return any(
        value is not False and (key == "secret" or did_you_mean(key, ("secret",))) for key, value in table.items()
    )


def _param(word: str, made: dict[str, Any]) -> Param:
    kind = made.get("type") or type_of(made.get("default", ""))
    if kind is None:
        raise Wrong("E114", f"cannot be {value_types.describe(made['default'])}", key="default")
    if made.get("required") and "default" in made:
        raise Wrong("E114", "has a default, so it cannot be required", key="required")
    if not made.get("required") and "default" not in made:
        raise Wrong("E114", "needs a `default` or `required = true`")
    bounds = {}
    for key in ("min", "max"):
        if key in made:
            bounds[key] = _converted(_bound_type(kind, key), made[key], key)
    if None not in {bounds.get("min"), bounds.get("max")} and bounds["min"] > bounds["max"]:
        raise Wrong("E114", "has a `min` above its `max`", key="min")
    choices = made.get("choices")
    if choices is not None:
        choices = tuple(_converted(kind, one, "choices") for one in choices)
    param = Param(
        name=word,
        type=kind,
        required=made.get("required", False),
        choices=choices,
        low=bounds.get("min"),
        high=bounds.get("max"),
        env=made.get("env"),
        secret=made.get("secret", False),
        help=made.get("help", ""),
    )
    if param.required:
        return param
    try:
        return replace(param, default=param.convert(made["default"]))
    except Wrong as wrong:
        raise Wrong("E114", f"has a default that {wrong.message}", wrong.hint, key="default") from None


def _bound_type(kind: str, key: str) -> str:
    if kind in {"bool", "path"}:
        raise Wrong("E114", f"is a {kind}, which has no `{key}`", key=key)
    return "int" if kind in {"str", "list"} else kind


def _converted(kind: str, value: Any, key: str) -> Any:
    try:
        return to_type(kind, value)
    except Wrong as wrong:
        raise Wrong("E114", f"has a wrong `{key}`: it {wrong.message}", key=key) from None
