"""Messages and items on their way between the supervisor and its workers.

    messages   what is said, as frozen dataclasses: the same objects for every fleet
    codec      items to chunk payloads and back; only workers use it
    frames     messages to bytes and back, with payloads beside the header, untouched
    link       the two ends of a process worker's private socket
    arena      the writer's side of large payloads: memory of its own, that readers map
    loans      the reader's side: other processes' arenas, and the views of them that are alive
    cells      the shared page on which each worker shows the item that it executes
    stdio      a process worker's standard output and error

Thread workers are handed the message objects themselves. Payloads are opaque above this floor; who holds which part of
which arena, the fleets count (`fleets/holdings`).
"""
