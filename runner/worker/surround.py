"""Plugins' `runner_worker` around a worker's life; imported only where a plugin has one, and without pluggy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from runner.hookspecs import WorkerInfo

if TYPE_CHECKING:
    import contextlib

    from runner.hookspecs import WorkerHook
    from runner.worker.spec import WorkerSpec


def enter(spec: WorkerSpec, stack: contextlib.ExitStack) -> None:
    """Call the hooks and enter what they return; an error names the plugin whose it is."""
    info = WorkerInfo(spec.task, spec.name, spec.run, spec.mode, os.getpid())
    for hook in spec.hooks:
        try:
            around = hook.reference.load()(*((info,) if hook.takes_worker else ()))
            if around is not None:
                around.__enter__()
        except Exception as error:
            error.add_note(_note(hook))
            raise
        if around is not None:
            stack.push(_leaving(hook, around))


def _leaving(hook: WorkerHook, around: Any) -> Any:
    def leave(*exc: Any) -> Any:
        try:
            return around.__exit__(*exc)
        except Exception as error:
            if error is not exc[1]:
                error.add_note(_note(hook))
            raise

    return leave


def _note(hook: WorkerHook) -> str:
    return f"in hook runner_worker of plugin {hook.plugin}"
