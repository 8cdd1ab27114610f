"""`runner schema`: the JSON Schema of a file, and where editors find it."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from runner.cli import shared_options as shared
from runner.errors import UsageError

#: Beside the file, so that the address in its header is right in every clone.
SCHEMA_FILE = "tasks.schema.json"
#: Taplo reads the directive among the comments that a file begins with.
_HEADER = re.compile(rb"\A(?:\xef\xbb\xbf)?(?:[ \t]*(?:#[^\n]*)?\r?\n)*?#:schema[ \t]+([^\r\n]+)")
_BOM = b"\xef\xbb\xbf"


def schema(
    file: Annotated[
        str | None,
        Argument(
            metavar="FILE",
            help="With --write: the file of tasks. Default: tasks.toml here.",
            autocompletion=shared.complete_file,
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        bool, Option("--record", help="Of what `run --json` and `report --json` write, instead.")
    ] = False,
    write: Annotated[
        bool, Option("--write", help=f"Write it as {SCHEMA_FILE} beside FILE, and name it in FILE's first line.")
    ] = False,
) -> None:
    """Write the JSON Schema (draft 2020-12) of the file, for editors.

    With Taplo, as in Even Better TOML, the line `#:schema tasks.schema.json` at the top of a file gives completion,
    help and errors while you type. `--write` makes both, and renews a schema that is named there already.

    Examples:
      runner schema --write

      runner schema > runner.schema.json

      runner schema --record > record.schema.json
    """
    if write and record:
        raise UsageError("--write writes the schema of a file of tasks; --record is another one")
    if write:
        for line in _write_beside(Path(shared.file_or_default(file, "schema --write"))):
            print(line)
        return
    if file is not None:
        raise UsageError(f"the schema is the same for all files; to write it beside {file[:60]}: --write")
    from runner.config.grammar import build_schema
    from runner.report.record import record_schema

    print(format_schema(record_schema() if record else build_schema()), end="")


def format_schema(document: dict[str, object]) -> str:
    """Return a schema as the text of a file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_schema(path: Path) -> None:
    """Write the schema of files into a file, whole or not at all; UsageError: not at all."""
    from runner.config.grammar import build_schema

    _replace_file(path, format_schema(build_schema()).encode())


def _write_beside(file: Path) -> list[str]:
    """Write the schema where the header of a file says, or beside it, and say what was done."""
    from runner.config.grammar import SCHEMA_ID

    try:
        text = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    named = _named_schema(file, text)
    target = file.parent / (named or SCHEMA_FILE)
    if target.exists() and not _is_schema_of_runner(target, SCHEMA_ID):
        raise UsageError(f"{target} is there already and is not a schema of runner's; it is left as it is")
    write_schema(target)
    said = [f"{target}: the schema of this version of runner"]
    if named is None:
        _replace_file(file, _with_header(text))
        said.append(f"{file}: its first line is now `#:schema {SCHEMA_FILE}`")
    return said


def _named_schema(file: Path, text: bytes) -> str | None:
    """Return the path that the header of a file gives; UsageError for an address that is not a file's."""
    found = _HEADER.match(text)
    if found is None:
        return None
    address = found[1].decode(errors="replace").strip()
    if "://" in address:
        raise UsageError(
            f"{file} names {address[:80]} as its schema, which is not a file beside it; remove that line first"
        )
    return address


def _is_schema_of_runner(path: Path, identifier: str) -> bool:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("$id") == identifier


def _with_header(text: bytes) -> bytes:
    r"""Return a file with the header before its first line, behind a byte order mark, with the file's line ends.

    >>> _with_header(b"[tasks.a]\r\n")
    b'#:schema tasks.schema.json\r\n[tasks.a]\r\n'
    """
    mark = _BOM if text.startswith(_BOM) else b""
    first, newline, _ = text.partition(b"\n")
    end = b"\r\n" if newline and first.endswith(b"\r") else b"\n"
    return mark + f"#:schema {SCHEMA_FILE}".encode() + end + text.removeprefix(mark)


def _replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, where a link leads to, with the mode that it has; UsageError: not at all."""
    path = path.resolve()
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
        at, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(at, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
            os.replace(name, path)  # noqa: PTH105
        except BaseException:
            os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None


def _umask() -> int:
    """Return the umask, which only setting it tells."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
