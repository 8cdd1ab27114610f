"""Versions of other machines: all that differs is one error."""

from __future__ import annotations

import sys

import msgspec

import runner
from runner.cluster.versions import NodeVersions, describe_differences, installed_versions

HERE = NodeVersions("0.1.0", "3.11", {"acme": "2.1", "zoo": "1"})


def test_this_machine_agrees_with_itself():
    ours = installed_versions(["pluggy", "Msgspec", "no_such.thing"])
    assert ours.runner == runner.__version__
    assert ours.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert ours.distributions.keys() == {"pluggy", "msgspec", "no-such-thing"}
    assert ours.distributions["msgspec"] == msgspec.__version__
    assert describe_differences(ours, {"n1": installed_versions(["pluggy", "msgspec", "no-such-thing"])}) == ""
    assert describe_differences(ours, {}) == ""


def test_all_differences_of_all_nodes_are_one_text():
    old = NodeVersions("0.0.9", "3.12", {"acme": "2.0", "zoo": "1"})
    bare = NodeVersions("0.1.0", "3.11")
    nodes = {**{f"n{number}": old for number in range(1, 8)}, "n8": bare, "n9": HERE}
    assert describe_differences(HERE, nodes) == (
        "8 of 9 nodes have other versions than this run:\n"
        "  runner 0.1.0: 0.0.9 on n1, n2, n3, n4, n5 and 2 more\n"
        "  Python 3.11: 3.12 on n1, n2, n3, n4, n5 and 2 more\n"
        "  acme 2.1: missing on n8; 2.0 on n1, n2, n3, n4, n5 and 2 more\n"
        "  zoo 1: missing on n8\n"
        "install on all what this run has"
    )


def test_one_node_is_named():
    text = describe_differences(HERE, {"n1": NodeVersions("0.2.0", "3.11", HERE.distributions)})
    assert text.splitlines()[0] == "n1 has other versions than this run:"


def test_a_node_s_words_do_not_reach_the_terminal_as_they_are():
    text = describe_differences(HERE, {"n1": NodeVersions("\x1b[31m\n1", "3.11", HERE.distributions)})
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3


def test_versions_travel_as_json():
    assert msgspec.json.decode(msgspec.json.encode(HERE), type=NodeVersions) == HERE
