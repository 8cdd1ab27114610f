"""Files for `runner run`, as short as a user would write them: no sizes, no tuning."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task; `more` are further lines of its table."""

    name: str
    call: str
    mode: str = "process"
    workers: int = 1
    given: str = ""
    more: str = ""

    def table(self, inputs: list[str], outputs: list[str]) -> str:
        """Its table."""
        lines = [
            f"[tasks.{self.name}]",
            f'call    = "{self.call if ":" in self.call else f"bench.functions:{self.call}"}"',
            f'mode    = "{self.mode}"',
        ]
        lines += [f"with    = {{ {self.given} }}"] if self.given else []
        lines += [f"workers = {self.workers}"] if self.workers > 1 else []
        lines += [f"inputs  = {json.dumps(inputs)}"] if inputs else []
        lines += [f"outputs = {json.dumps(outputs)}"] if outputs else []
        lines += [self.more] if self.more else []
        return "\n".join(lines) + "\n"


def pipeline(*tasks: Task) -> str:
    """Each task reads what the one before it writes.

    >>> print(pipeline(Task("make", "numbers"), Task("add", "Total", "thread")))
    [queues]
    q1 = {}
    <BLANKLINE>
    [tasks.make]
    call    = "bench.functions:numbers"
    mode    = "process"
    outputs = ["q1"]
    <BLANKLINE>
    [tasks.add]
    call    = "bench.functions:Total"
    mode    = "thread"
    inputs  = ["q1"]
    <BLANKLINE>
    """
    queues = [f"q{index}" for index in range(1, len(tasks))]
    head = "".join(["[queues]\n", *(f"{queue} = {{}}\n" for queue in queues), "\n"]) if queues else ""
    ends = zip(tasks, [[], *([queue] for queue in queues)], [*([queue] for queue in queues), []], strict=True)
    return head + "\n".join(task.table(inputs, outputs) for task, inputs, outputs in ends)
