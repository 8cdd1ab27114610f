"""Producers and consumers, dance and sing, as tutorials of threads and processes write them."""

from __future__ import annotations

import os
import time
from threading import current_thread

from runner import Inbox, Outbox, task


@task
def bake(outbox: Outbox[str]) -> None:
    baker = current_thread().name
    for number in range(3):
        time.sleep(0.1)
        loaf = f"{baker}{number}"
        print(f"{baker} baked {loaf}")
        outbox.put(loaf)


@task
def eat(inbox: Inbox[str]) -> None:
    while True:  # ends all the same: get() raises ShutDown once the bread has ended
        loaf = inbox.get()
        print(f"{current_thread().name} bought {loaf}")
        time.sleep(0.1)


@task
def dance(times: int) -> None:
    for _ in range(times):
        print(f"dancing, pid {os.getpid()}, main pid {os.environ.get('RUNNER_PID')}")
        time.sleep(0.2)


@task
def sing(times: int) -> None:
    for _ in range(times):
        print(f"singing, pid {os.getpid()}, main pid {os.environ.get('RUNNER_PID')}")
        time.sleep(0.2)
