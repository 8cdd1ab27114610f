"""The pages of `runner explain`: the meaning of each code, with an example of the mistake and the way out.

They are in `codes.toml`, where examples in TOML read well.
"""

from __future__ import annotations

from pathlib import Path

import tomli

from runner.structs import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code.

    `text` is one paragraph; `wrong` is a whole file that has exactly this mistake, `right` what it should say instead.
    """

    code: str
    title: str
    text: str
    wrong: str = ""
    right: str = ""


def _read_pages() -> dict[str, Explanation]:
    found = tomli.loads(Path(__file__).with_name("codes.toml").read_text(encoding="utf-8"))
    return {
        code: Explanation(code, **{key: text.rstrip("\n") for key, text in page.items()})
        for code, page in found.items()
    }


EXPLANATIONS = _read_pages()
