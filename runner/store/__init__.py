"""Files that runs keep on disk, read without importing or unpickling anything.

.runner/                      0700, beside the file (`state` in [run]); its owner's alone, and no part of it a link
    runs/RUN/dead.jsonl       0600: its dead letters (`letters`)
    runs/RUN/record.json      0600: what happened (`records`)
    runs/RUN/ledger.db        0600: the ledger of a durable run (`ledger_file`, `keeper`); with -wal and -shm
    runs/RUN/big/             0700: its large payloads (`segments`)
    runs/RUN/cells            0600: what its workers execute (`transport.lease_page`), unless it has ended in order
    runs/RUN/lock             0600: locked by the process that executes it (`run_lock`)
    runs/RUN/going            0600: locked while the run goes on
"""
