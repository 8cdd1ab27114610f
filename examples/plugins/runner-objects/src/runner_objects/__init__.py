"""Task functions for objects in S3, Google Cloud Storage, Azure and every other store that fsspec opens."""

from __future__ import annotations

import fnmatch
import posixpath
import tempfile
from typing import TYPE_CHECKING, Any

import fsspec  # type: ignore[import-untyped]  # it has no types

from runner import Context, Reject, task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: These show an object when its upload is complete; anywhere else a reader can see half of it.
_WHOLE_UPLOADS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}
#: An item is held in memory, in the run and in its worker.
MAX_BYTES = 64 * 1000 * 1000


@task(mode="thread", key=".")
def find(
    *, url: str, match: str = "*", storage: dict[str, Any] | None = None, context: Context | None = None
) -> Iterator[str]:
    """A source: the address of each object below `url` whose name matches, sorted.

    In a durable run an object is known again by its address.
    """
    store, base = fsspec.url_to_fs(url, **(storage or {}))
    found = [path for path in sorted(store.find(base)) if _is_wanted(_name_below(base, path), match)]
    for done, path in enumerate(found):
        if context is not None:
            context.progress(done, len(found))
        yield store.unstrip_protocol(path)


@task(mode="thread")
def read(url: str, *, storage: dict[str, Any] | None = None, most: int = MAX_BYTES) -> dict[str, Any]:
    """One object with its content: `url`, `name` (the last part of its address) and `data`."""
    store, path = fsspec.url_to_fs(url, **(storage or {}))
    size = store.size(path)
    if size is not None and size > most:
        raise Reject(f"{url} has {size:,} bytes, and `most` is {most:,}")
    return {"url": url, "name": posixpath.basename(path), "data": store.cat_file(path)}


@task(mode="thread")
def write(item: Mapping[str, Any], context: Context, *, to: str, storage: dict[str, Any] | None = None) -> str:
    """Write `data` (bytes or text) as the object `name` below `to`; return its address.

    The same item written again is the same object, whole at each moment.
    """
    store, base = fsspec.url_to_fs(to, **(storage or {}))
    data = item["data"].encode() if isinstance(item["data"], str) else bytes(item["data"])
    path = _path_below(base, item["name"])
    _publish(store, path, context, lambda place: store.pipe_file(place, data))
    return str(store.unstrip_protocol(path))


@task(mode="thread")
def copy(
    url: str,
    context: Context,
    *,
    base: str,
    to: str,
    storage: dict[str, Any] | None = None,
    target_storage: dict[str, Any] | None = None,
) -> str:
    """Copy the object at `url`, which is below `base`, to the same name below `to`; return its address there."""
    store, path = fsspec.url_to_fs(url, **(storage or {}))
    target, target_base = fsspec.url_to_fs(to, **(target_storage or {}))
    name = _name_below(fsspec.url_to_fs(base, **(storage or {}))[1], path)
    target_path = _path_below(target_base, name)
    if store is target:
        _publish(target, target_path, context, lambda place: store.cp_file(path, place))
    else:
        with tempfile.TemporaryDirectory(prefix="runner-objects-") as folder:
            held = f"{folder}/object"
            store.get_file(path, held)
            _publish(target, target_path, context, lambda place: target.put_file(held, place))
    return str(target.unstrip_protocol(target_path))


def _publish(store: Any, path: str, context: Context, put: Callable[[str], object]) -> None:
    """Put an object in its place, whole or not at all."""
    protocols = {store.protocol} if isinstance(store.protocol, str) else set(store.protocol)
    if protocols & _WHOLE_UPLOADS:
        put(path)
        return
    folder, name = posixpath.split(path)
    store.makedirs(folder, exist_ok=True)
    # The same item has the same name in the next life of a durable run: what a killed worker left is written over.
    part = posixpath.join(folder, f".{name}.{context.run}-{context.item_id}.part")
    try:
        put(part)
        store.mv(part, path)
    except BaseException:
        if store.exists(part):
            store.rm_file(part)
        raise


def _is_wanted(name: str, match: str) -> bool:
    last = posixpath.basename(name)
    return fnmatch.fnmatchcase(name, match) and not (last.startswith(".") and last.endswith(".part"))


def _name_below(base: str, path: str) -> str:
    """Return the name of an object below a place; its last part, if the place is the object itself."""
    if path == base:
        return posixpath.basename(path)
    prefix = base.rstrip("/") + "/"
    if not path.startswith(prefix):
        raise Reject(f"{path} is not below {base}")
    return path.removeprefix(prefix)


def _path_below(base: str, name: str) -> str:
    if not name or name.startswith("/") or ".." in name.split("/") or "\\" in name:
        raise Reject(f"{name!r} is not a name below {base}")
    return posixpath.join(base, name)
