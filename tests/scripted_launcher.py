"""A launcher whose machines are agents of this machine, in lines of JSON as `runner.engines.launcher` has them.

`scripted_launcher.py CPUS [refuse WORDS] [die always|FILE]`: each agent lends so many CPUs. With `refuse` it says that
what is wanted can never be had; with `die` it dies when it has started an agent, which dies with it: always, or unless
there is such a file, which it makes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_EXECUTE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, "-P", "-m", "runner.agent", *sys.argv[2:]])
"""


class ScriptedLauncher:
    """Agents of this machine, as many as are wanted."""

    def __init__(self, cpus: float, refusal: str = "", death: str = "") -> None:
        self.cpus, self.refusal, self.death = cpus, refusal, death
        self.join = os.environ.pop("RUNNER_JOIN").encode()
        self.lock = threading.Lock()
        self.agents: dict[str, subprocess.Popen[str]] = {}
        self.wanted: float = 0
        self.most = self.next_number = 0

    def say(self, **message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    def run(self) -> None:
        self.say(offers=[[self.cpus, 0, 0]] * 3)
        for line in sys.stdin:
            told = json.loads(line)
            with self.lock:
                if "stop" in told:
                    self.agents[told["stop"]].kill()
                    continue
                self.most, self.next_number = told["nodes"], max(told["first"], self.next_number)
                self.wanted = sum(each["workers"] * each["cpus"] for each in told["want"])
                if self.refusal and self.wanted:
                    self.say(refused=self.refusal)
                else:
                    self.start_missing()
        with self.lock:
            self.wanted = 0
            for agent in self.agents.values():
                agent.kill()

    def start_missing(self) -> None:
        while len(self.agents) * self.cpus < self.wanted and (not self.most or len(self.agents) < self.most):
            name = f"n{self.next_number}"
            self.next_number += 1
            fd = os.memfd_create("join")
            os.fchmod(fd, 0o600)
            os.write(fd, self.join)
            words = [f"--join=/proc/self/fd/{fd}", f"--name={name}", f"--places={self.cpus}"]
            self.agents[name] = subprocess.Popen(
                [sys.executable, "-P", "-c", _EXECUTE, str(os.getpid()), *words],
                pass_fds=[fd], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            os.close(fd)
            self.say(started=name, where="127.0.0.1")
            threading.Thread(target=self.await_end, args=(name, self.agents[name]), daemon=True).start()
            if self.death == "always" or (self.death and not Path(self.death).exists()):
                if self.death != "always":
                    Path(self.death).touch()
                os._exit(7)

    def await_end(self, name: str, agent: subprocess.Popen[str]) -> None:
        words = agent.communicate()[1].strip().splitlines()
        with self.lock:
            del self.agents[name]
            self.say(ended=name, why=words[-1] if words else f"code {agent.returncode}")
            self.start_missing()


if __name__ == "__main__":
    given = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    ScriptedLauncher(float(sys.argv[1]), given.get("refuse", ""), given.get("die", "")).run()
