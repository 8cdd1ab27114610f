"""The same census without runner, one file after the other: `python plain.py census.json [FOLDER]`."""

import ast
import json
import sys
import sysconfig
import warnings
from pathlib import Path

warnings.simplefilter("ignore")  # of odd escapes in old code
out = Path(sys.argv[1])
root = Path(sys.argv[2] if len(sys.argv) > 2 else sysconfig.get_path("stdlib"))
packages = {}

for path in root.rglob("*.py"):
    parts = path.relative_to(root).parts
    if "site-packages" in parts:
        continue
    name = parts[0].removesuffix(".py")
    package = packages.setdefault(name, dict.fromkeys(("files", "lines", "functions", "classes", "unparsable"), 0))
    source = path.read_bytes()
    package["files"] += 1
    package["lines"] += len(source.splitlines())
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        package["unparsable"] += 1
        continue
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            package["functions"] += 1
        elif isinstance(node, ast.ClassDef):
            package["classes"] += 1

out.write_text(json.dumps(packages, indent=2, sort_keys=True) + "\n", encoding="utf-8")
