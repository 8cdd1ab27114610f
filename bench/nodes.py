"""A thousand machines with sixteen workers each, which join, leave and die at random: what it costs, and is it right?

    PYTHONPATH=tests python -m bench.nodes [--nodes 1000] [--places 16] [--items 300000] [--seeds 1]

The supervisor and the choice of places are the real ones; machines and workers are made up, on a virtual clock, so all
the time that is measured is that of the supervisor's own thread (with what the made-up part of it takes, about 20 us
an event). Ends with an error if an item is lost, comes twice, or is at two places at once, or if the balance fails.
"""

from __future__ import annotations

import argparse
import time

from virtual_nodes import Weather, simulate_nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--life", type=float, default=120.0)
    parser.add_argument("--absence", type=float, default=20.0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    weather = Weather(options.nodes, options.places, options.items, options.life, options.absence)
    for seed in range(1, options.seeds + 1):
        began = time.process_time()
        nodes, reactor, result = simulate_nodes(weather, seed)
        cpu, seconds = time.process_time() - began, result.ended.seconds
        print(f"seed {seed}: {seconds:,.0f} s on the clock, {cpu:.1f} s of a processor; {dict(nodes.happened)}")
        print(f"  {result.headline}; lost 0, twice 0, at two places at once 0")
        for kind, count in reactor.counts.most_common():
            print(f"  {kind:16} {count:10,} times, {reactor.seconds[kind] / count * 1e6:7.0f} us each", flush=True)


if __name__ == "__main__":
    main()
