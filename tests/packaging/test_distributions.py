"""The source distribution and the wheel: what they hold, and that everybody who builds them gets the same bytes."""

from __future__ import annotations

import email
import os
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from fresh_environments import (
    Distributions,
    Environment,
    build_distributions,
    copy_repository,
    execute,
    project_table,
    repository_files,
)
from helpers import ROOT

from runner.version import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAME = f"toml_runner-{__version__}"
#: What each wheel has beside the package: its description, and the licences of what is inside.
DESCRIPTION = {
    "METADATA",
    "RECORD",
    "WHEEL",
    "entry_points.txt",
    "licenses/LICENSE",
    "licenses/runner/report/assets/uPlot.LICENSE",
}
#: What an installer puts beside the command: a page for `man`, and completion for shells that look there.
SHARED = {
    "share/bash-completion/completions/runner",
    "share/fish/vendor_completions.d/runner.fish",
    "share/man/man1/runner.1",
    "share/zsh/site-functions/_runner",
}
#: Suffixes of the package's files, besides modules; a file of another kind has to be thought of here.
DATA = {".bash", ".fish", ".zsh", ".py", ".in", ".js", ".css", ".jinja", ".toml", ".LICENSE"}
#: Files of the repository that are for those who have it alone.
ONLY_IN_REPOSITORY: set[str] = set()
#: What tools leave behind in folders of the repository; each is ignored by Git.
LEFT_BEHIND = (
    "runner/__pycache__/api.cpython-311.pyc",
    "runner/cli/templates/job/plugins/__pycache__/x.cpython-311.pyc",
    "runner/.mypy_cache/x.json",
    "tests/.pytest_cache/README.md",
    "tests/.hypothesis/unicode_data/x",
    "examples/crawl/.runner/runs/1/record.json",
    "bench/.ruff_cache/x",
    "plugins/bakery.egg-info/PKG-INFO",
    "docs/.venv/bin/python",
    "dist/toml_runner-0.0.9.tar.gz",
    "build/lib/runner/api.py",
)


def names_of(distributions: Distributions) -> tuple[set[str], set[str]]:
    """Return what the source distribution holds, without its folder, and what the wheel holds."""
    with tarfile.open(distributions.sdist) as sdist, zipfile.ZipFile(distributions.wheel) as wheel:
        members = [member.name for member in sdist.getmembers() if not member.isdir()]
        assert all(name.startswith(f"{NAME}/") for name in members)
        return {name.removeprefix(f"{NAME}/") for name in members}, set(wheel.namelist())


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    return folder / NAME


def test_the_wheel_has_the_package_and_its_description(distributions):
    _, names = names_of(distributions)
    package = {name for name in repository_files() if name.startswith("runner/")}
    beside = {f"{NAME}.dist-info/{name}" for name in DESCRIPTION} | {f"{NAME}.data/data/{name}" for name in SHARED}
    assert names == package | beside
    assert "runner/py.typed" in names
    assert {name for name in package if Path(name).suffix not in DATA} == {"runner/py.typed"}


def test_the_source_distribution_has_what_git_has(distributions):
    names, _ = names_of(distributions)
    assert names - {"PKG-INFO"} == set(repository_files()) - ONLY_IN_REPOSITORY, (
        "name new files in [tool.hatch.build.targets.sdist], or in ONLY_IN_REPOSITORY"
    )


def test_the_files_are_readable_and_nothing_else(distributions):
    with zipfile.ZipFile(distributions.wheel) as wheel:
        assert {stat.S_IMODE(info.external_attr >> 16) for info in wheel.infolist()} == {0o644}
    with tarfile.open(distributions.sdist) as sdist:
        assert {member.mode for member in sdist.getmembers()} == {0o644, 0o755}
        assert {(member.uid, member.gid, member.uname, member.gname) for member in sdist} == {(0, 0, "", "")}


def test_same_bytes_from_another_folder_at_another_time_with_caches_beside(distributions, tmp_path):
    source = tmp_path / "elsewhere/with a space"
    copy_repository(source, repository_files()[::-1])
    for name in LEFT_BEHIND:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("left behind")
    for number, path in enumerate(source.rglob("*")):
        os.utime(path, (10**9 + number, 10**9 + number))
    before = os.umask(0o077)
    try:
        again = build_distributions(source, tmp_path / "dist", TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    finally:
        os.umask(before)
    assert names_of(again) == names_of(distributions)
    assert again.sdist.read_bytes() == distributions.sdist.read_bytes()
    assert again.wheel.read_bytes() == distributions.wheel.read_bytes()


def test_same_bytes_from_the_source_distribution(distributions, tmp_path):
    again = build_distributions(unpack(distributions.sdist, tmp_path / "unpacked"), tmp_path / "dist")
    assert again.wheel.read_bytes() == distributions.wheel.read_bytes()
    assert names_of(again) == names_of(distributions)


def test_a_front_end_builds_the_same_files_with_the_lowest_backend(distributions, tmp_path):
    """The backend writes its version into the wheel, so only the names can be the same."""
    (tmp_path / "lowest.txt").write_text("hatchling==1.27.0\n")
    uv = [sys.executable, "-m", "uv", "build", "-q", "--wheel", "--build-constraint", str(tmp_path / "lowest.txt")]
    execute(*uv, "--out-dir", str(tmp_path / "dist"), str(distributions.sdist), cwd=tmp_path)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        assert "hatchling 1.27.0" in file.read(f"{NAME}.dist-info/WHEEL").decode()
    assert names_of(Distributions(distributions.sdist, wheel)) == names_of(distributions)


def test_an_index_can_show_it(distributions, tmp_path):
    env = Environment.create(tmp_path / "env")
    env.install("twine")
    twine = [env.python, "-m", "twine", "--no-color", "check", "--strict"]
    told = execute(*twine, str(distributions.sdist), str(distributions.wheel), cwd=tmp_path)
    assert told.count("PASSED") == 2, told
    with zipfile.ZipFile(distributions.wheel) as wheel:
        shown = email.message_from_string(wheel.read(f"{NAME}.dist-info/METADATA").decode("utf-8"))
    table = project_table()
    assert (shown["Name"], shown["Version"], shown["Metadata-Version"]) == ("toml-runner", __version__, "2.4")
    assert (shown["Summary"], shown["Requires-Python"]) == (table["description"], table["requires-python"])
    assert (shown["License-Expression"], shown.get_all("License-File")) == ("MIT", table["license-files"])
    assert shown["Description-Content-Type"] == "text/markdown"
    assert shown.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(shown.get_all("Provides-Extra") or ()) == set(table["optional-dependencies"])
    assert set(shown["Keywords"].split(",")) == set(table["keywords"])
