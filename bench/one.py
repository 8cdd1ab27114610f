"""`python -m bench.one WORKLOAD ROW COUNT`: one contender, in this fresh process. Started by bench.measure."""

from __future__ import annotations

import sys

from bench.workloads import find

if __name__ == "__main__":
    _, name, row, count = sys.argv
    run = find(name).row(row).run
    assert run is not None
    run(int(count))
