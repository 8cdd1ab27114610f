"""What pyproject.toml, the pages and the workflows say of one thing is the same; and workflows give away nothing."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import pytest
import yaml
from fresh_environments import Environment, classified_pythons, execute, project_table
from helpers import ROOT
from packaging.requirements import Requirement

from runner.cli import machine_checks

INSTALL = (ROOT / "docs/how-to/install.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
#: Extras for those who work on runner; the others are for its users, and `runner doctor` looks for them.
DEVELOPERS = {"bench", "dev", "docs", "examples", "test"}
#: Permissions that a job may have, by its name; all others read the repository.
PERMISSIONS = {"publish": {"id-token": "write"}}


def jobs(workflow: dict[Any, Any]) -> dict[str, dict[str, Any]]:
    return dict(workflow["jobs"])


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in jobs(workflow).values() for step in job.get("steps", [])]


def test_every_extra_is_in_the_page_and_those_of_users_in_doctor():
    extras = project_table()["optional-dependencies"].keys()
    assert [
        extra for extra in extras if f"toml-runner[{extra}]" not in INSTALL and f"'.[{extra}]'" not in INSTALL
    ] == []
    assert extras - DEVELOPERS == {extra for extra, _, _ in machine_checks._EXTRAS}


def test_requirements_say_the_lowest_version_and_no_highest():
    table = project_table()
    for text in table["dependencies"]:
        [bound] = Requirement(text).specifier
        assert bound.operator == ">=", text
    assert not [
        text for extra in table["optional-dependencies"].values() for text in extra if "<" in text or "==" in text
    ]


def test_pythons_are_the_same_everywhere():
    versions = classified_pythons()
    assert project_table()["requires-python"] == f">={versions[0]}"
    assert f"Python {versions[0]} to {versions[-1]}" in INSTALL
    checks = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())
    assert checks["jobs"]["tests"]["strategy"]["matrix"]["python"] == versions


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_thin_pinned_and_may_little(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}, "each job says what it may"
    assert workflow["concurrency"]["group"]
    for name, job in jobs(workflow).items():
        assert job["permissions"] == PERMISSIONS.get(name, {"contents": "read"}), name
        assert "uses" in job or job["timeout-minutes"] <= 60, name
        if reused := job.get("uses"):
            assert (ROOT / reused).is_file()
            assert "workflow_call" in yaml.safe_load((ROOT / reused).read_text())[True], reused  # YAML's `on` is true
    for step in steps(workflow):
        command = step.get("run", "")
        assert "${{" not in command, f"a shell must not read what others may have written: {command}"
        assert "\n" not in command.strip(), f"more than one command belongs into a script: {command}"
        for script in re.findall(r"\.ci/\w+", command):
            assert os.access(ROOT / script, os.X_OK), script
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    for action in re.findall(r"uses: (?!\./)(.*)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), f"pin it by its commit: {action}"


def test_an_action_has_one_version():
    pins = {
        tuple(step["uses"].split("@"))
        for path in WORKFLOWS
        for step in steps(yaml.safe_load(path.read_text()))
        if "uses" in step
    }
    assert len(pins) == len(dict(pins)), sorted(pins)


def test_only_the_release_publishes_and_only_after_the_checks():
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert release[True] == {"push": {"tags": ["v*"]}}
    publish = jobs(release)["publish"]
    assert (publish["environment"], publish["needs"], jobs(release)["build"]["needs"]) == ("pypi", "build", "checks")
    assert jobs(release)["checks"]["uses"] == "./.github/workflows/checks.yml"
    assert not any("run" in step for step in publish["steps"]), "what may publish executes nothing of the repository"
    assert publish["steps"][-1]["with"]["attestations"] is True
    others = [path for path in WORKFLOWS if path.name != "release.yml"]
    assert not [path for path in others if "id-token" in path.read_text() or "secrets." in path.read_text()]


BAD_STEP = "      - run: echo ${{ github.event.pull_request.title }}\n"


@pytest.mark.slow
def test_the_schema_and_the_auditor_of_workflows_agree(tmp_path):
    env = Environment.create(tmp_path / "env")
    env.install("check-jsonschema", "zizmor")
    schema = [env.python, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    execute(*schema, *map(str, WORKFLOWS), cwd=tmp_path)
    auditor = [str(env.folder / "bin/zizmor"), "--offline", "--no-progress", "--color=never", "--min-severity=medium"]
    assert "No findings" in execute(*auditor, str(ROOT / ".github/workflows"), cwd=tmp_path)
    text = (ROOT / ".github/workflows/checks.yml").read_text()
    planted = tmp_path / "checks.yml"
    planted.write_text(text.replace("      - run: .ci/run\n", BAD_STEP).replace("timeout-minutes", "time-limit"))
    told = subprocess.run([*schema, str(planted)], capture_output=True, text=True)
    assert told.returncode == 1
    assert "time-limit" in told.stdout
    told = subprocess.run([*auditor, str(planted)], capture_output=True, text=True)
    assert told.returncode > 0
    assert "template-injection" in told.stdout
