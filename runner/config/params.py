"""`[params]`: what a file leaves open. Values come from -p, the environment or the file, and go into `${name}`."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import grammar
from runner.config.reader import UNKNOWN, AlreadyReported, InvalidValue, describe_value
from runner.config.source_map import VALUE_PART
from runner.config.units import WrittenDuration, WrittenSize
from runner.model import Param
from runner.problems import quote_name
from runner.structs import dataclass, field
from runner.text import clean_text, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from runner.config.reader import Reader
    from runner.config.source_map import KeyPath as Spot

#: All that `${name}` puts into a file, in characters: many times the largest file. An element of a list counts as more.
MAX_FILLED_SIZE = 16 * 1024 * 1024
_ELEMENT = 16
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_INT = re.compile(r"[+-]?[0-9]{1,18}")
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def convert_param(param: Param, value: Any) -> Any:
    """Return a value of the file, or a text from outside, as the param's type; `InvalidValue` beyond bounds."""
    found = to_type(param.type, value)
    shown = "" if param.secret else f", not {clean_text(str(value), 60)}"
    if param.choices is not None and found not in param.choices:
        words = [clean_text(str(one)) for one in param.choices]
        hint = "" if param.secret else did_you_mean(str(value), words)
        raise InvalidValue("E113", f"must be one of {', '.join(words)}{shown}", hint)
    measure, what = (len(found), "in length ") if param.type in {"str", "list"} else (found, "")
    if param.min is not None and measure < param.min:
        raise InvalidValue("E113", f"must {what}be at least {param.min}{shown}")
    if param.max is not None and measure > param.max:
        raise InvalidValue("E113", f"must {what}be at most {param.max}{shown}")
    return found


def to_type(kind: str, value: Any) -> Any:
    """Return a value as a param type; texts are read, other values must fit already. Raises `InvalidValue`.

    >>> to_type("int", "12"), to_type("bool", "yes"), to_type("list", "a,b"), to_type("duration", "1m") + 0
    (12, True, ['a', 'b'], 60.0)
    """
    wanted, plain, read = _PARAM_TYPES[kind]
    try:
        if isinstance(value, str):
            return read(value)
        if isinstance(value, plain) and (kind == "bool" or not isinstance(value, bool)):
            return float(value) if kind == "float" else value
    except (ValueError, KeyError, OverflowError):
        pass
    raise InvalidValue("E113", f"must be {wanted}, not {clean_text(str(value), 60)}")


def _read_int(text: str) -> int:
    if not _INT.fullmatch(text.strip()):
        raise ValueError(text)
    return int(text)


