"""What limits a run, and what more of it would give: one sentence.

    shares of the time in which each could not have done more      what the sentence says would change
        task         executing and encoding, of its workers' time     n workers → n + n/4
        rate         items it got, of items it was allowed            twice the rate
        concurrency  items in flight, of those allowed                twice as many
        interpreter  CPU time of all threads and the supervisor       one of the tasks moves to processes
        machine      CPU time of the run, of what others leave        nothing

The largest share is the limit, and throughput can grow until the next one is reached: the bottleneck law of operational
analysis (Denning and Buzen, The Operational Analysis of Queueing Network Models, 1978). Time in which even the limit
was idle (a start, a drain) stays as it is. Where the numbers do not tell, nothing is said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from runner.report.pipelines import Pipeline, others, pipelines, supervision
from runner.report.record import Limit
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.report.pipelines import Load
    from runner.report.record import Record

#: Shorter runs are mostly start and end, seconds.
SHORTEST = 0.5
#: What the run is about takes at least this share of it, or that if it is a single task.
MAIN, ALONE = 0.6, 0.8
#: From these shares on something is a limit.
BUSY, REACHED, COMPUTING, FULL = 0.7, 0.9, 0.85, 0.9
#: One interpreter computes at most all of the time; the rest is noise.
ONE = 1.15
#: With fewer items a rate has not shown.
FEW = 10
#: More than this share of the machine with other programs is worth a word.
MUCH = 0.2
#: So much of the machine other programs have to leave to a run that wants it.
FAIR = 0.5
#: How busy the machine is, and how much of what others leave the run takes, where these others are in its way.
CROWDED, TAKEN = 0.95, 0.75
#: From this share of its time on a task needs a processor.
COMPUTES = 0.2
#: Less than this is not worth a change.
WORTH = 1.1

#: What has a share: its kind, and whose it is.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Shares:
    """How much of the time each thing could not have done more, 0 to 1, in one pipeline of a run of `seconds`.

    `stop`: as a share of the pipeline, when what goes on beside it ends; it cannot get shorter than that. `ours` and
    `others`: what the run and what other programs take of the machine.
    """

    of: dict[Key, float]
    pipeline: Pipeline
    seconds: float
    stop: float
    cores: int
    ours: float
    others: float

    def most(self, *kinds: str) -> Key | None:
        """What has the largest share, among these kinds or all."""
        keys = [key for key in self.of if not kinds or key[0] in kinds]
        return max(keys, key=self.of.__getitem__) if keys else None

    def gain(self, changed: dict[Key, float]) -> tuple[float, Key]:
        """How many times as fast the run would be with these shares changed, and what would limit it then."""
        after = replace(self, of={**self.of, **changed})
        then = after.most()
        assert then is not None
        idle = 1 - min(1.0, max(self.of.values()))
        span = self.pipeline.seconds
        lasts = min(1.0, max(idle + after.of[then], self.stop))
        return self.seconds / (self.seconds - span + span * lasts), then


def limit(record: Record) -> Limit | None:
    """What limits the run, and what would help; None where nothing useful can be said."""
    found = pipelines(record)
    main = max(found, key=lambda each: each.seconds, default=None)
    if main is None or main.seconds < max(SHORTEST, MAIN * record.seconds) or main.phased:
        return None
    beside = [each for each in found if each is not main and each.begin < main.end]
    stop = max((each.end - main.begin for each in beside), default=0.0) / main.seconds
    if main.lone:
        return _lone(main, record, stop) if len(found) > 1 else None
    cores = max(1, record.plan.machine.cores)
    of, theirs = _shares(main, beside, record), others(record)
    ours = of["machine", ""]
    of["machine", ""] = ours / (1 - min(theirs, FAIR))
    shares = Shares(of, main, record.seconds, stop, cores, ours, theirs)
    if (found_machine := _machine(shares)) is not None or stop > 1 / WORTH:
        return found_machine  # what goes on beside it takes as long: faster, it would not shorten the run
    return _cautious(_interpreter(shares) or _most(shares), shares)


def _cautious(found: Limit | None, shares: Shares) -> Limit | None:
    """No promise of more workers where they would need processors that other programs have."""
    busy = shares.ours + shares.others
    if found is None or found.gain is None or shares.others <= MUCH or busy < FULL:
        return found
    loads = [load for load in shares.pipeline.loads if load.name == found.task]
    if not any(load.computing(shares.pipeline.end) >= COMPUTES for load in loads):
        return found  # it waits: that takes no processor
    text = found.sentence.partition("; ")[0]
    text += f"; other programs take {_percent(shares.others)} of the machine, which leaves more workers nothing"
    return Limit(text, found.kind, found.task)


def _shares(main: Pipeline, beside: Iterable[Pipeline], record: Record) -> dict[Key, float]:
    of: dict[Key, float] = {}
    for load in main.loads:
        if load.plan.concurrency is None:
            of["task", load.name] = load.busy(main.end)
        else:
            of["task", load.name] = load.computing(main.end)  # its loop; waiting together is not work
            of["concurrency", load.name] = load.flying(main.end)
        if load.plan.rate and load.items >= FEW:
            of["rate", load.name] = load.paced(main.end)
    window = max(main.end - max(load.begin for load in main.loads), 1e-3)
    all_loads = [(load, 1.0) for load in main.loads]
    all_loads += [(load, load.within(main)) for each in beside for load in each.loads]
    cores, own = max(1, record.plan.machine.cores), supervision(record)
    ours = sum(load.cpu * part for load, part in all_loads) / window
    of["machine", ""] = (ours + own) / cores
    threads = sum(load.cpu * part for load, part in all_loads if load.plan.mode == "thread") / window
    if own < threads and threads + own <= ONE:  # more than one core: they let it go while they compute
        of["interpreter", ""] = threads + own
    return of


# -- the sentences ----------------------------------------------------------------------------


def _lone(main: Pipeline, record: Record, stop: float) -> Limit | None:
    """A task without queues that everything else is over before."""
    name = main.loads[0].name
    share = main.seconds / record.seconds
    if stop > 1 / WORTH or share < ALONE:
        return None
    return Limit(
        f"{name} limits the run: it takes {_percent(share)} of the time, and all else is over before", "work", name
    )


def _machine(shares: Shares) -> Limit | None:
    share, busy = shares.of["machine", ""], shares.ours + shares.others
    crowded = shares.others > MUCH and busy >= CROWDED and share >= TAKEN
    if share < FULL and not crowded:
        return None
    load = max(shares.pipeline.loads, key=lambda each: each.cpu)
    what = f"all {shares.cores} cores are" if shares.cores > 1 else "the one core is"
    text = f"the machine limits the run: {what} busy ({_percent(busy)})"
    if crowded:
        text += f", {_percent(shares.others / busy)} of that with other programs"
        return Limit(f"{text}; more workers would only compete with them", "machine", load.name)
    part = load.cpu / shares.pipeline.seconds / shares.cores / busy
    text += f", {_percent(part)} of that with {load.name}"
    return Limit(f"{text}; more workers would give nothing", "machine", load.name)


def _interpreter(shares: Shares) -> Limit | None:
    """Threads that compute: one of their tasks as processes."""
    share = shares.of.get(("interpreter", ""), 0.0)
    threads = [load for load in shares.pipeline.loads if load.plan.mode == "thread" and load.cpu]
    if share < COMPUTING or not threads:
        return None
    load = max(threads, key=lambda each: each.cpu)
    workers = load.workers if load.source else max(2, load.workers)
    computing = load.computing(shares.pipeline.end)
    changed = {
        ("task", load.name): computing * load.workers / workers,
        ("interpreter", ""): share - computing * load.workers,
    }
    # Their waiting for each other is in the executing time of all the threads: with it gone, what they compute stays.
    changed |= {("task", each.name): each.computing(shares.pipeline.end) for each in threads if each is not load}
    gain, _ = shares.gain(changed)
    if gain < WORTH:
        return None
    how = f"{load.name} takes {_percent(load.cpu / sum(each.cpu for each in threads))} of it"
    more = "" if workers == load.workers else f" and {workers} workers"
    text = f"threads share one interpreter, which limits the run: {_percent(share)} busy, {how}"
    advice = f'mode = "process"{more} would give up to {_times(gain)}'
    return Limit(f"{text}; {advice}", "interpreter", load.name, workers, gain)


def _most(shares: Shares) -> Limit | None:
    """What has the largest share, if that is large enough."""
    top = shares.most("task", "rate", "concurrency")
    if top is None or shares.of[top] < (BUSY if top[0] == "task" else REACHED):
        return None
    kind, name = top
    load = next(each for each in shares.pipeline.loads if each.name == name)
    say: Callable[[Shares, Load], Limit | None] = {"task": _work, "rate": _rate, "concurrency": _concurrency}[kind]
    return _balanced(shares, top) or say(shares, load)


def _balanced(shares: Shares, top: Key) -> Limit | None:
    """Two or more that are nearly as busy: more of one alone would give little."""
    near = [
        key for key, share in shares.of.items()
        if key[0] in {"task", "rate", "concurrency"} and share * WORTH >= shares.of[top]
    ]  # fmt: skip
    if len(near) < 2:
        return None
    near.sort(key=lambda key: -shares.of[key])
    told = ", ".join(f"{_whose(key)} {_percent(shares.of[key])}" for key in near)
    text = f"balanced: {told} busy; more for one alone would give little"
    loads = [load for load in shares.pipeline.loads if ("task", load.name) in near and load.may_share]
    if len(loads) < len(near):
        return Limit(text, "balanced", top[1])
    more = {("task", load.name): load.workers / load.more for load in loads}
    gain, _ = shares.gain({key: shares.of[key] * part for key, part in more.items()})
    if gain < WORTH:
        return Limit(text, "balanced", top[1])
    each = ", ".join(f"{load.more} for {load.name}" for load in loads)
    return Limit(f"{text}, {each} together about {_times(gain)}", "balanced", top[1], None, gain)


def _work(shares: Shares, load: Load) -> Limit | None:
    """A task whose workers are busy: more of them, or a faster source."""
    key = ("task", load.name)
    share = shares.of[key]
    begin = f"{load.name} limits the run: {_percent(share)} busy"
    if load.source:
        return _source(shares, load, begin)
    if not load.queued:
        return None  # nothing ever waits for it: something else paces the run, a cycle perhaps
    if not load.may_share:
        return Limit(begin, "work", load.name)
    workers = load.more
    gain, then = shares.gain({key: share * load.workers / workers})
    if gain < WORTH:
        return Limit(f"{begin}; more workers would give little, because of {_whose(then)}", "work", load.name)
    text = f"{begin}; {workers} workers would give about {_times(gain)}"
    return Limit(text + _then(shares, then, key), "work", load.name, workers, gain)


def _source(shares: Shares, load: Load, begin: str) -> Limit:
    """Each worker of a source would make all the items again, so another one is no help."""
    saved = load.computing(shares.pipeline.end) * load.workers / 2
    changed = {("task", load.name): shares.of["task", load.name] / 2}
    if shares.ours > 0:
        changed["machine", ""] = shares.of["machine", ""] * (1 - saved / shares.cores / shares.ours)
    if load.plan.mode == "thread" and ("interpreter", "") in shares.of:
        changed["interpreter", ""] = shares.of["interpreter", ""] - saved
    gain, _ = shares.gain(changed)
    text = f"{begin} making items; twice as fast, it would give about {_times(gain)}"
    return Limit(f"{text}; more workers elsewhere would give nothing", "work", load.name, None, gain)


def _rate(shares: Shares, load: Load) -> Limit | None:
    rate = load.plan.rate or 0.0
    key = ("rate", load.name)
    gain, then = shares.gain({key: shares.of[key] / 2})
    text = f"{load.name} limits the run: its rate of {rate:g}/s is reached, its workers are "
    text += f"{_percent(load.busy(shares.pipeline.end))} busy; twice the rate would give about {_times(gain)}"
    return Limit(text + _then(shares, then, key), "rate", load.name, None, gain)


def _concurrency(shares: Shares, load: Load) -> Limit | None:
    key = ("concurrency", load.name)
    gain, then = shares.gain({key: shares.of[key] / 2})
    most = load.plan.concurrency or 0
    text = f"{load.name} limits the run: as many items as it may have are in flight; "
    text += f"concurrency = {2 * most} would give up to {_times(gain)}"
    return Limit(text + _then(shares, then, key), "concurrency", load.name, None, gain)


# -- words ------------------------------------------------------------------------------------


def _then(shares: Shares, then: Key, now: Key) -> str:
    """What would limit it afterwards, when that is something else and near."""
    return "" if then == now or shares.of[then] < 0.5 else f" (then {_whose(then)} would limit it)"


def _whose(key: Key) -> str:
    kind, name = key
    if kind == "task":
        return name
    shared = {"machine": "the machine's cores", "interpreter": "the threads' one interpreter"}
    return shared.get(kind, f"{name}'s {kind}")


def _percent(share: float) -> str:
    return f"{min(1.0, share) * 100:.0f} %"


def _times(gain: float) -> str:
    return f"{gain:.1f}x"
