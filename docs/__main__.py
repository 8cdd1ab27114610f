"""`python -m docs build [--to FOLDER]`: the documentation site, as files that need no server and no network."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs", description="Make the documentation site.")
    verbs = parser.add_subparsers(required=True)
    command = verbs.add_parser("build", help="write the site; each warning is an error")
    command.add_argument("--to", metavar="FOLDER", type=Path, default=FOLDER / "_build" / "html")
    return build(FOLDER.parent, parser.parse_args().to)


def build(root: Path, to: Path) -> int:
    """Write the site of a repository into a folder that is missing, empty or a site; return the exit code."""
    try:
        from sphinx.cmd.build import build_main
    except ImportError:
        print("the site is made by Sphinx; install it: pip install -e '.[docs]'", file=sys.stderr)
        return 1
    if to.exists() and any(to.iterdir()):
        if not (to / ".buildinfo").exists():  # which Sphinx leaves in each site
            print(f"{to}: not empty, and not a site; choose another folder", file=sys.stderr)
            return 1
        shutil.rmtree(to)
    from docs.staging import Site

    with tempfile.TemporaryDirectory(prefix="runner-docs-") as made:
        pages = Path(made, "pages")
        Site(root, pages).write()
        strict = ["--fail-on-warning", "--keep-going", "--nitpicky"]
        places = ["-c", str(FOLDER), "-d", str(Path(made, "doctrees")), str(pages), str(to)]
        status = build_main(["--quiet", *strict, "-b", "html", *places])
    if not status:
        print(to / "index.html")
    return status


if __name__ == "__main__":
    sys.exit(main())
