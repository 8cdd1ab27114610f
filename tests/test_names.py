"""Names, docstrings and imports of `runner/` as CONTRIBUTING wants them, so that a search finds what it looks for."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain

from helpers import ROOT

import runner

GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"
API = ROOT / "docs" / "reference" / "api.md"
FILES = sorted((ROOT / "runner").rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

#: Words of public names that are not terms of the glossary, because every reader knows them: English, or Python's.
PLAIN_WORDS = {
    *("config", "context", "error", "function", "info", "problem", "result", "runner", "version"),
    *("interrupted", "load", "reject", "retry", "shut", "down", "to"),
    *("inbox", "outbox", "hookimpl"),
}


@cache
def trees():
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def nodes(*kinds):
    for tree in trees().values():
        yield from (node for node in ast.walk(tree) if isinstance(node, kinds))


def share(found, all_of_them):
    assert len(all_of_them) > 500
    return len(found) / len(all_of_them)


def test_a_class_name_means_one_class():
    places = defaultdict(list)
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_most_functions_have_names_of_two_words_or_more():
    names = [node.name for node in nodes(*FUNCTIONS) if not re.fullmatch("__.+__", node.name)]
    assert share([name for name in names if "_" not in name.strip("_")], names) <= 0.60


def test_docstrings_begin_with_a_verb_or_a_noun():
    texts = [text for node in nodes(*FUNCTIONS, ast.ClassDef, ast.Module) if (text := ast.get_docstring(node))]
    wrong = [text for text in texts if re.match(r"(What|Whether|How|Where|Who)\b", text)]
    assert share(wrong, texts) < 0.04, "\n".join(text.partition("\n")[0] for text in wrong)


def words_of(name):
    """Return the words of a name: `TaskFunction` is task, function."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+", name)]


def test_public_names_are_in_the_glossary_or_plain_words():
    terms = re.findall(r"^\| ([^|]+) \|", GLOSSARY.read_text(encoding="utf-8"), re.MULTILINE)
    known = PLAIN_WORDS | set(chain.from_iterable(map(words_of, terms)))
    documented = re.findall(r"^\| `(\w+)", API.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(documented) == set(runner.__all__)
    assert not {name: odd for name in runner.__all__ if (odd := [word for word in words_of(name) if word not in known])}


def imports_of(tree, modules):
    """Yield the modules of runner that a file imports anywhere, for type checkers only as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for each in node.names:
                inner = f"{node.module}.{each.name}"
                yield inner if inner in modules else node.module


def test_modules_do_not_import_each_other_in_a_circle():
    """A package's `__init__` and its modules are one thing here only as far as one imports the other."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {name: {*imports_of(trees()[path], modules)} - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None
