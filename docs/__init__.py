"""The documentation site: `python -m docs build` makes it of the Markdown pages here, the README and the examples."""
