"""Facilities of Linux that other systems lack, each beside what is used in its place there.

    here                      Linux                     elsewhere
    memory_file               memfd_create              a file without a name in the folder for temporary files
    exit_fd                   pidfd_open                None: `watch_exit` waits for a child in a thread
    send_signal               pidfd_send_signal         the number of the process
    kill_group_when_closed    F_SETSIG                  False: a thread or a shell reads the pipe, and kills then
    create_poller             epoll, eventfd            poll, and a pipe
    allocate_file             posix_fallocate           zeros are written
    sync_data                 fdatasync                 F_FULLFSYNC, fsync
    readable_secret           /proc/self/fd             a file in a folder of its own, removed at once
    open_files                /proc/self/fd             None: not known
    inherited_descriptors     /proc/self/fd             /dev/fd
    descendant_pids           /proc/PID/task            psutil
    process_start, boot_id    /proc                     psutil
    processor_ticks           /proc/stat                psutil
    file_system_of            /proc/self/mountinfo      psutil
    can_fork_workers          SCM_RIGHTS                False: each worker is an interpreter of its own (`spawn`)

Floors above have a module of this kind where they need more: `shm.linux_only`, `transport.linux_only`,
`engines.early_fork`. `cgroups` knows the limits of containers. A test looks for Linux's names elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The kernel signals a process group when a pipe closes.
HAS_PIPE_SIGNALS = False
with contextlib.suppress(ImportError):  # on Windows
    import fcntl

    HAS_PIPE_SIGNALS = hasattr(fcntl, "F_SETSIG")
HAS_EPOLL = hasattr(select, "epoll")
#: On Windows nothing waits for them, and they have no names.
POLL_READ: int = getattr(select, "POLLIN", 1)
POLL_WRITE: int = getattr(select, "POLLOUT", 4)
#: What a file is filled with where it cannot be allocated.
_ZEROS = bytes(1 << 20)
#: In /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these already.
_IDLE, _COLUMNS = (3, 4), 8
_STAT = Path("/proc/stat")
_TICKS_PER_SECOND = 100

#: Of files in /proc/PID: the umask, users and groups, capabilities, seccomp, processors; limits; control groups.
_ATTRIBUTE_LINES = re.compile(
    rb"^(?:Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Cpus_allowed:|Mems_allowed:|Max (?!open files)|\d).*",
    re.MULTILINE,
)


def memory_file(name: str) -> int:
    """Make a file without a name in any folder; it is gone with its last descriptor."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, os.MFD_CLOEXEC)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


@contextlib.contextmanager
def readable_secret(name: str, data: bytes) -> Iterator[str]:
    """Yield the path of a file that has the data, that no other user can open, and that is gone afterwards."""
    fd = memory_file(name)
    try:
        if os.path.exists(path := f"/proc/self/fd/{fd}"):  # noqa: PTH110  a text is what is asked for
            os.write(fd, data)
            yield path
            return
    finally:
        os.close(fd)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.touch(0o600)
        file.write_bytes(data)
        yield str(file)


def allocate_file(fd: int, size: int) -> None:
    """Have disk or memory for all of a new file. OSError: there is none."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    done = 0
    while done < size:
        done += os.pwrite(fd, _ZEROS[: size - done], done)


def sync_data(fd: int) -> None:
    """Make what was written to a file safe from the loss of power. OSError: nothing of it may be believed."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
        return
    if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS `fsync` leaves it in the disk's own memory
        with contextlib.suppress(OSError):  # a file system that cannot
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


# -- the ends of processes -------------------------------------------------------------------------


