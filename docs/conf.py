"""How Sphinx makes the site; `python -m docs build` gives it the pages."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Protocol

from pygments.lexers.special import TextLexer

from runner import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "runner"
author = "the authors of runner"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "index"

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # links such as file.md#tests, as code hosts have them; a dead one is a warning

# Annotations name types of the standard library and of runner's inside, which have no page here; the inventories of
# other projects would need a network.
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"runner {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_domain_indices = False  # four modules
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}


def mark_code(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Turn what stands in backticks into literals: docstrings are plain text with `code`, as the pages have it.

    All else in them, doctests too, is the same in reStructuredText.
    """
    lines[:] = [re.sub(r"`+([^`]+)`+", r"``\1``\\ ", line) for line in lines]


def describe_fields(_app: Sphinx, what: str, _name: str, made: type, _options: object, *signature: str) -> object:
    """Return the arguments of a dataclass with their types; those that its repr leaves out are runner's own.

    Autodoc would show no types, as `__init__` is made without them, and a mark in place of values made anew each time.
    """
    if what != "class" or not dataclasses.is_dataclass(made):
        return ("", None) if what == "class" and Protocol in made.__bases__ else None
    shown = []
    for field in dataclasses.fields(made):
        if field.init and field.repr:
            default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            made_anew = field.default_factory is not dataclasses.MISSING
            shown.append(f"{field.name}: {field.type}{' = ...' if made_anew else default}")
    return f"({', '.join(shown)})", None


def setup(app: Sphinx) -> None:
    """Register what the pages need beside Sphinx itself."""
    app.add_lexer("walk", TextLexer)  # the walks of explanation/architecture.md
    app.connect("autodoc-process-docstring", mark_code)
    app.connect("autodoc-process-signature", describe_fields)
