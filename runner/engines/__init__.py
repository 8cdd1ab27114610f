"""Where workers live: one fleet for each kind, behind one small interface (`base.Engine`).

thread.py    threads of this process: message objects are handed over as they are
process.py   processes: a private socket, a lifeline, a pidfd and two output pipes each
spawn.py     how a process comes to be (fork server, or spawn), hidden behind one function
child.py     the first thing that a process worker does;  preload.py  what the fork server imports
holdings.py  who holds what in which arena: memory for large payloads
hub.py       waits for all of them at once
"""
