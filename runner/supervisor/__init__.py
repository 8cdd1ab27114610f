"""Starts, feeds, watches, restarts and stops: one thread, one loop.

    reactor.wait ──▶ events ──▶ replies, deaths ──▶ ledger ──▶ dispatch (grants, credit) ──▶ engines
                       │                              │
                       └──▶ signals, deadlines        └──▶ topology: what starts, closes, ends
                            (`shutdown`)

The supervisor decides nothing by itself that the pure core can answer: `ledger` knows what is queued and which worker
holds what, `topology` what may start and what has ended, `chunk_sizing` how many items to move at once. `RunState`
holds all that is known of a run. Each part takes it as an argument, and those parts that it calls; `loop` makes them
and is known to none. The supervisor reads the clock, so a simulation can drive the same code with a scripted engine.
"""
