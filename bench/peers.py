"""The contenders, each as its expert user would write it: source → work → sink, whatever these are.

A source is a function that makes an iterator, a sink takes one; `work` is called for each item. `size` is how many
items are moved together: 1 is what the documentation shows, 1,000 is what people find who measure.
"""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import queue
import select
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import connection
from operator import length_hint
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Source = Callable[[], Iterable[Any]]
    Work = Callable[[Any], Any]
    Sink = Callable[[Iterable[Any]], None]

END = None
#: Types of results that need no look.
PLAIN = frozenset({int, float, bool, str, bytes, type(None)})
_fork = multiprocessing.get_context("fork")


def lists(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size`.

    >>> list(lists("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def each_of(work: Work, chunk: list[Any]) -> list[Any]:
    """The work on a list."""
    return [work(item) for item in chunk]


def each_guarded(work: Work, chunk: list[Any]) -> list[Any]:
    """The same with runner's promises: each result is looked at, and an error is one item's, whose place is known.

    >>> each_guarded({1: 6, 3: 2}.__getitem__, [1, 0, 3])
    [6, (1, KeyError(0)), 2]
    """
    results: list[Any] = []
    items = iter(chunk)
    while length_hint(items):
        try:
            for item in items:
                results.append(work(item))  # noqa: PERF401  a comprehension would lose them all with an error
        except Exception as error:
            results.append((len(chunk) - length_hint(items) - 1, error))
    if not PLAIN.issuperset(map(type, results)):
        results = [result for result in results if not hasattr(result, "__await__") and not hasattr(result, "__next__")]
    return results


def item_by_item(source: Source, stages: list[tuple[Work, int]], sink: Work, size: int = 1000) -> tuple[Any, Any, Any]:
    """Source, stages and sink of lists by hand whose functions are called, and answered for, item by item.

    `sink` is a class, as runner's are.
    """

    def call_sink(chunks: Iterable[list[Any]]) -> None:
        with sink() as into:  # type: ignore[attr-defined]
            call = into.__call__  # bound once, not looked up for each item
            for chunk in chunks:
                for item in chunk:
                    call(item)

    return (
        (lambda: lists(source(), size)),
        [(partial(each_guarded, work), workers) for work, workers in stages],
        call_sink,
    )


def grouped(source: Source, work: Work, size: int) -> tuple[Iterable[Any], Work]:
    """A source of lists and the work on one of them; with `size` 1 the two as they are."""
    return (source(), work) if size == 1 else (lists(source(), size), partial(each_of, work))


def flat(results: Iterable[Any], size: int) -> Iterable[Any]:
    """The items again."""
    return results if size == 1 else itertools.chain.from_iterable(results)


def plain(source: Source, work: Work, sink: Sink) -> None:
    """No concurrency at all: a for loop."""
    sink(work(item) for item in source())


class Pipes:
    """By hand: a private pipe to and from each worker, items dealt in turn. Nothing is faster that moves pickles."""

    def __init__(self, source: Source, work: Work, sink: Sink, *, workers: int = 2, size: int = 1000) -> None:
        self.source, self.work, self.workers, self.size = source, work, workers, size
        inward = [_fork.Pipe(duplex=False) for _ in range(workers)]
        outward = [_fork.Pipe(duplex=False) for _ in range(workers)]
        ends = [(read, write) for (read, _), (_, write) in zip(inward, outward, strict=True)]
        crew = [_fork.Process(target=self._work, args=pair) for pair in ends]
        crew.append(_fork.Process(target=self._deal, args=([write for _, write in inward],)))
        for each in crew:
            each.start()
        sink(flat(self._results([read for read, _ in outward]), size))
        for each in crew:
            each.join()

    def _deal(self, ends: list[Any]) -> None:
        items, _ = grouped(self.source, self.work, self.size)
        for end, item in zip(itertools.cycle(ends), items, strict=False):
            end.send(item)
        for end in ends:
            end.send(END)

    def _work(self, read: Any, write: Any) -> None:
        _, work = grouped(list, self.work, self.size)
        while (item := read.recv()) is not END:
            write.send(work(item))
        write.send(END)

    def _results(self, ends: list[Any]) -> Iterator[Any]:
        while ends:
            for end in connection.wait(ends):
                item = end.recv()  # type: ignore[union-attr]
                if item is END:
                    ends.remove(end)
                else:
                    yield item


class OrderedPipes(Pipes):
    """The same, the results collected in the order in which the items were dealt."""

    def _results(self, ends: list[Any]) -> Iterator[Any]:
        for end in itertools.cycle(ends):
            if (item := end.recv()) is END:
                return
            yield item


class CopyPipes(Pipes):
    """The same, every item to every worker; pickled once."""

    def _deal(self, ends: list[Any]) -> None:
        items, _ = grouped(self.source, self.work, self.size)
        for item in itertools.chain(items, [END]):
            pickled = pickle.dumps(item, -1)
            for end in ends:
                end.send_bytes(pickled)


def star(source: Source, work: Work, sink: Sink) -> None:
    """Every message through the process in the middle, as with runner, which does nothing but pass on its bytes.

    So it has runner's wake-ups, four for an item, and Python's code for a message at its least.
    """
    (made, source_end), (worker, worker_end), (results, sink_end) = [_fork.Pipe() for _ in range(3)]
    functions = (
        lambda: [source_end.send(item) for item in itertools.chain(source(), [END])],
        lambda: [worker_end.send(END if item is END else work(item)) for item in _until_end(worker_end)],
        lambda: sink(itertools.takewhile(lambda item: item is not END, _until_end(sink_end))),
    )
    crew = [_fork.Process(target=function) for function in functions]
    for each in crew:
        each.start()
    ways = {made.fileno(): (made, worker), worker.fileno(): (worker, results)}
    poller = select.epoll()
    for fd in ways:
        poller.register(fd, select.EPOLLIN)
    ended = pickle.dumps(END)
    while ways:
        for fd, _ in poller.poll():
            read, write = ways[fd]
            data = read.recv_bytes()
            write.send_bytes(data)
            if data == ended:
                poller.unregister(fd)
                del ways[fd]
    for each in crew:
        each.join()


def _until_end(end: Any) -> Iterator[Any]:
    """What arrives, with the END."""
    while True:
        yield (item := end.recv())
        if item is END:
            return


class Queues:
    """Queues between workers that are processes or threads: source → stage → … → sink in the main thread.

    `stages` are (work, workers). Every writer tells every reader that it has ended; a reader has ended when it has
    heard that as often as there are writers.
    """

    def __init__(
        self, source: Source, stages: list[tuple[Work, int]], sink: Sink, *, size: int = 1, make: Any, start: Any
    ) -> None:
        self.source, self.size = source, size
        queues = [make() for _ in range(len(stages) + 1)]
        crowds = [1, *(workers for _, workers in stages), 1]
        crew = [start(target=self._feed, args=(queues[0], crowds[1]))]
        for index, (work, workers) in enumerate(stages):
            ends = (queues[index], crowds[index], queues[index + 1], crowds[index + 2])
            crew += [start(target=self._work, args=(work, *ends)) for _ in range(workers)]
        for each in crew:
            each.start()
        sink(flat(_taken(queues[-1], crowds[-2]), size))
        for each in crew:
            each.join()

    def _feed(self, out: Any, readers: int) -> None:
        put = out.put
        items, _ = grouped(self.source, len, self.size)
        for item in items:
            put(item)
        for _ in range(readers):
            put(END)

    def _work(self, work: Work, inp: Any, writers: int, out: Any, readers: int) -> None:
        _, work = grouped(list, work, self.size)
        put = out.put
        for item in _taken(inp, writers):
            put(work(item))
        for _ in range(readers):
            put(END)


def _taken(inp: Any, writers: int) -> Iterator[Any]:
    get = inp.get
    while writers:
        if (item := get()) is END:
            writers -= 1
        else:
            yield item


class PipeQueue:
    """A pipe with one writer and one reader, as a queue: for chains by hand."""

    def __init__(self) -> None:
        read, write = _fork.Pipe(duplex=False)
        self.get, self.put = read.recv, write.send


def processes(
    source: Source, stages: list[tuple[Work, int]], sink: Sink, *, size: int = 1, bound: int = 1000, pipes: bool = False
) -> None:
    """multiprocessing.Queue; or private pipes, where each stage has one worker."""
    make = PipeQueue if pipes else partial(_fork.Queue, bound)
    Queues(source, stages, sink, size=size, make=make, start=_fork.Process)


def copies(source: Source, work: Work, readers: int, sink: Sink, *, size: int = 1) -> None:
    """A multiprocessing.Queue for each reader, every item put into all of them."""

    class All:
        """What the source puts into."""

        def put(self, item: Any) -> None:
            for each in inward:
                each.put(item)

    inward, outward = [_fork.Queue(1000) for _ in range(readers)], _fork.Queue(1000)
    crew = [_fork.Process(target=_copy_source, args=(source, All(), size))]
    crew += [_fork.Process(target=_copy_work, args=(work, each, outward, size)) for each in inward]
    for process in crew:
        process.start()
    sink(flat(_taken(outward, readers), size))
    for process in crew:
        process.join()


def _copy_source(source: Source, out: Any, size: int) -> None:
    for item in itertools.chain(grouped(source, len, size)[0], [END]):
        out.put(item)


def _copy_work(work: Work, inp: Any, out: Any, size: int) -> None:
    _, work = grouped(list, work, size)
    for item in _taken(inp, 1):
        out.put(work(item))
    out.put(END)


def fifo(source: Source, stages: list[tuple[Work, int]], sink: Sink, *, size: int = 1, mb: int = 64) -> None:
    """faster-fifo, whose queues are shared memory."""
    import faster_fifo

    class Queue(faster_fifo.Queue):  # type: ignore[misc]
        """Its `put` and `get` give up after ten seconds unless told otherwise."""

        def put(self, item: Any, block: bool = True, timeout: float = 1e9) -> None:
            super().put(item, block, timeout)

        def get(self, block: bool = True, timeout: float = 1e9) -> Any:
            return super().get(block, timeout)

    Queues(source, stages, sink, size=size, make=lambda: Queue(mb << 20), start=_fork.Process)


def threads(source: Source, stages: list[tuple[Work, int]], sink: Sink, *, size: int = 1, simple: bool = False) -> None:
    """queue.Queue, or queue.SimpleQueue."""
    make = queue.SimpleQueue if simple else partial(queue.Queue, 1000)
    Queues(source, stages, sink, size=size, make=make, start=threading.Thread)


def pool(source: Source, work: Work, sink: Sink, *, workers: int = 2, chunk: int = 1000, ordered: bool = False) -> None:
    """multiprocessing.Pool."""
    with _fork.Pool(workers) as crew:
        sink((crew.imap if ordered else crew.imap_unordered)(work, source(), chunksize=chunk))


def pools(source: Source, stages: list[Work], sink: Sink, *, chunk: int = 1000) -> None:
    """A chain of Pools, of one process each; their results meet in this process each time."""
    crews = [_fork.Pool(1) for _ in stages]
    results: Iterable[Any] = source()
    for crew, work in zip(crews, stages, strict=True):
        results = crew.imap(work, results, chunksize=chunk)
    sink(results)
    for crew in crews:
        crew.terminate()


def executor(source: Source, work: Work, sink: Sink, *, workers: int = 2, chunk: int = 1000) -> None:
    """ProcessPoolExecutor."""
    with ProcessPoolExecutor(workers, mp_context=_fork) as crew:
        list(crew.map(abs, range(workers)))  # started, all of them, before the clock
        sink(crew.map(work, source(), chunksize=chunk))


def thread_executor(source: Source, work: Work, sink: Sink, *, workers: int = 2) -> None:
    """ThreadPoolExecutor."""
    with ThreadPoolExecutor(workers) as crew:
        sink(crew.map(work, source()))


def parallel(
    source: Source, work: Work, sink: Sink, *, workers: int = 2, batch: Any = "auto", ordered: bool = False
) -> None:
    """joblib, which has its workers (loky) before the clock starts."""
    import joblib

    kind = "generator" if ordered else "generator_unordered"
    with joblib.Parallel(workers, return_as=kind, batch_size=batch, pre_dispatch=2 * workers) as crew:
        list(crew(joblib.delayed(abs)(each) for each in range(2 * workers)))
        sink(crew(joblib.delayed(work)(item) for item in source()))


def mpire(
    source: Source, work: Work, sink: Sink, *, workers: int = 2, length: int, chunk: int | None, ordered: bool = False
) -> None:
    """mpire; `chunk` None: as documented."""
    from mpire import WorkerPool

    with WorkerPool(workers) as crew:
        run = crew.imap if ordered else crew.imap_unordered
        sink(run(work, source(), iterable_len=length, chunk_size=chunk))


def pypeln(
    source: Source,
    stages: list[tuple[Work, int]],
    sink: Sink,
    *,
    size: int = 1,
    kind: str = "process",
    bound: int = 1000,
) -> None:
    """pypeln; `kind` is "process" or "thread"."""
    import pypeln as pl

    module = getattr(pl, kind)
    stage, _ = grouped(source, len, size)
    for work, workers in stages:
        stage = module.map(grouped(list, work, size)[1], stage, workers=workers, maxsize=bound)
    sink(flat(stage, size))
