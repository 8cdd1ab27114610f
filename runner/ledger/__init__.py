"""Pure bookkeeping: what is queued, which worker holds what, crashes, attempts and the balance.

    put ──▶ Line (one queue, one group of readers) ──take──▶ Lease ──settle──▶ done, dead, dropped, again
                 ▲                                             │
                 └──────────── release, crash, retry ──────────┘

The ledger moves chunks of opaque payload and counts items; it never looks into a payload, reads no clock
(`now` is passed in) and touches neither threads, processes nor files. Whatever it holds is always in exactly
one place, so the balance `put = done + dead + dropped + queued + leased` is true between any two calls.

In a durable run a `journal` notes each change, for the ledger on disk; `restore` makes a ledger of that again.
"""
