"""The forms for issues are what the code host accepts, and the commands that they and other pages at the top name exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from helpers import ROOT
from typer.main import get_command

from runner.cli.app import app
from runner.version import __version__

FOLDER = ROOT / ".github" / "ISSUE_TEMPLATE"
FORMS = sorted(path for path in FOLDER.glob("*.yml") if path.name != "config.yml")
NEEDS = {"markdown": {"value"}, "textarea": {"label"}, "input": {"label"}, "dropdown": {"label", "options"}}
MAY = {
    "markdown": set(),
    "textarea": {"description", "placeholder", "value", "render"},
    "input": {"description", "placeholder", "value"},
    "dropdown": {"description", "multiple", "default"},
}
SPEAKING = [*FORMS, ROOT / "SECURITY.md", ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md", FOLDER / "config.yml"]


def problems(form: Any) -> list[str]:
    """Return what the code host would refuse in a form."""
    found = [f"{key} is missing" for key in ("name", "description", "body") if not form.get(key)]
    found += [
        f"{key} is unknown" for key in form.keys() - {"name", "description", "title", "labels", "assignees", "body"}
    ]
    ids = [part["id"] for part in form["body"] if "id" in part]
    found += [f"id {name} is there twice" for name in set(ids) if ids.count(name) > 1]
    for part in form["body"]:
        if part["type"] not in NEEDS:
            found.append(f"type {part['type']} is unknown")
            continue
        given = part["attributes"].keys()
        found += [f"{part.get('id')}: {key} is missing" for key in NEEDS[part["type"]] - given]
        found += [f"{part.get('id')}: {key} is unknown" for key in given - NEEDS[part["type"]] - MAY[part["type"]]]
        found += [
            f"{part.get('id')}: {key} is unknown" for key in part.keys() - {"type", "id", "attributes", "validations"}
        ]
        if part["type"] != "markdown" and not re.fullmatch(r"[\w-]+", part.get("id", "")):
            found.append("an id is missing, or has other characters than letters, digits, - and _")
        if not all(isinstance(text, str) for text in part["attributes"].get("options", [])):
            found.append(f"{part.get('id')}: an option is not a text")
    return found


def unknown_commands(text: str) -> list[str]:
    """Return the commands of runner in a text, with their options, that do not exist."""
    program: Any = get_command(app)
    context = program.make_context("runner", ["doctor"])
    found = []
    for line in re.findall(r"`runner ([^`]+)`", text):
        verb, *rest = line.split()
        command = None if verb.startswith("-") else program.get_command(context, verb)
        options = {name for each in (command or program).params for name in each.opts}
        if (command is None and verb not in options) or {word for word in rest if word[0] == "-"} - options:
            found.append(line)
    return found


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_a_form_is_one_that_the_code_host_accepts(path):
    assert not problems(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_a_form_that_is_not_accepted_is_noticed():
    form = yaml.safe_load((FOLDER / "bug.yml").read_text(encoding="utf-8"))
    form["body"][1]["id"] = form["body"][2]["id"]
    form["body"][3]["attributes"]["label"] = form["body"][3]["attributes"].pop("label") or ""
    form["body"][4]["attributes"].pop("label")
    form["body"][5]["type"] = "text"
    form["body"][-1]["attributes"]["options"].append(True)
    found = problems(form)
    assert found == [
        "id file is there twice",
        "output: label is missing",
        "type text is unknown",
        "again: an option is not a text",
    ]


def test_a_bug_report_asks_for_the_machine_the_file_and_the_exit_code():
    form = yaml.safe_load((FOLDER / "bug.yml").read_text(encoding="utf-8"))
    asked = {part["id"]: part for part in form["body"] if "id" in part}
    needed = {name for name, part in asked.items() if part.get("validations", {}).get("required")}
    assert {"file", "exit", "doctor", "output"} <= needed
    assert "`runner doctor --report`" in asked["doctor"]["attributes"]["description"]


@pytest.mark.parametrize("path", SPEAKING, ids=lambda path: path.name)
def test_the_commands_that_are_asked_for_exist(path):
    assert not unknown_commands(path.read_text(encoding="utf-8"))


def test_a_command_that_does_not_exist_is_noticed():
    assert unknown_commands("`runner doctor --report`, `runner check FILE`, `runner --version`") == []
    assert unknown_commands("`runner doctor --all` `runner debug`") == ["doctor --all", "debug"]


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    name, day = re.findall(r"^## \[(.+?)\](?: - (.+))?$", text, re.MULTILINE)[0]
    assert name in (__version__, "Unreleased")
    assert name == "Unreleased" or re.fullmatch(r"Unreleased|\d{4}-\d\d-\d\d", day)
    kinds = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
