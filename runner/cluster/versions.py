"""The versions that must agree between machines: runner's, Python's, and those of the plugins that a file uses.

Items are pickled on one machine and read on another, and messages have no versions of their own, so what differs is
refused before anything runs. All differences of all nodes are one error: each is a round of installing things.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from msgspec import Struct

from runner.plugins.distributions import find_distributions, name_and_version, normalized_name
from runner.text import printable_line
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Nodes that are named where several have the same difference.
_NAMED_NODES = 5


class NodeVersions(Struct, frozen=True):
    """The versions on one machine; a distribution that is not installed there has an empty one."""

    runner: str
    python: str
    distributions: dict[str, str] = {}


def installed_versions(distributions: Iterable[str]) -> NodeVersions:
    """Return the versions here, of the named distributions among them; nothing is imported for it.

    >>> installed_versions(["no-such-thing"]).distributions
    {'no-such-thing': ''}
    """
    wanted = {normalized_name(name): "" for name in distributions}
    for found in find_distributions() if wanted else ():
        if (name := normalized_name(found.name)) in wanted:
            wanted[name] = found.version
    return NodeVersions(__version__, ".".join(map(str, sys.version_info[:2])), wanted)


def told_versions(runner: str, python: str, folders: Iterable[str], wanted: Iterable[str]) -> NodeVersions:
    """Return the versions on a machine that has told its folders of metadata; of two for one name the first counts.

    >>> told_versions("1.0", "3.11.7", ["acme-2.1.dist-info", "acme-2.0.dist-info", "zoo-1.dist-info"], ["acme", "x"])
    NodeVersions(runner='1.0', python='3.11', distributions={'acme': '2.1', 'x': ''})
    """
    found: dict[str, str] = {}
    for folder in folders:
        name, version = name_and_version(folder)
        found.setdefault(normalized_name(name), version)
    distributions = {name: found.get(name, "") for name in map(normalized_name, wanted)}
    return NodeVersions(runner, ".".join(python.split(".")[:2]), distributions)


def describe_differences(ours: NodeVersions, nodes: Mapping[str, NodeVersions]) -> str:
    """Return one text with everything that is other on some node than here; empty if nothing is.

    >>> here, there = NodeVersions("1.0", "3.11", {"acme": "2.1"}), NodeVersions("1.0", "3.12", {"acme": ""})
    >>> print(describe_differences(here, {"n1": there, "n2": here, "n3": there}))
    2 of 3 nodes have other versions than this run:
      Python 3.11: 3.12 on n1, n3
      acme 2.1: missing on n1, n3
    install on all what this run has
    """
    found: dict[str, dict[str, list[str]]] = {}
    different = set()
    for node, theirs in nodes.items():
        for what, version, there in _compared(ours, theirs):
            if there != version:
                found.setdefault(f"{what} {version}", {}).setdefault(there, []).append(node)
                different.add(node)
    if not different:
        return ""
    lines = [f"{len(different)} of {len(nodes)} nodes have other versions than this run:"]
    if len(nodes) == 1:
        lines = [f"{_node_list(different)} has other versions than this run:"]
    for what, versions in found.items():
        there = "; ".join(f"{text or 'missing'} on {_node_list(names)}" for text, names in sorted(versions.items()))
        lines.append(printable_line(f"  {what}: {there}"))
    return "\n".join([*lines, "install on all what this run has"])


def _compared(ours: NodeVersions, theirs: NodeVersions) -> Iterable[tuple[str, str, str]]:
    yield "runner", ours.runner, theirs.runner
    yield "Python", ours.python, theirs.python
    for name, version in sorted(ours.distributions.items()):
        yield name, version, theirs.distributions.get(name, "")


def _node_list(nodes: Iterable[str]) -> str:
    names = sorted(nodes)
    more = len(names) - _NAMED_NODES
    return ", ".join(names[:_NAMED_NODES]) + (f" and {more} more" if more > 0 else "")
