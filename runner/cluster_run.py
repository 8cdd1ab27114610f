"""The machines of one run: where agents dial in, and the join file with which they do."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from runner.cluster.authority import make_identities
from runner.cluster.encryption import Handshake, server_context
from runner.cluster.sent_code import imported_paths, pack_code, plugin_paths
from runner.cluster.versions import installed_versions
from runner.engines import process_setup
from runner.engines.launcher import JOIN_VARIABLE, Launcher
from runner.engines.nodes import open_listener
from runner.engines.remote import RemoteEngine
from runner.errors import ResourceError
from runner.store import run_folders
from runner.transport.agent_messages import AgentPlan
from runner.transport.join_file import JOIN_FILE, JoinFile, write_join_file
from runner.transport.key_proof import KEY_BYTES, KeyProof

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from contextlib import ExitStack

    from runner.cluster.versions import NodeVersions
    from runner.engines.reactor import LocalReactor
    from runner.engines.remote_output import PrintOutput
    from runner.shm.registry import ArenaRegistry
    from runner.supervisor.plan import Plan
    from runner.transport.frame_link import ByteStream
    from runner.transport.peer_proof import PeerProof

#: A program, not a module of ours: it is executed by its path, and imports nothing of runner's.
_RAY_LAUNCHER = str(Path(__file__).parent / "launch" / "ray.py")


def open_remote_engine(
    plan: Plan,
    reactor: LocalReactor,
    print_output: PrintOutput,
    finish_output: Callable[[str], None],
    arenas: ArenaRegistry,
    stack: ExitStack,
) -> RemoteEngine:
    """Listen, and return the engine of a run's processes, which `stack` closes.

    Agents join with the run's join file, or are started by the launcher of the run's engine.
    """
    settings, state, run = plan.agents, plan.settings.state, plan.run_id
    is_launched = plan.settings.engine == "ray"
    if is_launched and importlib.util.find_spec("ray") is None:
        raise ResourceError("the engine `ray` needs Ray, which is not installed: pip install 'toml-runner[ray]'")
    here_only = is_launched and plan.ray.address == "local"
    listener, address = open_listener(settings.listen or ("127.0.0.1:0" if here_only else ""))
    stack.callback(listener.close)
    prove, made = _open_proof(plan, address)
    tasks = [task for task in plan.tasks.values() if task.mode == "process"]
    with contextlib.suppress(ResourceError):  # without room for twins of their arenas, items travel in messages
        process_setup.raise_open_files_limit(sum(len(task.config.workers) for task in tasks), 0)
    weighed = [task.name for task in tasks if task.config.lifespan and task.config.lifespan.memory is not None]
    engine = RemoteEngine(
        reactor,
        listener,
        prove,
        _agent_plan(plan),
        versions=_versions(plan),
        lost=settings.lost,
        invitation="" if is_launched else f"agents join with: runner agent --join {state / 'runs' / run / JOIN_FILE}",
        worker_count=sum(task.config.least_workers or len(task.config.workers) for task in tasks),
        print_output=print_output,
        finish_output=finish_output,
        weighed_tasks=weighed,
        max_nodes=settings.nodes,
        resources={task.name: task.config.resources for task in tasks if task.config.resources is not None},
        arenas=arenas,
    )
    stack.callback(engine.close)
    text = write_join_file(made)
    if is_launched:
        command = [sys.executable, "-P", _RAY_LAUNCHER, plan.ray.address]
        environment, most = {JOIN_VARIABLE: text.decode()}, settings.nodes or 0
        engine.use_launcher(lambda *calls: Launcher(command, environment, reactor, calls[0], calls[1], most))
    else:
        stack.callback(_remove_join_file, plan)
        with run_folders.open_run_folder(state, run, make=True) as at:
            run_folders.replace_file(at, JOIN_FILE, text)
    return engine


def _open_proof(plan: Plan, address: str) -> tuple[Callable[[socket.socket, str], PeerProof[ByteStream]], JoinFile]:
    """Return what proves who connects, and the join file that leads through it."""
    made = JoinFile(address, plan.run_id, plan.agents.lost)
    if not plan.agents.encrypt:
        key = os.urandom(KEY_BYTES)
        return lambda sock, peer: KeyProof(sock, key, peer, is_agent=False), replace(made, key=key.hex())
    ours, theirs = make_identities(plan.run_id)
    context = server_context(ours)
    return lambda sock, peer: Handshake(sock, context, peer), replace(made, identity=theirs.as_text())


def _agent_plan(plan: Plan) -> AgentPlan:
    tasks = [task for task in plan.tasks.values() if task.mode == "process"]
    code, shared = _local_code(plan)
    return AgentPlan(
        run=plan.run_id,
        folder=plan.agents.folder or os.getcwd(),  # noqa: PTH109  what workers of this machine begin in
        sys_path=tuple(each for each in sys.path if each),
        preload=tuple((each.module, each.path) for each in plan.process_references),
        needs_asyncio=any(task.shape.is_async for task in tasks),
        has_env=any(task.config.env or task.config.resources for task in tasks),
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
