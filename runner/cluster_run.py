"""The machines of one run: where agents dial in, and the join file with which they do."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from runner.cluster.authority import make_identities
from runner.cluster.encryption import Handshake, server_context
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
    return AgentPlan(
        run=plan.run_id,
        folder=plan.agents.folder or os.getcwd(),  # noqa: PTH109  what workers of this machine begin in
        sys_path=tuple(each for each in sys.path if each),
        preload=tuple((each.module, each.path) for each in plan.process_references),
        needs_asyncio=any(task.shape.is_async for task in tasks),
        has_env=any(task.config.env for task in tasks),
    )


def _remove_join_file(plan: Plan) -> None:
    with contextlib.suppress(OSError):  # the folder stays if it has a record
        run_folders.remove_run_files(plan.settings.state, plan.run_id, [JOIN_FILE])
