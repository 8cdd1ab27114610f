"""The loop of one worker, the same in every fleet.

    port ──▶ Grant ──▶ decode ──▶ function, item by item ──▶ collect ──▶ Answer (outputs + acks) ──▶ port
                                   │ before each item: its lease and index into the progress cell

Who does what:

- `life` loads the function, sets it up, chooses the body for its form, tears it down, reports.
- `source` runs a task without inputs: within the credit it was given, sending at once while nothing is under way.
- `each` calls a function for every item (or batch) of a grant; `flight` does so on an event loop.
- `boxes` gives a function the queue ends themselves.
- `collect` gathers outputs, `context` is what a function may know of its run.

Imports here stay light: a later process worker is ready within milliseconds.
"""

from runner.worker.failure import is_retryable
from runner.worker.lifecycle import run
from runner.worker.spec import OutputGroup, WorkerPort, WorkerSpec

__all__ = ["OutputGroup", "WorkerPort", "WorkerSpec", "is_retryable", "run"]
