"""The declarations in `[params]`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.config import grammar
from runner.config.diagnostics import InvalidValue, describe_value
from runner.config.params import UNKNOWN, Params, convert_param, to_type, type_of
from runner.config.reader import Reader
from runner.config.source_map import VALUE_PART
from runner.model import Param
from runner.problems import quote_name
from runner.text import did_you_mean

if TYPE_CHECKING:
    from runner.config.diagnostics import Diagnostics


def read(raw: Any, report: Diagnostics) -> Params:
    """Return every declaration; a wrong one is reported, and its value is UNKNOWN."""
    params = Params(report)
    if not isinstance(raw, dict):
        report.add_problem("E103", f"`params` must be a table, not {describe_value(raw)}", ("params", VALUE_PART))
        return params
    for word, value in raw.items():
        before = len(report.problems)
        if not report.check_name(word, "param", ("params", word)):
            continue
        long = isinstance(value, dict)
        table = value if long else {"default": value}
        if long and _may_be_secret(value):
            report.source_map.hide_secret(("params", word, "default"), value.get("default", ""))
        made = Reader(report).convert_table(table, grammar.PARAM, ("params", word), f"param {quote_name(word)}")
        try:
            if len(report.problems) == before:
                params.declared[word] = _make_param(word, made)
                continue
        except InvalidValue as wrong:
            path = ("params", word, wrong.key, VALUE_PART) if long and wrong.key else ("params", word)
            report.add_problem(wrong.code, f"param {quote_name(word)} {wrong.message}", path, wrong.hint)
        params.values[word] = UNKNOWN
    return params


def _may_be_secret(table: dict[str, Any]) -> bool:
    """Return True also if `secret` is misspelt or has a wrong value: the error must not show the secret."""
    return any(
        value is not False and (key == "secret" or did_you_mean(key, ("secret",))) for key, value in table.items()
    )


def _make_param(word: str, made: dict[str, Any]) -> Param:
    kind = made.get("type") or type_of(made.get("default", ""))
    if kind is None:
        raise InvalidValue("E114", f"cannot be {describe_value(made['default'])}", key="default")
    if made.get("required") and "default" in made:
        raise InvalidValue("E114", "has a default, so it cannot be required", key="required")
    if not made.get("required") and "default" not in made:
        raise InvalidValue("E114", "needs a `default` or `required = true`")
    bounds = {}
    for key in ("min", "max"):
        if key in made:
            bounds[key] = _convert_bound(_bound_type(kind, key), made[key], key)
    if None not in {bounds.get("min"), bounds.get("max")} and bounds["min"] > bounds["max"]:
        raise InvalidValue("E114", "has a `min` above its `max`", key="min")
    choices = made.get("choices")
    if choices is not None:
        choices = tuple(_convert_bound(kind, one, "choices") for one in choices)
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
        return replace(param, default=convert_param(param, made["default"]))
    except InvalidValue as wrong:
        raise InvalidValue("E114", f"has a default that {wrong.message}", wrong.hint, key="default") from None


def _bound_type(kind: str, key: str) -> str:
    if kind in {"bool", "path"}:
        raise InvalidValue("E114", f"is a {kind}, which has no `{key}`", key=key)
    return "int" if kind in {"str", "list"} else kind


def _convert_bound(kind: str, value: Any, key: str) -> Any:
    try:
        return to_type(kind, value)
    except InvalidValue as wrong:
        raise InvalidValue("E114", f"has a wrong `{key}`: it {wrong.message}", key=key) from None
