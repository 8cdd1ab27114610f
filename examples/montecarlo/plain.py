"""The same with a pool and no runner: `plain.py OUT [COUNT [YEARS [SEED]]]`. Killed, it begins at the beginning."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from plugins.montecarlo import estimate, simulate

if __name__ == "__main__":
    out, *given = sys.argv[1:]
    count, years, seed = map(int, given + ["40", "5000", "1"][len(given) :])
    sums = (0, 0.0, 0.0)
    with ProcessPoolExecutor() as pool:
        for chunk in pool.map(partial(simulate, years=years), [f"{seed}/{number}" for number in range(count)]):
            sums = tuple(map(sum, zip(sums, chunk)))
    with open(out, "w") as file:
        file.write(json.dumps(estimate(sums)) + "\n")