def exit_fd(pid: int) -> int | None:
    """Return a descriptor that is readable once the process has ended, where there is such a thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def watch_exit(wait: Callable[[], object]) -> int:
    """Return a descriptor that is readable once `wait` has returned, in a thread: for a child that has no `exit_fd`."""
    import threading

    read_end, write_end = os.pipe()

    def tell_end() -> None:
        with contextlib.suppress(Exception):  # another has waited for it
            wait()
        with contextlib.suppress(OSError):  # it is not wanted any more
            os.write(write_end, b"\0")
        os.close(write_end)

    try:
        threading.Thread(target=tell_end, name="runner-exit", daemon=True).start()
    except RuntimeError as error:  # no more threads
        os.close(read_end)
        os.close(write_end)
        raise OSError(str(error)) from None
    return read_end


def send_signal(exit_fd: int | None, pid: int, number: int) -> None:
    """Send a signal to the process that a descriptor stands for; to the one that has its number without."""
    if exit_fd is not None and hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(exit_fd, number)
    else:
        os.kill(pid, number)


def kill_group_when_closed(read_end: int, group: int) -> bool:
    """Have the kernel kill a process group once no process holds the other end of the pipe; False if it cannot."""
    if not HAS_PIPE_SIGNALS:
        return False
    fcntl.fcntl(read_end, fcntl.F_SETOWN, -group)
    fcntl.fcntl(read_end, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(read_end, fcntl.F_SETFL, fcntl.fcntl(read_end, fcntl.F_GETFL) | os.O_ASYNC)
    return True


def can_fork_workers() -> bool:
    """Return True if a fork server may be used: it is handed descriptors, and what it has imported bears a fork.

    The libraries of macOS do not: a copy of a process that has used them may crash.
    """
    import socket  # which imports selectors

    return hasattr(os, "fork") and hasattr(socket, "send_fds") and sys.platform != "darwin"


def create_poller() -> tuple[Any, int, int]:
    """Return what waits for descriptors, its time units in a second, and a descriptor that ends a wait, or -1.

    That is an `eventfd` that is never read: each write ends a wait, as it is watched for changes.
    bench, a thread's message, from its post to the loop: without it 4.6 us, with it 3.0
    bench latency, calls of the supervisor for an item: with `selectors` 376, without 357.
    """
    if not HAS_EPOLL:
        return select.poll(), 1000, -1
    poller, wakeup_fd = select.epoll(), -1
    if hasattr(os, "eventfd"):
        wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        poller.register(wakeup_fd, select.POLLIN | select.EPOLLET)
    return poller, 1, wakeup_fd


def wake_poller(wakeup_fd: int) -> None:
    """End the present wait of a poller, or its next one."""
    os.eventfd_write(wakeup_fd, 1)


# -- what /proc tells ------------------------------------------------------------------------------


def descendant_pids(pid: int) -> list[int]:
    """Return the processes that a process has started, and theirs, in any session."""
    found: list[int] = []
    look = [pid]
    while look:
        with contextlib.suppress(OSError):  # it has ended
            for thread in Path(f"/proc/{look.pop()}/task").iterdir():
                children = [int(child) for child in (thread / "children").read_text(encoding="ascii").split()]
                found += children
                look += children
    if not found and not _has_proc():
        import psutil

        with contextlib.suppress(psutil.Error):
            found = [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return found


def _has_proc() -> bool:
    return os.path.isdir("/proc/self")  # noqa: PTH112  paths take their time


def open_files() -> dict[int, str] | None:
    """Return the descriptors that are open in this process, and what each is open for; None where it is not known."""
    found = {}
    try:
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  at the end of each worker: paths take their time
            with contextlib.suppress(OSError):  # the one that lists them
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115  the same
    except OSError:
        return None
    return found


def inherited_descriptors() -> tuple[int, ...]:
    """Return the descriptors, apart from the standard ones, that a program which this process executes would have."""
    found = []
    with contextlib.suppress(OSError):  # a system that tells it nowhere
        for name in os.listdir("/proc/self/fd" if _has_proc() else "/dev/fd"):  # noqa: PTH208  names alone
            with contextlib.suppress(OSError):  # it was the folder's own
                if int(name) > 2 and os.get_inheritable(int(name)):
                    found.append(int(name))
    return tuple(found)


def process_start(pid: int) -> int:
    """Return when a process was started, in hundredths of a second or so since a fixed moment; 0: not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return int(text.rpartition(")")[2].split()[19])  # the name before it may hold anything
    except (OSError, ValueError, IndexError):
        if _has_proc():
            return 0
    import psutil

    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).create_time() * _TICKS_PER_SECOND)
    return 0


def boot_id() -> str:
    """Return the name of this boot of the machine; empty where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import psutil

        # Another after the clock was set: then what a killed run executed is not believed, which is the safe side.
        with contextlib.suppress(OSError, psutil.Error):
            return f"booted at {psutil.boot_time():.0f}"
    return ""


def file_system_of(folder: Path) -> str:
    """Return the kind of the file system that holds a folder; empty where that is not known."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        device = folder.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as lines:
            for words in map(str.split, lines):
                if words[2] == wanted:
                    return words[words.index("-") + 1]
        return ""
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        where = folder.resolve()
        around = [each for each in psutil.disk_partitions(all=True) if where.is_relative_to(each.mountpoint)]
        return max(around, key=lambda each: len(each.mountpoint)).fstype if around else ""
    return ""


def processor_ticks() -> tuple[int, int] | None:
    """Return ticks of the processors that this process may use: idle ones, and all; None where they are not known."""
    idle = total = 0
    try:
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        with _STAT.open(encoding="ascii") as lines:
            for name, *columns in map(str.split, lines):
                if name in allowed:
                    ticks = [int(column) for column in columns[:_COLUMNS]]
                    idle += sum(ticks[at] for at in _IDLE)
                    total += sum(ticks)
                elif not name.startswith("cpu"):
                    break
    except (ValueError, IndexError):
        return None
    except (OSError, AttributeError):
        import psutil

        times = psutil.cpu_times()._asdict()
        idle = int(_TICKS_PER_SECOND * (times["idle"] + times.get("iowait", 0.0)))
        counted_already = {"guest", "guest_nice"}
        total = int(_TICKS_PER_SECOND * sum(times[name] for name in times.keys() - counted_already))
    return idle, total


def physical_memory() -> int:
    """Return the bytes of memory that this machine has.

    >>> physical_memory() > 1 << 20
    True
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        import psutil

        return int(psutil.virtual_memory().total)


def inherited_attributes() -> tuple[Any, ...]:
    """Return what a child inherits from this process and can be changed in it, as far as /proc and the system tell it.

    But for what every worker is told when it starts: the folder, the environment, the limit of open files.
    """
    text = b""
    for name in ("status", "limits", "cgroup"):
        fd = os.open(f"/proc/self/{name}", os.O_RDONLY)
        text += os.read(fd, 1 << 16)
        os.close(fd)
    return *_ATTRIBUTE_LINES.findall(text), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.getsid(0)
