"""The agent: a program that lends its machine to a run, and has the run's workers there.

    supervisor ◀── one connection ──▶ relay ──▶ ProcessEngine ──▶ worker, worker, ...
                   (`frame_link`)       ◀── what its reactor hears

It decides nothing. When the connection ends, for whatever reason, it kills its workers and ends; when it is killed
itself, their lifelines kill them. program.py has its options, and how it joins; relay.py what it passes on, and
relay_memory.py its part in large items.
"""
