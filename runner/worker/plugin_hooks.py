"""Plugins' `runner_worker` around a worker's life; imported only where a plugin has one, and without pluggy."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from runner.hookspecs import WorkerInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.hookspecs import WorkerHook
    from runner.worker.spec import WorkerSpec


def enter_hooks(spec: WorkerSpec, stack: contextlib.ExitStack) -> None:
    """Call the hooks and enter what they return; an error names the plugin whose it is."""
    info = WorkerInfo(spec.task, spec.name, spec.run, spec.mode, os.getpid())
    for hook in spec.hooks:
        try:
            with _prefixed_output(hook, spec):
                hook_context = hook.reference.load_callable()(*((info,) if hook.takes_worker else ()))
                if hook_context is not None:
                    hook_context.__enter__()
        except Exception as error:
            error.add_note(_error_note(hook))
            raise
        if hook_context is not None:
            stack.push(_exit_callback(hook, hook_context, spec))


def _exit_callback(hook: WorkerHook, hook_context: Any, spec: WorkerSpec) -> Any:
    def leave(*exc: Any) -> Any:
        try:
            with _prefixed_output(hook, spec):
                return hook_context.__exit__(*exc)
        except Exception as error:
            if error is not exc[1]:
                error.add_note(_error_note(hook))
            raise

    return leave


def _prefixed_output(hook: WorkerHook, spec: WorkerSpec) -> Any:
    """Put the plugin's name beside the worker's before each line that the hook prints."""
    if not spec.prefixes_hook_output:
        return contextlib.nullcontext()
    name = hook.plugin.split("`")[1] if "`" in hook.plugin else hook.plugin
    speak = getattr(sys.stdout, "speaking", None)
    if speak is not None:  # a thread among others
        return speak(f"{spec.name} | {name}")
    return _prefixed_streams(name)


@contextlib.contextmanager
def _prefixed_streams(name: str) -> Iterator[None]:
    """Have each line on standard output and error begin with a name."""
    out, err = _PrefixedStream(name, sys.stdout), _PrefixedStream(name, sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()


class _PrefixedStream:
    """A stream with a name before each line."""

    def __init__(self, name: str, stream: Any) -> None:
        self._prefix, self._stream, self._partial_line = f"{name} | ", stream, ""

    def write(self, text: str) -> int:
        *lines, self._partial_line = (self._partial_line + text).split("\n")
        for line in lines:
            self._stream.write(f"{self._prefix}{line}\n")
        return len(text)

    def flush(self) -> None:
        if self._partial_line:
            self._stream.write(f"{self._prefix}{self._partial_line}")
            self._partial_line = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _error_note(hook: WorkerHook) -> str:
    return f"in hook runner_worker of plugin {hook.plugin}"
