"""Local plugins on machines that do not have them: what is packed, where it is unpacked, and that it leads nowhere else."""

from __future__ import annotations

import fcntl
import io
import os
import pickle
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.cluster import sent_code
from runner.cluster.sent_code import CodeFolder, CodeRefused, pack_code, plugin_paths
from runner.errors import ResourceError
from runner.local_modules import module_name
from runner.tasks import Reference


@pytest.fixture
def folder(tmp_path):
    nodes = tmp_path / "node"
    nodes.mkdir()
    made = CodeFolder(str(nodes))
    yield made
    made.close()
    assert list(nodes.iterdir()) == []


@pytest.fixture
def plugins(tmp_path):
    """A project with two plugins, a package, data, and what is not code."""
    project = tmp_path / "project"
    files = {
        "plugins/work.py": "from . import helper\nclass Loaf:\n    pass\n\ndef bake():\n    return helper.HEAT, Loaf()\n",
        "plugins/helper.py": "HEAT = 230\n",
        "plugins/big/__init__.py": "from .inner import deep\n",
        "plugins/big/inner/deep.py": "from pathlib import Path\nTEXT = Path(__file__).with_name('data.txt').read_text()\n",
        "plugins/big/inner/data.txt": "flour",
        "plugins/run.sh": "#!/bin/sh\n",
        "plugins/__pycache__/work.cpython-311.pyc": "no",
        "plugins/.#work.py": "no",
        "other.py": "def f():\n    return 1\n",
    }
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (project / "plugins/run.sh").chmod(0o755)
    (project / "plugins/linked.py").symlink_to("../other.py")
    (project / "plugins/loop").symlink_to(".", target_is_directory=True)
    os.mkfifo(project / "plugins/pipe")
    return project / "plugins"


def packed_names(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def test_files_are_sent_under_their_whole_paths_and_nothing_else(plugins):
    at = str(plugins)[1:]
    names = [
        "big/__init__.py",
        "big/inner/data.txt",
        "big/inner/deep.py",
        "helper.py",
        "linked.py",
        "run.sh",
        "work.py",
    ]
    assert packed_names(pack_code([plugins])) == [f"{at}/{name}" for name in names]
    assert packed_names(pack_code([plugins, plugins / "work.py"])) == [f"{at}/{name}" for name in names]


def test_the_same_code_has_the_same_bytes(plugins):
    first = pack_code([plugins])
    os.utime(plugins / "work.py", (1, 1))
    assert pack_code([plugins])[10:] == first[10:]  # after gzip's head, which has a time


CHILD = """
import pickle, subprocess, sys
sys.path.append(sys.argv[1])
from runner.tasks import Reference
reference = Reference(sys.argv[2], "bake", sys.argv[3])
heat, loaf = reference.load_callable()()
deep = __import__(sys.argv[2].replace("work", "big"), fromlist=["deep"]).deep
sys.stdout.buffer.write(pickle.dumps((heat, type(loaf).__module__, deep.TEXT, sys.modules[sys.argv[2]].__file__)))
"""


def test_plugins_are_imported_from_there_under_their_own_names(plugins, folder):
    """In a process of its own, where the supervisor's files are gone."""
    data = pack_code([plugins])
    module = module_name(str(plugins), "work")
    reference = Reference(module, "bake", str(plugins / "work.py"))
    plugins.rename(plugins.with_name("elsewhere"))
    folder.unpack(data)
    there = folder.locate_reference(reference)
    assert there == Reference(module, "bake", f"{folder.path}/sent-code{plugins}/work.py")
    child = [sys.executable, "-P", "-c", CHILD, folder.import_entry, module, there.path]
    out = subprocess.run(child, capture_output=True, check=True, timeout=60).stdout
    assert pickle.loads(out) == (230, module, "flour", there.path)


def test_what_is_sent_counts_before_what_lies_there(plugins, folder, tmp_path):
    """A node may have an older copy at the same place."""
    folder.unpack(pack_code([plugins]))
    (plugins / "helper.py").write_text("HEAT = 0\n")
    module = module_name(str(plugins), "work")
    child = [sys.executable, "-P", "-c", CHILD, folder.import_entry, module, str(plugins / "work.py")]
    assert pickle.loads(subprocess.run(child, capture_output=True, check=True, timeout=60).stdout)[0] == 230


def test_a_shared_folder_takes_the_place_of_the_supervisor_s(plugins, folder):
    module = module_name("/home/me/project/plugins", "work")
    folder.share("/home/me/project", str(plugins.parent))
    there = folder.locate_reference(Reference(module, "bake", "/home/me/project/plugins/work.py"))
    child = [sys.executable, "-P", "-c", CHILD, folder.import_entry, module, there.path]
    assert pickle.loads(subprocess.run(child, capture_output=True, check=True, timeout=60).stdout)[1] == module
    with pytest.raises(CodeRefused, match=r"/nowhere, `folder` of \[agents\], is not a folder on this machine"):
        folder.share("/home/me/other", "/nowhere")
    with pytest.raises(CodeRefused, match="was sent, and is to be shared as well"):
        folder.share("/home/me", str(plugins))


def test_installed_references_stay_as_they_are(folder):
    for reference in (Reference("math", "sqrt"), Reference("acme.tasks", "f", "/usr/lib/acme/tasks.py")):
        assert folder.locate_reference(reference) == reference


def test_the_folder_is_private_and_gone_with_the_agent(plugins, tmp_path):
    before = os.umask(0)
    try:
        folder = CodeFolder(str(tmp_path))
        folder.unpack(pack_code([plugins]))
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in [folder.path, *folder.path.rglob("*")]}
    assert modes == {0o700, 0o600}
    programs = [path.name for path in folder.path.rglob("*") if path.is_file() and path.stat().st_mode & 0o100]
    assert programs == ["run.sh"]
    folder.close()
    assert not folder.path.exists()


