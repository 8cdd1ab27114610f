"""`python -m bench.encryption`: what TLS costs on loopback, for bodies of 1 MiB and short messages there and back."""

from __future__ import annotations

import os
import select
import socket
import statistics
import time

from bench.table import MIB, number
from runner.cluster.authority import make_identities
from runner.cluster.encryption import Handshake, client_context, server_context

BODIES, TRIPS, ROUNDS = 500, 5000, 5
_BUFFER = memoryview(bytearray(1 << 18))


class Plain:
    """The same calls without TLS."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.fileno, self.send = sock.fileno, sock.send

        def recv_into(buffer):
            got = 0
            while got < len(buffer):
                try:
                    more = sock.recv_into(buffer[got:])
                except BlockingIOError:
                    if not got:
                        raise
                    return got
                if not more:
                    break
                got += more
            return got

        self.recv_into = recv_into


def connected():
    """Return both ends of a connection as agents have it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ends = [socket.create_connection(server.getsockname()), server.accept()[0]]
    for end in ends:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 4 * MIB)
    return ends


def write(stream, data):
    at, view = 0, memoryview(data)
    while at < len(data):
        try:
            at += stream.send(view[at:])
        except BlockingIOError:
            select.select([], [stream], [])


def read(stream, count):
    while count > 0:
        try:
            got = stream.recv_into(_BUFFER[: min(count, len(_BUFFER))])
        except BlockingIOError:
            select.select([stream], [], [])
            continue
        if not got:
            raise EOFError
        count -= got


def cpu():
    return time.process_time()


def agent(stream, report):
    """Take the bodies, say what that has cost, and echo short messages."""
    began = cpu()
    read(stream, BODIES * MIB)
    os.write(report, repr(cpu() - began).encode())
    write(stream, b"k")
    for _ in range(TRIPS):
        read(stream, 100)
        write(stream, b"x" * 100)


def measure(contexts):
    """Return MB/s, ms of CPU for a MiB at the writer and at the reader, and the middle of all trips in us."""
    ours, theirs = connected()
    from_agent, report = os.pipe()
    if not (pid := os.fork()):
        try:
            ours.close()
            agent(Handshake(theirs, contexts[1], "").finish() if contexts else Plain(theirs), report)
        finally:
            os._exit(0)
    theirs.close()
    stream = Handshake(ours, contexts[0], "").finish() if contexts else Plain(ours)
    body = os.urandom(MIB)
    began, cpu_began = time.perf_counter(), cpu()
    for _ in range(BODIES):
        write(stream, body)
    writing = cpu() - cpu_began
    read(stream, 1)
    seconds = time.perf_counter() - began
    trips = []
    for _ in range(TRIPS):
        at = time.perf_counter()
        write(stream, b"x" * 100)
        read(stream, 100)
        trips.append(time.perf_counter() - at)
    reading = float(os.read(from_agent, 100))
    os.waitpid(pid, 0)
    for fd in (from_agent, report):
        os.close(fd)
    ours.close()
    each = 1000 / BODIES
    return BODIES * MIB / 1e6 / seconds, writing * each, reading * each, statistics.median(trips) * 1e6


def main():
    """Measure in turn, print the medians as a Markdown table."""
    ours, theirs = make_identities("bench")
    ways = {"plain TCP": None, "mutual TLS 1.3": (server_context(ours), client_context(theirs))}
    rounds = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, contexts in ways.items():
            rounds[name].append(measure(contexts))
    print("| 1 MiB bodies, loopback | MB/s | CPU ms per MiB, writer | reader | 100 B there and back, p50 us |")
    print("|---|--:|--:|--:|--:|")
    for name, figures in rounds.items():
        print(f"| {name} | {' | '.join(number(statistics.median(column)) for column in zip(*figures, strict=True))} |")


if __name__ == "__main__":
    main()
