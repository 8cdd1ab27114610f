"""A Ray cluster of several nodes on this machine, in a process of its own, so that no test imports Ray.

    python ray_cluster.py                says its address, then obeys lines of JSON: `{"add": 2}` starts a node with so
                                         many CPUs, `{"kill": 0}` kills the first of those that are left, but the head
    python ray_cluster.py --autoscaling  a head whose autoscaler, Ray's own, starts up to two nodes of two CPUs

The end of the input ends all.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

#: Keys that the autoscaler wants to be there.
_EMPTY: dict[str, Any] = {
    **{f"{what}_commands": list[str]() for what in ("initialization", "setup", "head_setup", "worker_setup")},
    **{f"{what}_start_ray_commands": list[str]() for what in ("head", "worker")},
    **{what: list[str]() for what in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    **{what: dict[str, str]() for what in ("auth", "docker", "file_mounts")},
    "file_mounts_sync_continuously": False,
}


def obey_lines() -> None:
    """Start a head, and do what is said."""
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    print(cluster.address, flush=True)
    nodes = []
    for line in sys.stdin:
        told = json.loads(line)
        if "add" in told:
            nodes.append(cluster.add_node(num_cpus=told["add"]))
        else:
            cluster.remove_node(nodes.pop(told["kill"]), allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()


def autoscaling_config(address: str) -> dict[str, Any]:
    """Return the file of a cluster whose provider starts its nodes on this machine, as Ray's own tests have it."""
    head, worker = "ray.head.default", "ray.worker.cpu"
    node: dict[str, Any] = {"node_config": {}, "min_workers": 0}
    types = {
        head: {**node, "resources": {"CPU": 0}, "max_workers": 0},
        worker: {**node, "resources": {"CPU": 2, "object_store_memory": 100 << 20}, "max_workers": 2},
    }
    provider = {"type": "fake_multinode", "use_node_id_as_ip": True, "gcs_address": address}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    sizes = {"max_workers": 2, "upscaling_speed": 1.0, "idle_timeout_minutes": 5}
    return {
        **_EMPTY,
        **sizes,
        "cluster_name": "one",
        "provider": provider,
        "available_node_types": types,
        "head_node_type": head,
    }


def wait_for_autoscaler(address: str, head: subprocess.Popen[bytes]) -> None:
    """Wait until it has said how it is, for a minute."""
    client, until = importlib.import_module("ray._raylet").GcsClient, time.monotonic() + 60
    while head.poll() is None and time.monotonic() < until:
        with contextlib.suppress(Exception):  # nothing listens yet
            if b"ray.head.default" in client(address=address).internal_kv_get(b"__autoscaling_status", None):
                break
        threading.Event().wait(0.2)


def scale_by_itself() -> None:
    """Start a head with an autoscaler."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"{importlib.import_module('ray').util.get_node_ip_address()}:{port}"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "cluster.json"
        config.write_text(json.dumps(autoscaling_config(address)))
        command = [
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--head",
            "--block",
            f"--port={port}",
            "--num-cpus=0",
        ]
        command += ["--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={folder}/ray"]
        env = {**os.environ, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        head = subprocess.Popen([*command, f"--autoscaling-config={config}"], env=env, stdout=subprocess.DEVNULL)
        try:
            wait_for_autoscaler(address, head)
            print(address, flush=True)
            sys.stdin.read()
        finally:
            head.terminate()
            for process in psutil.process_iter(["cmdline"]):  # nodes that the autoscaler has started do not end with it
                if any(folder in word for word in process.info["cmdline"] or ()):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            head.wait(60)


if __name__ == "__main__":
    if "--autoscaling" in sys.argv:
        scale_by_itself()
    else:
        obey_lines()