def test_the_folder_of_a_killed_agent_is_removed_by_the_next(tmp_path, monkeypatch):
    alive, killed = CodeFolder(str(tmp_path)), CodeFolder(str(tmp_path))
    os.close(killed._lock)  # as the kernel does
    (tmp_path / "runner-agent-link").symlink_to(alive.path)
    mine = CodeFolder(str(tmp_path))
    assert alive.path.exists()
    assert not killed.path.exists()
    for each in (alive, mine):
        each.close()


def test_a_folder_that_was_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock = fcntl.flock
    taken = []

    def slow_lock(fd, how):
        if not taken:
            taken.append(fd)
            sent_code.shutil.rmtree(next(tmp_path.glob("runner-agent-*")))
        lock(fd, how)

    monkeypatch.setattr(sent_code.fcntl, "flock", slow_lock)
    folder = CodeFolder(str(tmp_path))
    assert folder.path.exists()
    folder.close()


def tar_of(*members, mode="w:gz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 3 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"x=1"))
    return data.getvalue()


REGULAR, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
ESCAPES = {
    "absolute": [("/etc/x.py", REGULAR, "")],
    "upwards": [("a/../../x.py", REGULAR, "")],
    "only upwards": [("..", REGULAR, "")],
    "a link": [("a.py", LINK, "/etc/passwd")],
    "a link to a folder, then a file in it": [("a", LINK, "/tmp"), ("a/x.py", REGULAR, "")],
    "a hard link": [("a.py", HARD, "/etc/passwd")],
    "a device": [("a.py", tarfile.CHRTYPE, "")],
    "a pipe": [("a.py", tarfile.FIFOTYPE, "")],
    "a folder": [("a", tarfile.DIRTYPE, "")],
    "the same twice": [("a.py", REGULAR, ""), ("a.py", REGULAR, "")],
    "a file in a file": [("a.py", REGULAR, ""), ("a.py/b.py", REGULAR, "")],
}


@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES)
def test_nothing_is_written_elsewhere(members, folder, tmp_path):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(
        CodeRefused, match=r"^(code that was sent has .*, which no plugin has|what was sent as code is not)"
    ):
        folder.unpack(tar_of(*members))
    written = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(folder.path) and not path.is_symlink() for path in written)


@examples(80, 2000)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_bytes_raise_anything_else(data, at):
    whole = tar_of(("a.py", REGULAR, ""))
    made = CodeFolder()
    try:
        for text in (data, whole[:at] + data, whole[:at]):
            try:
                made.unpack(text)
            except CodeRefused:
                continue
            (made.path / "sent-code" / "a.py").unlink(missing_ok=True)
    finally:
        made.close()


def test_code_that_is_too_large_is_told_with_what_is_largest(tmp_path):
    for name, size in (("small.py", 10), ("model.bin", 9_000_000), ("other.bin", 2_000_000)):
        (tmp_path / name).write_bytes(b"x" * size)
    with pytest.raises(ResourceError) as caught:
        pack_code([tmp_path])
    at = str(tmp_path)
    assert str(caught.value) == (
        "the local plugins are larger than what is sent to other machines, 10MB or 20,000 files; the largest:"
        f" {at}/model.bin (9.0MB), {at}/other.bin (2.0MB);"
        " keep data elsewhere, or share the project's folder with the nodes, and name it in `folder` of [agents]"
    )


def test_a_tar_that_grows_is_refused(folder):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        member = tarfile.TarInfo("a.py")
        member.size = 11_000_000
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    assert len(data.getvalue()) < 20_000
    with pytest.raises(CodeRefused, match="more than 10MB"):
        folder.unpack(data.getvalue())


def test_a_full_disk_is_told(folder, plugins, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sent_code.shutil, "copyfileobj", full)
    with pytest.raises(CodeRefused, match="No space left on device"):
        folder.unpack(pack_code([plugins]))


def test_paths_are_those_that_the_file_names_or_refers_to(plugins):
    project = plugins.parent
    work = Reference(module_name(str(plugins), "work"), "bake", str(plugins / "work.py"))
    math = Reference("math", "sqrt")
    assert plugin_paths(project, None, [work, math]) == [plugins]
    assert plugin_paths(project, ("other.py", "acme.tasks"), [math]) == [project / "other.py"]
    assert plugin_paths(project, ("other.py",), [work]) == [project / "other.py", plugins / "work.py"]
    package = Reference("x", "f", str(plugins / "big" / "__init__.py"))
    assert plugin_paths(project, (), [package]) == [plugins / "big"]
    assert plugin_paths(Path("/"), None, []) == []
