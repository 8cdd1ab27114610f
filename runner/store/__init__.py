"""What runs keep on disk, read without importing or unpickling anything.

.runner/                      0700, beside the file (`state` in [run])
    runs/RUN/dead.jsonl       0600: its dead letters (`letters`)
    runs/RUN/record.json      0600: what happened (`records`)
"""

from runner.store.letters import DeadLetters, find, heading, letters, runs

__all__ = ["DeadLetters", "find", "heading", "letters", "runs"]
