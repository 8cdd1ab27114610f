"""A Ray cluster of several nodes on this machine, in a process of its own, so that no test imports Ray.

It says its address, then obeys lines of JSON: `{"add": 2}` starts a node with so many CPUs, `{"kill": 0}` kills the
first of those that are left (the head is not among them), and the end of the input ends all.
"""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    print(cluster.address, flush=True)
    nodes = []
    for line in sys.stdin:
        told = json.loads(line)
        if "add" in told:
            nodes.append(cluster.add_node(num_cpus=told["add"]))
        else:
            cluster.remove_node(nodes.pop(told["kill"]), allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
