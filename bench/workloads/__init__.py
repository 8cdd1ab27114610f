"""One module for each kind of work; each has `WORKLOADS`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.kinds import Workload

#: Workload -> its module, in the order of the tables.
MODULES = {
    "small": "small",
    "threads": "threads",
    "chain": "chain",
    "ordered": "ordered",
    "fanout": "fanout",
    "arrays-64k": "arrays",
    "arrays-1m": "arrays",
    "arrays-16m": "arrays",
    "arrays-rewritten": "arrays",
    "cpu": "cpu",
    "skewed": "cpu",
    "sleeps": "sleeps",
    "async": "sleeps",
    "latency": "latency",
    "start": "start",
    "flat": "flat",
    "flat-arrays": "flat",
    "workers": "workers",
    "busy": "busy",
}


def find(name: str) -> Workload:
    """The workload of that name; only its own module is imported."""
    module = importlib.import_module(f"bench.workloads.{MODULES[name]}")
    return next(each for each in module.WORKLOADS if each.name == name)
