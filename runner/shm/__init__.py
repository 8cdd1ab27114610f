"""Shared memory for large payloads: written by one worker, read by others without a copy.

    worker A                              supervisor                           worker B
    writer.ArenaWriter                    registry.ArenaRegistry               reader
      │ copies large buffers                │ counts the holders                 │ maps each arena once
      ▼ into pages of its arena             ▼ of each block                      ▼ and views blocks in place
    Output: pickle + block_refs ──▶ SharedPayload: bytes + Blocks ──▶ Grant ──▶ item with borrowed buffers
      ▲                                     │
      └── freed_offsets ◀───────────────────┘ when the last reference to a Block is gone

**The life of a block.** A function emits an array. Its pickle (protocol 5) leaves buffers of 64 KiB and more out;
`writer` copies each into the lowest free pages of the worker's arena, and a `BlockRef` (arena, offset, length) travels
instead. The supervisor never looks inside: `registry` makes a `Block` of each reference, and everything that keeps
the payload (queue, lease, dead letter) keeps the block. The reader's worker is given the arena's descriptor once, and
`reader` returns views of the pages themselves. The block is held until the reader's lease is over, and longer while a
view of it is alive there (`still_viewed`, later `released`). Then its offset goes back to the writer with the next
grant or credit, or in a message of its own once a fourth of what is held is free.

**Safety.** An arena is a memory file without a name, sealed so that it cannot shrink: a reader would die of that. Its
size is fixed and sparse. Readers map it privately: what a function writes into an array it alone sees, and an item that
is given again is what it was. Nothing has to be cleaned up: when all processes are gone, the kernel has all back. When
a writer dies, its arena stays until its last block has no holder, and pages between the held blocks go back at once.

**Passing on.** A buffer that is emitted as it came is not copied: its reference is sent on. When a function has written
a few of its pages (the kernel's pagemap tells which), these travel beside the reference.

**Limits.** A writer never waits here, apart from a source, which gives its readers a moment above 64 MiB. Without room,
or where memory files do not exist (or `RUNNER_NO_ARENA` is set), buffers travel in the pickle.

    linux_only  what arenas are made of, and whether this machine has it
    writer     one writer's arena: free pages, copying in, references on their way
    reader     other processes' arenas, mapped once each, and the views that are alive
    registry   the supervisor's count of holders, and the twins of arenas on other machines
"""
