"""Two machines, as far as the network goes: namespaces, and between them a cable, or a line as bad as a test wants it.

A `Cable` is a pair of virtual cards. A `Line` goes through this process, packet by packet: it is long, shakes, loses,
and is narrow, as `tc netem` would have it, which many kernels are built without; and it is cut in one direction or both.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from helpers import Running, marked_environment

if TYPE_CHECKING:
    from pathlib import Path

_TUN = "/dev/net/tun"
_SET_INTERFACE, _IS_TUN, _WITHOUT_HEADER = 0x400454CA, 0x0001, 0x1000
#: The address of end 0, where the run is, and of end 1.
ADDRESSES = ("10.231.77.1", "10.231.77.2")


def can_make_networks() -> bool:
    if os.geteuid() or not shutil.which("ip"):
        return False
    name = f"runner-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    return made and subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True).returncode == 0


def can_make_lines() -> bool:
    return can_make_networks() and os.access(_TUN, os.R_OK | os.W_OK)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Ends:
    """Two namespaces."""

    def __init__(self) -> None:
        self.names = [f"runner-{end}-{os.getpid()}" for end in ("a", "b")]
        self.links = [f"rn{end}{os.getpid()}" for end in ("a", "b")]
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")

    def give_addresses(self) -> None:
        for name, link, address in zip(self.names, self.links, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
            ip("-n", name, "link", "set", link, "up")

    def start(self, end: int, folder: Path, *words: str) -> Running:
        """Start runner at one end."""
        token, environment = marked_environment({})
        command = ["ip", "netns", "exec", self.names[end], sys.executable, "-m", "runner", *words]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, encoding="utf-8", **pipes
        )
        return Running(process, token)

    def agent(self, end: int, folder: Path, name: str = "", places: int = 2) -> Running:
        """Start an agent at one end."""
        words = (f"--name={name or f'n{end}'}", f"--places={places}", "--wait=60")
        return self.start(end, folder, "agent", "--join", ".runner/runs/last/join", *words)

    def close(self) -> None:
        for name in self.names:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", name)


class Cable(Ends):
    """A pair of virtual cards."""

    def __init__(self) -> None:
        super().__init__()
        first, second = self.links
        here, there = self.names
        ip("link", "add", first, "netns", here, "type", "veth", "peer", "name", second, "netns", there)
        self.give_addresses()

    def switch(self, state: str) -> None:
        ip("-n", self.names[1], "link", "set", self.links[1], state)

    def lose(self, end: int) -> None:
        """Let nothing out at one end: what it sends goes to a card that is not there."""
        card = ["lladdr", "02:00:00:00:00:99", "dev", self.links[end], "nud", "permanent"]
        ip("-n", self.names[end], "neigh", "replace", ADDRESSES[1 - end], *card)


class Line(Ends):
    """A line of `delay` seconds each way, give or take `jitter`; `loss` is a share of packets, `rate` bytes a second.

    `passes[end]` False: what that end sends is lost. Each direction has room for a thousand packets that wait.
    """

    def __init__(self, *, delay: float = 0.0, jitter: float = 0.0, loss: float = 0.0, rate: float = 0.0) -> None:
        super().__init__()
        self.delay, self.jitter, self.loss, self.rate = delay, jitter, loss, rate
        self.passes = [True, True]
        self._draw = random.Random(7)
        self._cards = [self._make_card(end) for end in (0, 1)]
        self.give_addresses()
        self._end, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def _make_card(self, end: int) -> int:
        fd = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _SET_INTERFACE, struct.pack("16sH22x", self.links[end].encode(), _IS_TUN | _WITHOUT_HEADER))
        ip("link", "set", self.links[end], "netns", self.names[end])
        return fd

    def cut(self, *ends: int) -> None:
        """Let nothing through of what some ends send."""
        for end in ends:
            self.passes[end] = False

    def mend(self) -> None:
        """Let everything through again."""
        self.passes = [True, True]

    def _carry(self) -> None:
        under_way: list[tuple[float, int, int, bytes]] = []
        free_at, waiting = [0.0, 0.0], [0, 0]
        number = 0
        while True:
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, _, end, packet = heapq.heappop(under_way)
                waiting[end] -= 1
                if self.passes[end]:
                    with contextlib.suppress(OSError):  # the other namespace may be gone
                        os.write(self._cards[1 - end], packet)
            timeout = max(0.0, under_way[0][0] - now) if under_way else None
            readable = select.select([*self._cards, self._end], [], [], timeout)[0]
            if self._end in readable:
                return
            now = time.monotonic()
            for fd in readable:
                end = self._cards.index(fd)
                with contextlib.suppress(OSError):
                    packet = os.read(fd, 1 << 16)
                    if not self.passes[end] or waiting[end] >= 1000 or self._draw.random() < self.loss:
                        continue
                    free_at[end] = max(free_at[end], now) + (len(packet) / self.rate if self.rate else 0.0)
                    at = free_at[end] + self.delay + self._draw.uniform(-self.jitter, self.jitter)
                    number, waiting[end] = number + 1, waiting[end] + 1
                    heapq.heappush(under_way, (at, number, end, packet))

    def close(self) -> None:
        os.write(self._stop, b"x")
        self._thread.join()
        for fd in (*self._cards, self._end, self._stop):
            os.close(fd)
        super().close()
