"""`runner schema --write`: the schema lies beside the file, whose header names it, and editors' own tool heeds it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import tomli
from helpers import ROOT, Project

from runner.cli import new, schema
from runner.config.grammar import build_schema
from runner.errors import UsageError

FILE = '[tasks.dance]\ncall = "os:getcwd"\n'
HEADER = "#:schema tasks.schema.json\n"
TAPLO = Path(sys.executable).with_name("taplo")
needs_taplo = pytest.mark.skipif(not TAPLO.exists(), reason="taplo is not installed: `pip install taplo`")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file="tasks.toml"):
    schema.schema(file, write=True)


def test_the_schema_lies_beside_the_file_and_its_first_line_names_it(project):
    made = project({"jobs/tasks.toml": FILE})
    outcome = made.run("jobs/tasks.toml", "--write", verb="schema")
    assert outcome.exit == 0, outcome
    assert outcome.out == (
        "jobs/tasks.schema.json: the schema of this version of runner\n"
        "jobs/tasks.toml: its first line is now `#:schema tasks.schema.json`\n"
    )
    assert json.loads((made.path / "jobs/tasks.schema.json").read_text()) == build_schema()
    assert (made.path / "jobs/tasks.toml").read_text() == HEADER + FILE
    assert made.run("-C", "jobs", "--static", verb="check").exit == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\xef\xbb\xbf[tasks.a]\n", b"\xef\xbb\xbf#:schema tasks.schema.json\n[tasks.a]\n"),
        (b"[tasks.a]\r\nhelp = 'x'\r\n", b"#:schema tasks.schema.json\r\n[tasks.a]\r\nhelp = 'x'\r\n"),
        (b"", b"#:schema tasks.schema.json\n"),
        (b"# x\n[tasks.a]\nhelp = '''\n#:schema y\n'''\n", None),
        (b"# first\n\n#:schema tasks.schema.json\n[tasks.a]\n", b"# first\n\n#:schema tasks.schema.json\n[tasks.a]\n"),
    ],
)
def test_the_header_goes_before_the_first_line_once(here, before, after):
    file = here / "tasks.toml"
    file.write_bytes(before)
    write()
    assert file.read_bytes() == (after if after is not None else HEADER.encode() + before)
    write()
    assert file.read_bytes() == (after if after is not None else HEADER.encode() + before)


def test_a_schema_that_the_header_names_is_renewed_there(here):
    (here / "schemas").mkdir()
    (here / "schemas/old.json").write_text(json.dumps({"$id": build_schema()["$id"], "title": "of an earlier version"}))
    text = "#:schema ./schemas/old.json\n" + FILE
    (here / "tasks.toml").write_text(text)
    write()
    assert json.loads((here / "schemas/old.json").read_text()) == build_schema()
    assert (here / "tasks.toml").read_text() == text
    assert not (here / "tasks.schema.json").exists()


@pytest.mark.parametrize("there", ['{"$id": "other"}', "[]", "not JSON", "[" * 100_000])
def test_what_is_not_a_schema_of_runner_is_left_as_it_is(here, there):
    (here / "tasks.toml").write_text("#:schema precious\n" + FILE)
    (here / "precious").write_text(there)
    with pytest.raises(UsageError, match="is there already"):
        write()
    assert (here / "precious").read_text() == there


def test_an_address_is_not_written_to(here):
    text = "#:schema https://example.org/x.json\n" + FILE
    (here / "tasks.toml").write_text(text)
    with pytest.raises(UsageError, match="remove that line first"):
        write()
    assert [path.name for path in here.iterdir()] == ["tasks.toml"]


def test_mode_and_link_of_a_file_stay(here):
    (here / "real.toml").write_text(FILE)
    (here / "real.toml").chmod(0o640)
    (here / "tasks.toml").symlink_to("real.toml")
    write()
    assert (here / "tasks.toml").is_symlink()
    assert (here / "real.toml").read_text() == HEADER + FILE
    assert (here / "real.toml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere.toml", "--write"), "nowhere.toml: No such file or directory\n"),
        (("tasks.toml",), "to write it beside tasks.toml: --write\n"),
        (("--write", "--record"), "--record is another one\n"),
        (("--write",), "there is no tasks.toml here; name a file: runner schema --write FILE\n"),
    ],
)
def test_what_cannot_be_meant_is_said(project, args, said):
    outcome = project({}).run(*args, verb="schema")
    assert outcome.exit == 2
    assert outcome.err.endswith(said), outcome


def test_a_new_job_has_its_schema(here):
    new.job("errand")
    text = (here / "errand/tasks.toml").read_text()
    assert text.startswith(HEADER)
    validator = jsonschema.Draft202012Validator(json.loads((here / "errand/tasks.schema.json").read_text()))
    validator.validate(tomli.loads(text))


# -- Taplo, by which Even Better TOML and other editors read schemas ------------------------------------------------


def taplo(folder, *args):
    done = subprocess.run(
        [TAPLO, "lint", *args], cwd=folder, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


@needs_taplo
@pytest.mark.slow
def test_taplo_accepts_every_good_file_of_the_repository(here):
    (here / "schema.json").write_text(schema.format_schema(build_schema()))
    new.job("job")
    new.plugin("kitchen")
    files = [ROOT / "tasks.toml", *sorted((ROOT / "examples").rglob("tasks*.toml"))]
    files += [here / "job/tasks.toml", here / "runner-kitchen/tasks.toml"]
    status, said = taplo(here, "--schema", (here / "schema.json").as_uri(), *map(str, files))
    assert status == 0, said
    assert f"found files total={len(files)}" in said


@needs_taplo
@pytest.mark.slow
def test_taplo_finds_the_schema_by_the_header(here):
    new.job("job")
    status, said = taplo(here / "job")
    assert status == 0, said
    file = here / "job/tasks.toml"
    file.write_text(file.read_text().replace("workers = 2", "wrokers = 2"))
    status, said = taplo(here / "job")
    assert status == 1
    assert "'wrokers' was unexpected" in said
    shutil.copy(file, here / "job/other.toml")
    (here / "job/tasks.schema.json").unlink()
    assert Project(here / "job").run("--write", verb="schema").exit == 0
    assert "'wrokers' was unexpected" in taplo(here / "job", "other.toml")[1]