def _read_float(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _read_path(text: str) -> Path:
    if "\x00" in text or not text:
        raise ValueError(text)
    return Path(text)


#: Of each type of a param: the words of a message, values of the file that have it already, and how a text is read.
_PARAM_TYPES: dict[str, tuple[str, Any, Callable[[str], Any]]] = {
    "bool": ("true or false", (bool,), lambda text: _TRUTH[text.strip().lower()]),
    "int": ("a whole number", (int,), _read_int),
    "float": ("a number", (int, float), _read_float),
    "str": ("a string", (str,), str),
    "list": ("a list", (list,), lambda text: [one.strip() for one in text.split(",")] if text.strip() else []),
    "path": ("a path", (), _read_path),
    "duration": ('a duration such as "10s"', (), WrittenDuration),
    "size": ('a size such as "64KiB"', (), WrittenSize),
}


@dataclass(slots=True)
class Params:
    """The declared params and their values; `values[name]` is UNKNOWN when a problem was reported for it."""

    reader: Reader
    declared: dict[str, Param] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    used_names: set[str] = field(default_factory=set)
    value_sources: dict[str, str] = field(default_factory=dict)
    references: dict[Spot, tuple[str, ...]] = field(default_factory=dict)
    filled_size: int = 0

    def resolve_values(self, given: Mapping[str, str], env: Mapping[str, str], *, lenient: bool = False) -> None:
        """Find the value of each param: --set, -p, its variable, its default; `lenient`: a required one may lack it."""
        for word in given:
            if word not in self.values and word not in self.declared:
                origin = (f"-p {word}",)
                self.reader.source_map.given[origin] = f"-p {clean_text(word, 60)}"
                hint = self.reader.suggest_nearest(word, self.declared)
                self.reader.add_problem("E111", f"unknown param {quote_name(word)}", origin, hint)
        for param in self.declared.values():
            self.values[param.name] = self._choose_value(param, given, env, lenient=lenient)

    def _choose_value(self, param: Param, given: Mapping[str, str], env: Mapping[str, str], *, lenient: bool) -> Any:
        path: Spot = ("params", param.name)
        if path in self.reader.source_map.given:  # --set, which goes before everything
            self.value_sources[param.name] = self.reader.source_map.given[path]
            return param.default
        if param.name in given:
            value, source, origin = given[param.name], "-p", f"-p {param.name}"
        elif param.env is not None and param.env in env:
            value, source = env[param.env], f"environment variable {param.env}"
            origin = source
        elif param.required:
            hint = f"give it with `-p {param.name}=VALUE`" + (f" or in {param.env}" if param.env else "")
            text = f"param {quote_name(param.name)} is required and has no value"
            self.reader.add_problem("E112", text, path, hint, "warning" if lenient else "error")
            return UNKNOWN
        else:
            return param.default
        self.value_sources[param.name] = source
        path = (origin,)
        self.reader.source_map.given[path] = origin
        if param.secret:
            self.reader.source_map.hide_secret(("params", param.name), value)
        try:
            return convert_param(param, value)
        except InvalidValue as wrong:
            text = f"param {quote_name(param.name)} {wrong.message}"
            self.reader.add_problem(wrong.code, text, path, wrong.hint)
            return UNKNOWN

    def fill_references(self, value: Any, path: Spot) -> Any:
        """Return the value with every `${name}` in its strings replaced; UNKNOWN where that could not be done."""
        if isinstance(value, str):
            if "${" not in value:
                return value
            self.references[path] = tuple(match[1] for match in _REFERENCE.finditer(value) if match[1])
            try:
                return self._fill_text(value)
            except InvalidValue as wrong:
                self.reader.add_problem(wrong.code, wrong.message, (*path, VALUE_PART), wrong.hint)
            except AlreadyReported:
                pass
            return UNKNOWN
        if isinstance(value, dict):
            return {key: self.fill_references(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.fill_references(inner, (*path, str(number))) for number, inner in enumerate(value)]
        return value

    def _fill_text(self, text: str) -> Any:
        whole = _REFERENCE.fullmatch(text)
        if whole is not None and whole[0] != "$${":
            again = whole[1] in self.used_names
            value = self._look_up(whole)
            if again and isinstance(value, (str, list)):
                self._count_filled(len(value) * (_ELEMENT if isinstance(value, list) else 1))
            return value
        return _REFERENCE.sub(self._fill_match, text)

    def _count_filled(self, size: int) -> None:
        """Count what is put into the file: one of kilobytes must not become one of gigabytes."""
        if self.filled_size > MAX_FILLED_SIZE:
            raise AlreadyReported
        self.filled_size += size
        if self.filled_size > MAX_FILLED_SIZE:
            text = f"`${{...}}` would put more than {MAX_FILLED_SIZE // 1024**2} MiB into the file"
            raise InvalidValue("E118", text, "let the function read large values from a file")

    def _fill_match(self, match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        value = self._look_up(match)
        if isinstance(value, list):
            text = f"param {quote_name(match[1])} is a list, which fits no text"
            raise InvalidValue("E115", text, "a lone reference keeps it")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        self._count_filled(len(text))
        return text

    def _look_up(self, match: re.Match[str]) -> Any:
        word = match[1]
        if word is None:
            raise InvalidValue("E115", "`${` without `}`", "write `$${` for a literal `${`")
        if word not in self.declared:
            if word in self.values or ("params",) in self.reader.unknown_paths:
                raise AlreadyReported  # its declaration is wrong
            hint = self.reader.suggest_nearest(word, self.declared)
            self.used_names.update(hint.split("`")[1:2])
            raise InvalidValue("E111", f"unknown param {quote_name(word)}", hint or "write `$${` for a literal `${`")
        self.used_names.add(word)
        if self.values[word] is UNKNOWN:
            raise AlreadyReported
        return self.values[word]


def read_params(raw: dict[str, Any], reader: Reader) -> Params:
    """Return every declaration; a wrong one is reported, and its value is UNKNOWN."""
    params = Params(reader)
    for word, value in raw.items():
        before = len(reader.problems)
        if not reader.check_name(word, "param", ("params", word)):
            continue
        long = isinstance(value, dict)
        table = value if long else {"default": value}
        # Also if `secret` is misspelt or has a wrong value: the error must not show the secret.
        if long and any(
            mark is not False and (key == "secret" or did_you_mean(key, ("secret",))) for key, mark in value.items()
        ):
            reader.source_map.hide_secret(("params", word, "default"), value.get("default", ""))
        made = reader.convert_table(table, grammar.PARAM, ("params", word), f"param {quote_name(word)}")
        try:
            if len(reader.problems) == before:
                params.declared[word] = _make_param(word, made)
                continue
        except InvalidValue as wrong:
            path = ("params", word, wrong.key, VALUE_PART) if long and wrong.key else ("params", word)
            reader.add_problem(wrong.code, f"param {quote_name(word)} {wrong.message}", path, wrong.hint)
        params.values[word] = UNKNOWN
    return params


def _make_param(word: str, made: dict[str, Any]) -> Param:
    default = made.get("default", "")
    default_type = next((one for one, (_, plain, _) in _PARAM_TYPES.items() if isinstance(default, plain)), "")
    kind = made.setdefault("type", default_type)
    if not kind:
        raise InvalidValue("E114", f"cannot be {describe_value(default)}", key="default")
    if made.get("required") and "default" in made:
        raise InvalidValue("E114", "has a default, so it cannot be required", key="required")
    if not made.get("required") and "default" not in made:
        raise InvalidValue("E114", "needs a `default` or `required = true`")
    made |= {key: _convert_bound(kind, made[key], key) for key in ("min", "max") if key in made}
    if "min" in made and "max" in made and made["min"] > made["max"]:
        raise InvalidValue("E114", "has a `min` above its `max`", key="min")
    if "choices" in made:
        made["choices"] = tuple(_convert_bound(kind, one, "choices") for one in made["choices"])
    param = Param(word, **made)
    if param.required:
        return param
    try:
        return replace(param, default=convert_param(param, param.default))
    except InvalidValue as wrong:
        raise InvalidValue("E114", f"has a default that {wrong.message}", wrong.hint, key="default") from None


def _convert_bound(kind: str, value: Any, key: str) -> Any:
    """Return one of `choices`, or `min` or `max`, which are lengths of strings and lists."""
    if key != "choices" and kind in {"bool", "path"}:
        raise InvalidValue("E114", f"is a {kind}, which has no `{key}`", key=key)
    try:
        return to_type("int" if key != "choices" and kind in {"str", "list"} else kind, value)
    except InvalidValue as wrong:
        raise InvalidValue("E114", f"has a wrong `{key}`: it {wrong.message}", key=key) from None
