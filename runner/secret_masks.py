"""Secrets in texts: what a function's error, its output or its result says of them is replaced by stars."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: What stands instead of a secret, whatever its length.
MASKED_TEXT = "***"
#: A shorter secret is part of too many words: without it a message would say nothing, and it hides nothing.
MIN_SECRET_LENGTH = 4
#: Of a secret of several lines each line is one as well, if it is so long.
_MIN_LINE_LENGTH = 8


class SecretMask:
    r"""Replaces secrets, also as they look in a `repr`, in JSON, in a URL or in base64.

    One pass over the text however many secrets there are; false when there are none.

    >>> mask = SecretMask(["s3cr3t", ["other", "no"], 'a"/b c'])
    >>> mask("s3cr3t: OTHER other"), mask('{"x": "a\\"/b c", "no": 1}'), mask("?x=a%22%2Fb+c"), bool(SecretMask([]))
    ('***: OTHER ***', '{"x": "***", "no": 1}', '?x=***', False)
    """

    def __init__(self, secrets: Iterable[Any] = ()) -> None:
        texts = (text for secret in secrets for text in _secret_texts(secret))
        self._known_forms = sorted({form for text in texts for form in _known_forms(text)})

    def __bool__(self) -> bool:
        return bool(self._known_forms)

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        return self._text_pattern.sub(MASKED_TEXT, text) if self._known_forms else text

    def mask_bytes(self, data: bytes) -> bytes:
        """Return output, which need not be text, without secrets."""
        return self._bytes_pattern.sub(MASKED_TEXT.encode(), data) if self._known_forms else data

    def is_in(self, data: bytes) -> bool:
        """Return True if bytes hold a secret.

        >>> SecretMask(["s3cr3t"]).is_in(b"a s3cr3t"), SecretMask([]).is_in(b"a")
        (True, False)
        """
        return bool(self._known_forms) and self._bytes_pattern.search(data) is not None

    @cached_property
    def _text_pattern(self) -> re.Pattern[str]:
        return re.compile(forms_pattern(self._known_forms))

    @cached_property
    def _bytes_pattern(self) -> re.Pattern[bytes]:
        return re.compile(self._text_pattern.pattern.encode("utf-8", "surrogateescape"))


def _secret_texts(secret: Any) -> Iterator[str]:
    """Yield the secret texts of a param's value: numbers and paths as texts, of a list each element."""
    if isinstance(secret, (list, tuple)):
        for each in secret:
            yield from _secret_texts(each)
    elif secret is not None and not isinstance(secret, bool):
        yield str(secret)


def _known_forms(text: str) -> Iterator[str]:
    import base64
    import html
    import json
    from urllib.parse import quote, quote_plus

    for line in text.splitlines():
        if len(line) >= _MIN_LINE_LENGTH and line != text:
            yield from _known_forms(line)
    if len(text) < MIN_SECRET_LENGTH:
        return
    data = text.encode("utf-8", "surrogatepass")
    for written in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]):
        yield from (written, repr(written)[1:-1], json.dumps(written)[1:-1])  # an item may be JSON, and shown by `repr`
    yield from (repr(data)[2:-1], html.escape(text))
    yield from (quote(data), quote(data, safe=""), quote_plus(data))
    yield base64.b64encode(data).decode().rstrip("=")


def forms_pattern(forms: list[str], depth: int = MIN_SECRET_LENGTH - 1) -> str:
    """Return a pattern of all forms, the longest first, grouped by first characters: so most are never tried."""
    if not depth or len(forms) < 2:
        return "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    heads: dict[str, list[str]] = {}
    ended = "|" if "" in forms else ""
    for form in filter(None, forms):
        heads.setdefault(form[0], []).append(form[1:])
    return "|".join(f"{re.escape(head)}(?:{forms_pattern(rest, depth - 1)})" for head, rest in heads.items()) + ended
