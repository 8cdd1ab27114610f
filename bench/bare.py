"""A Typer command that does nothing: what any command line of this kind costs."""

from __future__ import annotations

import typer

if __name__ == "__main__":
    typer.run(lambda: None)
