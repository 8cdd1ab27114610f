"""The loop of one worker, the same in every engine.

    port ──▶ Grant ──▶ decode ──▶ function, item by item ──▶ outputs ──▶ Reply (outputs + acks) ──▶ port
                                   │ before each item: its lease and index into the progress slot

- `lifecycle` loads the function, sets it up, chooses the body for its shape, tears it down, reports.
- Four bodies: `produce` runs a task without inputs, within its credit, and sends at once while nothing is in flight;
  `call` calls a function for every item (or batch) of a grant, and `async_runner` does so on an event loop;
  `pull` gives a function the queue ends themselves.
- `runtime` holds what the bodies share, `outputs` gathers what they emit, `context` is what a function may know.

Imports here stay light: a later process worker is ready within milliseconds.
"""
