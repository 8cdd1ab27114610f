"""How messages and items travel between the supervisor and its workers.

    messages   what is said, as frozen dataclasses: the same objects for every fleet
    codec      items to chunk payloads and back; only workers use it
    frames     messages to bytes and back, with payloads beside the header, untouched
    link       the two ends of a process worker's private socket
    cells      the shared page on which each worker shows the item that it executes
    stdio      a process worker's standard output and error

Thread workers are handed the message objects themselves. Payloads are opaque above this floor; large ones
will travel in shared arenas, and only `frames` and `link` will know.
"""
