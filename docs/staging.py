"""Lay out the source of the site: the Markdown pages with links that stay within it, examples, and API pages.

On a code host the pages link to each other, to the README and to folders by relative paths. On the site each of those
is a page; the text of a link to anything else in the repository stays, without the link.
"""

from __future__ import annotations

import os.path
import re
import shutil
from pathlib import Path

from docs.examples import Example, find_examples

#: Files outside of docs/ that are pages of the site.
PROJECT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "tests/README.md": "project/tests.md",
    "bench/README.md": "project/benchmarks.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/code-of-conduct.md",
}
#: Pages made of docstrings: the directive of autodoc, and the page that says the same with examples.
API_PAGES = {
    "runner": (".. automodule:: runner\n   :members:\n   :imported-members:", "../reference/api.md"),
    "runner.events": (".. automodule:: runner.events\n   :members:", "../reference/plugins.md#events"),
    "runner.testing": (".. automodule:: runner.testing\n   :members:", "../reference/testing.md"),
    "Hooks": (".. autoclass:: runner.hookspecs.Hooks\n   :members:", "../reference/plugins.md#hooks"),
}
#: The parts of the site's navigation, and the folder of each.
PARTS = {
    "Tutorial": "tutorial",
    "Gallery": "gallery",
    "How-to": "how-to",
    "Reference": "reference",
    "From docstrings": "api",
    "Explanation": "explanation",
    "Project": "project",
}

_FENCED = re.compile(r"^(```+).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


class Site:
    """The source of one site: `homes` has the page, and perhaps the heading, of each path of the repository."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.examples = find_examples(root / "examples")
        self.homes = {root / name: page for name, page in PROJECT_PAGES.items()}
        self.homes |= {page: page.relative_to(root / "docs").as_posix() for page in (root / "docs").glob("*/*.md")}
        self.homes |= {root / "LICENSE": "project/licence.md", root / "examples": "gallery/index.md"}
        self.homes[root / "examples" / "README.md"] = "gallery/index.md"
        for example in self.examples:
            self.homes |= example.homes()

    def write(self) -> None:
        """Write all pages."""
        ignore = shutil.ignore_patterns("_*", "*.py")
        shutil.copytree(self.root / "docs", self.folder, ignore=ignore, dirs_exist_ok=True)
        for path, page in self.homes.items():
            if path.suffix == ".md" and "gallery/" not in page:
                self._add(page, self.relinked(path.read_text(encoding="utf-8"), path.parent, page))
        for example in self.examples:
            self._write_example(example)
        self._add("gallery/index.md", self._gallery())
        for name, (directive, more) in API_PAGES.items():
            text = f"# `{name}`\n\n[With examples, by purpose]({more}).\n\n```{{eval-rst}}\n{directive}\n```\n"
            self._add(f"api/{name.lower()}.md", text)
        licence = (self.root / "LICENSE").read_text(encoding="utf-8")
        self._add("project/licence.md", f"# Licence\n\n```text\n{licence}```\n")
        index = (self.folder / "index.md").read_text(encoding="utf-8")
        self._add("index.md", f"{index}\n{self._navigation(index)}")

    def relinked(self, text: str, source: Path, page: str) -> str:
        """Return the Markdown of a file in the folder `source` with links as they must be on `page`."""

        def target(match: re.Match[str]) -> str:
            shown, link, anchor = match.groups()
            if re.match(r"[a-z]+:", link):
                return match[0]
            path = (source / link).resolve()
            home, _, heading = self.homes.get(path, "").partition("#")
            if not home:
                return shown if path.exists() else match[0]  # which is a dead link, of which MyST warns
            place = os.path.relpath(home, Path(page).parent)
            return f"[{shown}]({place}{anchor or (heading and '#' + heading)})"

        parts, end = [], 0
        for fenced in _FENCED.finditer(text):
            parts += [_LINK.sub(target, text[end : fenced.start()]), fenced[0]]
            end = fenced.end()
        return "".join([*parts, _LINK.sub(target, text[end:])])

    def _add(self, page: str, text: str) -> None:
        path = self.folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def _write_example(self, example: Example) -> None:
        readme = self.relinked(example.readme, example.folder, example.page)
        for drawing, picture in example.drawings():
            self._add(drawing, picture)
        self._add(example.page, f"{readme}\n{example.listing()}")

    def _gallery(self) -> str:
        """Return the page that shows each example in short, in the order of their folders."""
        parts = ["# Gallery", "Each drawing is what `runner graph FILE --format svg` makes of its file."]
        readme = self.root / "examples" / "README.md"
        if readme.exists():
            text = readme.read_text(encoding="utf-8").partition("\n")[2].strip()
            parts.insert(1, self.relinked(text, readme.parent, "gallery/index.md"))
        for example in self.examples:
            link = Path(example.page).name
            parts.append(f"## [{example.title}]({link})")
            parts += [example.picture(file, "beside") for file in example.tasks_files[:1]]
            parts.append(self.relinked(example.summary, example.folder, "gallery/index.md"))
            parts.append(" · ".join(f"[`{file}`]({link}#{heading})" for file, heading in example.headings().items()))
        parts.append(_tree("Examples", [Path(example.page).name for example in self.examples]))
        return "\n\n".join(part for part in parts if part) + "\n"

    def _navigation(self, index: str) -> str:
        """Return the site's tree of pages: first those that the README links, in its order, then the others."""
        pages = [page.relative_to(self.folder).as_posix() for page in sorted(self.folder.rglob("*.md"))]
        linked = {link: place for place, link in reversed([*enumerate(re.findall(r"\]\(([^)#]+)", index))])}
        pages.sort(key=lambda page: linked.get(page, len(linked)))
        pages = [page for page in pages if not page.startswith("gallery/") or page == "gallery/index.md"]
        parts = {name: [page for page in pages if page.startswith(f"{part}/")] for name, part in PARTS.items()}
        parts["From docstrings"].append("genindex")  # which Sphinx makes
        return "\n".join(_tree(name, pages) for name, pages in parts.items())


def _tree(caption: str, pages: list[str]) -> str:
    entries = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"
