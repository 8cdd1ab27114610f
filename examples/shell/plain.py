"""The same as tasks.toml, one after the other: python plain.py ROOT PATTERN OUT."""

import subprocess
import sys
from pathlib import Path

root, pattern, out = sys.argv[1:]
with Path(out).open("w", encoding="utf-8") as file:
    for path in sorted(str(each.relative_to(root)) for each in Path(root).glob(pattern) if each.is_file()):
        done = subprocess.run(["sha256sum", "--", path], cwd=root, check=True, capture_output=True, text=True)
        file.write(done.stdout)
