import json
from pathlib import Path

import pytest
from helpers import load

census = load("examples/census/plugins/census.py")


@pytest.fixture
def root(tmp_path):
    files = {
        "one.py": "def f(): pass\nasync def g(): pass\n",
        "pack/__init__.py": "",
        "pack/deep/two.py": "class C:\n    def m(self): return '\\d'\n",
        "pack/broken.py": "print 'old'\n",
        "pack/null.py": "x = 1\n\0\n",
        "site-packages/other.py": "x = 1\n",
        "pack/readme.txt": "not Python",
    }
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(tmp_path / "root")


def test_every_file_is_found_once_and_installed_packages_are_not(root):
    files = ["one.py", "pack/__init__.py", "pack/broken.py", "pack/deep/two.py", "pack/null.py"]
    assert list(census.find(root=root)) == files


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("one.py", ("one", 2, 2, 0, 0)),
        ("pack/__init__.py", ("pack", 0, 0, 0, 0)),
        ("pack/deep/two.py", ("pack", 2, 1, 1, 0)),
        ("pack/broken.py", ("pack", 1, 0, 0, 1)),
        ("pack/null.py", ("pack", 2, 0, 0, 1)),
    ],
)
def test_a_file_is_counted(root, file, expected):
    counts = census.count(file, root=root)
    assert tuple(counts[key] for key in ("package", "lines", "functions", "classes", "unparsable")) == expected


def tally(root, out):
    with census.Tally(out=out) as add:
        for file in census.find(root=root):
            add(census.count(file, root=root))


def test_counts_are_added_up_per_package(root, tmp_path):
    tally(root, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["pack"] == {"files": 4, "lines": 5, "functions": 1, "classes": 1, "unparsable": 2}
    assert sorted(written) == ["one", "pack"]


def test_nothing_is_written_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), census.Tally(out=tmp_path / "out.json"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_without_a_root_it_is_the_standard_library():
    assert Path(census.top("")).joinpath("ast.py").is_file()
