"""Manifests for Kubernetes in the pages: they are YAML, of the right shape, and their commands are runner's."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from doc_blocks import PAGES, blocks
from helpers import ROOT

from runner.agent.program import parse_options
from runner.cli.run import run

KINDS = {"PersistentVolumeClaim": "v1", "Job": "batch/v1", "Deployment": "apps/v1"}


def manifests() -> list[Any]:
    return [
        pytest.param(made, id=f"{page.relative_to(ROOT).as_posix()}:{block.line}:{made.get('kind')}")
        for page in PAGES
        for block in blocks(page)
        if block.language == "yaml"
        for made in yaml.safe_load_all(block.text)
    ]


MANIFESTS = manifests()


def test_there_are_some():
    assert {each.values[0]["kind"] for each in MANIFESTS} == set(KINDS)


@pytest.mark.parametrize("made", MANIFESTS)
def test_a_manifest_has_what_kubernetes_wants(made):
    assert made["apiVersion"] == KINDS[made["kind"]]
    assert made["metadata"]["name"]
    if made["kind"] == "PersistentVolumeClaim":
        assert made["spec"]["resources"]["requests"]["storage"]
        return
    spec, template = made["spec"], made["spec"]["template"]
    if made["kind"] == "Deployment":
        assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    else:
        assert template["spec"]["restartPolicy"] in {"Never", "OnFailure"}
    volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
    claims = {
        each.values[0]["metadata"]["name"] for each in MANIFESTS if each.values[0]["kind"] == "PersistentVolumeClaim"
    }
    for volume in volumes.values():
        assert volume.get("persistentVolumeClaim", {}).get("claimName", next(iter(claims))) in claims
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o400, "an agent refuses a join file that others may read"
    for container in template["spec"]["containers"]:
        assert container["image"]
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes)
        check_command(container["command"])


def check_command(command):
    program, verb, *words = command
    assert program == "runner"
    assert all(type(word) is str for word in words), "a bare number is not a word of a command"
    if verb == "agent":
        options = parse_options(words)
        assert options is not None
        assert options.join.endswith("join")
    else:
        assert verb == "run"
        assert words == ["--engine", "agents"]
        assert "engine" in run.__annotations__
