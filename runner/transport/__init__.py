"""The way of messages and items between the supervisor and its workers.

    messages        what is said: the same objects for every engine
    item_codec      items to chunk payloads and back; only workers use it
    framing         messages to bytes and back, with payloads beside the header, untouched
    socket_link     the two ends of a process worker's private sockets
    progress_page   the shared page on which each worker shows the item that it executes
    lease_page      the file of a durable run that begins with that page, and says what its open leases hold
    linux_only      what not every system can do with sockets and pipes
    stdio           a process worker's standard output and error

Thread workers are handed the message objects themselves. Payloads are opaque above this floor; large ones lie
in shared memory (`runner.shm`).
"""
