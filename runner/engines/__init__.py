"""The places in which workers live: one engine for each kind, behind one small interface (`base.Engine`).

threads.py         threads of this process: message objects are handed over as they are
processes.py       processes: two private sockets, a lifeline, a pidfd and two output pipes each
spawn.py           the start of a process, behind one function;  fork_server.py  the process that forks them
early_fork.py      the fork server as a copy of a command's process
child.py           the first thing that a process worker does
shared_payloads.py holds the shared memory that outputs name
reactor.py         waits for all of them at once
"""
