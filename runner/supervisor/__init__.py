"""Starts, feeds, watches, restarts and stops: one thread, one loop.

    hub.wait ──▶ events ──▶ hear (answers, deaths) ──▶ ledger ──▶ feed (grants, credits) ──▶ fleets
                    │                                     │
                    └──▶ signals, deadlines (`ends`)      └──▶ topology: what starts, closes, ends

The supervisor decides nothing by itself that the pure core can answer: `ledger` knows what is queued and who holds
what, `topology` what may start and what has ended, `chunking` how many items to move at once. It does what they
answer. It owns the clock's hand, so a simulation can drive the same code with a scripted fleet.
"""

from runner.supervisor.dead_letters import DeadLetterRecord, DeadLetterSink
from runner.supervisor.loop import Supervisor
from runner.supervisor.plan import Plan, TaskPlan
from runner.supervisor.result import RunOutcome, TaskOutcome

__all__ = ["DeadLetterRecord", "DeadLetterSink", "Plan", "RunOutcome", "Supervisor", "TaskOutcome", "TaskPlan"]
