"""The machines of one run: where agents dial in, and the join file with which they do."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from runner.cluster.authority import make_identities
from runner.cluster.encryption import Handshake, server_context
from runner.cluster.sent_code import imported_paths, pack_code, plugin_paths
from runner.cluster.versions import installed_versions
from runner.engines.nodes import open_listener
from runner.engines.remote import RemoteEngine
from runner.store import run_folders
from runner.transport.agent_messages import AgentPlan
from runner.transport.join_file import JOIN_FILE, JoinFile, write_join_file

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable
    from contextlib import ExitStack

    from runner.cluster.versions import NodeVersions
    from runner.engines.reactor import LocalReactor
    from runner.engines.remote import PrintOutput
    from runner.supervisor.plan import Plan


def open_remote_engine(
    plan: Plan,
    reactor: LocalReactor,
    print_output: PrintOutput,
    finish_output: Callable[[str], None],
    stack: ExitStack,
) -> RemoteEngine:
    """Listen, write the join file, and return the engine of a run's processes; `stack` closes it."""
    settings = plan.agents
    listener, address = open_listener(settings.listen)
    stack.callback(listener.close)
    state, run = plan.settings.state, plan.run_id
    ours, theirs = make_identities(run)
    tasks = [task for task in plan.tasks.values() if task.mode == "process"]
    weighed = [task.name for task in tasks if task.config.lifespan and task.config.lifespan.memory is not None]
    engine = RemoteEngine(
        reactor,
        listener,
        partial(_prove, server_context(ours)),
        _agent_plan(plan),
        versions=_versions(plan),
        lost=settings.lost,
        invitation=f"agents join with: runner agent --join {state / 'runs' / run / JOIN_FILE}",
        worker_count=sum(len(task.config.workers) for task in tasks),
        print_output=print_output,
        finish_output=finish_output,
        weighed_tasks=weighed,
        max_nodes=settings.nodes,
    )
    stack.callback(engine.close)
    made = JoinFile(address, run, settings.lost, identity=theirs.as_text())
    stack.callback(_remove_join_file, plan)
    with run_folders.open_run_folder(state, run, make=True) as at:
        run_folders.replace_file(at, JOIN_FILE, write_join_file(made))
    return engine


def _prove(context: ssl.SSLContext, sock: socket.socket, peer: str) -> Handshake:
    return Handshake(sock, context, peer)


def _agent_plan(plan: Plan) -> AgentPlan:
    tasks = [task for task in plan.tasks.values() if task.mode == "process"]
    code, shared = _local_code(plan)
    return AgentPlan(
        run=plan.run_id,
        folder=plan.agents.folder or os.getcwd(),  # noqa: PTH109  what workers of this machine begin in
        sys_path=tuple(each for each in sys.path if each),
        preload=tuple((each.module, each.path) for each in plan.process_references),
        needs_asyncio=any(task.shape.is_async for task in tasks),
        has_env=any(task.config.env for task in tasks),
        code=code,
        shared=shared,
    )


def _local_code(plan: Plan) -> tuple[bytes, str]:
    """Return what is sent of the project's code, and the folder that is not, because the nodes have it."""
    if plan.plugins is None:
        return b"", ""
    project = plan.plugins.folder
    paths = plugin_paths(project, plan.plugins.named, plan.process_references)
    paths += imported_paths(project, sys.modules.values())
    if not plan.agents.folder:
        return pack_code(paths), ""
    return pack_code(path for path in paths if not path.is_relative_to(project)), str(project)


def _versions(plan: Plan) -> NodeVersions:
    """Return the versions that nodes must have: of runner, Python, and the installed plugins that are used."""
    plugins = plan.plugins.installed_plugins if plan.plugins else ()
    used = [each for each in plugins if not each.blocked_by and (each.loaded or each.hooks)]
    return installed_versions(each.distribution.name for each in used if each.distribution)


def _remove_join_file(plan: Plan) -> None:
    with contextlib.suppress(OSError):  # the folder stays if it has a record
        run_folders.remove_run_files(plan.settings.state, plan.run_id, [JOIN_FILE])
