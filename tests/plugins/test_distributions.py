"""The distributions of examples/plugins: built, installed from wheels into a new environment, tested and used there."""

from __future__ import annotations

import json
import shutil
import zipfile

import pytest
from fresh_environments import Environment, build_wheel
from helpers import ROOT

pytest.importorskip("fsspec", reason="fsspec is not installed: it comes with the extra `test`")
pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed: it comes with the extra `test`")
pytestmark = [
    pytest.mark.slow,  # three wheels are built, and the tests of two distributions run
    pytest.mark.timeout(600),
]

DISTRIBUTIONS = ["runner-objects", "runner-otel"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    sources = [ROOT, *(ROOT / "examples/plugins" / name for name in DISTRIBUTIONS)]
    return [build_wheel(source, tmp_path_factory.mktemp(source.name)) for source in sources]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory, wheels):
    made = Environment.create(tmp_path_factory.mktemp("fresh") / "env")
    made.install(*map(str, wheels), "pytest")
    imported = made.sh("python -c 'import runner; print(runner.__file__)'", tmp_path_factory.mktemp("empty"))
    assert str(ROOT) not in imported
    return made


def test_the_wheels_hold_the_package_and_its_entry_point(wheels):
    for name in DISTRIBUTIONS:
        module = name.replace("-", "_")
        [wheel] = [path for path in wheels if path.name.startswith(module)]
        names = {each for each in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in each}
        here = ROOT / "examples/plugins" / name / "src"
        assert names == {
            path.relative_to(here).as_posix() for path in here.rglob("*") if path.suffix in {".py", ".typed"}
        }


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_its_tests_pass_on_what_is_installed(name, fresh, tmp_path):
    folder = tmp_path / name
    shutil.copytree(ROOT / "examples/plugins" / name, folder, ignore=shutil.ignore_patterns("src", ".*", "__pycache__"))
    said = fresh.sh("python -m pytest -q -p no:cacheprovider -p no:xdist", folder, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert " passed" in said
    assert "skipped" not in said


def test_both_are_plugins_with_the_names_that_files_use(fresh, tmp_path):
    (tmp_path / "tasks.toml").write_text('[tasks.a]\ncall = "objects.find"\nwith = { url = "." }\n')
    found = {each["name"]: each for each in json.loads(fresh.sh("runner list plugins --json --load", tmp_path))}
    assert found["objects"]["functions"] == ["find", "read", "write", "copy"]
    assert found["objects"]["distribution"] == "runner-objects"
    assert (found["otel"]["status"], found["otel"]["hooks"]) == ("loaded", ["runner_event"])


def test_a_durable_run_knows_objects_again_by_their_address(fresh, tmp_path):
    shutil.copy(ROOT / "examples/plugins/runner-objects/tasks.toml", tmp_path)
    (tmp_path / "inbox").mkdir()
    for name in ("a", "c"):
        (tmp_path / "inbox" / name).write_text(name)
    assert "2 read = 2 done" in fresh.sh("runner run --durable", tmp_path)
    (tmp_path / "inbox/a").unlink()
    (tmp_path / "inbox/b").write_text("b")
    said = fresh.sh("runner resume --again", tmp_path)
    assert "3 read = 3 done" in said
    assert [line for line in said.splitlines() if line.startswith("show | ")] == [f"show | file://{tmp_path}/outbox/b"]
    assert {path.name: path.read_text() for path in (tmp_path / "outbox").iterdir()} == {"a": "a", "b": "b", "c": "c"}


def test_a_run_is_exported_when_that_is_asked_for(fresh, tmp_path):
    shutil.copy(ROOT / "examples/plugins/runner-otel/tasks.toml", tmp_path)
    assert "trace_id" not in fresh.sh("runner run", tmp_path)
    said = fresh.sh("runner run --log raw", tmp_path, OTEL_TRACES_EXPORTER="console", OTEL_METRICS_EXPORTER="console")
    for words in ('"name": "run Something to trace"', '"name": "task divide"', '"name": "runner.task.items"'):
        assert words in said, said
    said = fresh.sh("runner run", tmp_path, OTEL_TRACES_EXPORTER="otlp")
    assert "otel: no exporter `otlp` (OTEL_TRACES_EXPORTER) is installed" in said
    assert "20 read = 20 done" in said
