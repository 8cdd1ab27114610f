"""Files that runs keep on disk, read without importing or unpickling anything.

.runner/                      0700, beside the file (`state` in [run]); its owner's alone, and no part of it a link
    runs/RUN/dead.jsonl       0600: its dead letters (`letters`)
    runs/RUN/record.json      0600: what happened (`records`)
    runs/RUN/going            0600: locked while the run goes on
"""
