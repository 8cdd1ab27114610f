"""The bottleneck of a run, and what more of it would give: one sentence.

    shares of the time in which each could not have done more      what the sentence says would change
        task         executing and encoding, of its workers' time     n workers → n + n/4
        rate         items it got, of items it was allowed            twice the rate
        concurrency  items in flight, of those allowed                twice as many
        interpreter  CPU time of all threads and the supervisor       one of the tasks moves to processes
        machine      CPU time of the run, of what others leave        nothing
        network      time in which one of its directions was full     half the bytes
        nodes        CPU time of the workers on other machines        nothing

The largest share is the limit, and throughput can grow until the next one is reached: the bottleneck law of operational
analysis (Denning and Buzen, The Operational Analysis of Queueing Network Models, 1978). Time in which even the limit
was idle (a start, a drain) stays as it is. Where the numbers do not tell, nothing is said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.fed_runs import is_added_task
from runner.report.record import Bottleneck
from runner.structs import dataclass
from runner.topology import connected_groups

if TYPE_CHECKING:
    from collections.abc import Iterable

    from runner.events import NodeSummary, TaskPlanned, TaskSummary, WorkerNow
    from runner.report.record import RunRecord

#: Shorter runs are mostly start and end, seconds.
MIN_RUN_SECONDS = 0.5
#: What the run is about takes at least this share of it, or that if it is a single task.
MIN_MAIN_SHARE, MIN_LONE_SHARE = 0.6, 0.8
#: From these shares on something is a limit.
MIN_BUSY_SHARE, MIN_REACHED_SHARE, MIN_INTERPRETER_SHARE, MIN_MACHINE_SHARE = 0.7, 0.9, 0.85, 0.9
#: The same for a direction of a connection. It is looked at ten times a second, and may be empty for a moment.
MIN_NETWORK_SHARE = 0.7
#: One interpreter computes at most all of the time; the rest is noise.
MAX_INTERPRETER_SHARE = 1.15
#: With fewer items a rate has not shown.
MIN_RATE_ITEMS = 10
#: More than this share of the machine with other programs is worth a word.
NOTABLE_OTHERS_SHARE = 0.2
#: So much of the machine other programs have to leave to a run that wants it.
FAIR_MACHINE_SHARE = 0.5
#: How busy the machine is, and how much of what others leave the run takes, where these others are in its way.
CROWDED_MACHINE_SHARE, CROWDED_RUN_SHARE = 0.95, 0.75
#: From this share of its time on a task needs a processor.
NEEDS_PROCESSOR_SHARE = 0.2
#: Less than this is not worth a change.
MIN_GAIN = 1.1
#: A range that is suggested for a task that mostly waits goes up to so many times its workers.
RANGE_FACTOR = 4
#: A task with a range that had this share of its most workers in the mean has had need of them.
FULL_RANGE_SHARE = 0.7

#: What has a share: its kind, and whose it is.
ShareKey = tuple[str, str]


class TaskLoad:
    """One task's work; `work_seconds`, `cpu_seconds` and `item_seconds` are of all its workers together.

    `begin` is when its first worker was ready, `end` when it was over, in seconds since the run began. `had_backlog`:
    items have waited for it. `item_count`: items it took, or made. `suggested_workers`: one worker more, or a quarter
    more where one would hardly be seen. `can_use_more`: that many workers can have an item at the same time.
    `mean_workers` is how many there were on the average: with a range, fewer than `worker_count`, the most.
    """

    def __init__(self, plan: TaskPlanned, summary: TaskSummary, record: RunRecord) -> None:
        spent = [worker.spent for worker in summary.workers]
        start = max(0.0, record.seconds - summary.active - min(each.ended for each in spent))
        inputs = [queue for queue in record.plan.queues if queue.name in plan.inputs]
        most = {queue.name: queue.most for queue in record.queues}
        self.plan = plan
        self.name = plan.name
        self.is_source = not plan.inputs
        self.begin = start + min(each.starting for each in spent)
        self.end = start + summary.active
        self.work_seconds = sum(each.worked for each in spent)
        # Without what their starts have taken.
        computing = [(each.cpu, each.spent.worked, each.spent.starting) for each in summary.workers]
        used = [min(cpu, max(worked, cpu - starting)) for cpu, worked, starting in computing]
        self.cpu_seconds = sum(used)
        #: The part of it on other machines.
        self.far_cpu_seconds = sum(cpu for cpu, worker in zip(used, summary.workers, strict=True) if worker.node)
        self.item_seconds = sum(edge * count for edge, count in summary.times)
        self.item_count = summary.sent if self.is_source else summary.taken
        self.had_backlog = any(most.get(queue.name, 0) >= min(2, queue.size or 2) for queue in inputs)
        self.worker_count = len(plan.workers) if plan.least_workers else len(summary.workers)
        self.mean_workers = float(self.worker_count)
        if plan.least_workers and summary.active > 0:
            self.mean_workers = sum(record.seconds - each.ended - start for each in spent) / summary.active
        self.suggested_workers = self.worker_count + max(1, self.worker_count // 4)
        has_lanes = any(queue.lane for queue in inputs)  # what waits there may be of one of them
        self.can_use_more = not self.is_source and not has_lanes and self.item_count >= 4 * self.suggested_workers

    def share_until(self, end: float, seconds: float) -> float:
        """Return these seconds as a share of the time from its begin until `end`."""
        return seconds / (end - self.begin) if end > self.begin else 0.0

    def busy_share(self, end: float) -> float:
        """Return the share of its workers' time until `end` in which they executed or encoded."""
        return self.share_until(end, self.work_seconds) / self.mean_workers

    def computing_share(self, end: float) -> float:
        """Return the share of its workers' time until `end` in which they used a processor."""
        return self.share_until(end, self.cpu_seconds) / self.mean_workers

    def share_within(self, other: Pipeline) -> float:
        """Return the share of its time that falls into the other pipeline's."""
        both = min(self.end, other.end) - max(self.begin, other.begin)
        return self.share_until(self.end, max(0.0, both))


class Pipeline:
    """Tasks that queues connect. `is_phased`: some of them start only when others of them have ended.

    It begins when the first of them is ready, and ends when the last of them is over.
    """

    def __init__(self, task_loads: list[TaskLoad]) -> None:
        names = {load.name for load in task_loads}
        self.task_loads = task_loads
        self.is_phased = any(other in names for load in task_loads for other in load.plan.after)
        self.begin = min(load.begin for load in task_loads)
        self.end = max(load.end for load in task_loads)
        self.seconds = self.end - self.begin


def other_programs_share(record: RunRecord) -> float:
    """Return the share of the processors' time that other programs took, 0 to 1; 0 where it is unknown.

    Processes that start are taken to compute: what they and the fork server import is in nobody's account.
    """
    if record.idle is None:
        return 0.0
    here = [worker for worker in _workers_in_mode(record, "process") if not worker.node]
    ours = record.cpu + sum(worker.cpu + worker.spent.starting for worker in here)
    return max(0.0, 1 - record.idle - ours / (max(1, record.plan.machine.cores) * record.seconds))


def _workers_in_mode(record: RunRecord, mode: str) -> list[WorkerNow]:
    names = {plan.name for plan in record.plan.tasks if plan.mode == mode}
    return [worker for task in record.tasks if task.name in names for worker in task.workers]


def find_pipelines(record: RunRecord) -> list[Pipeline]:
    """Return the pipelines of a run, without tasks that never started."""
    summaries = {task.name: task for task in record.tasks if task.workers and task.active > 0}
    plans = [plan for plan in record.plan.tasks if plan.name in summaries]
    loads = {plan.name: TaskLoad(plan, summaries[plan.name], record) for plan in plans}
    owner: dict[str, str] = {}
    pairs = [
        (owner.setdefault(queue, plan.name), plan.name)
        for plan in plans
        for queue in (*plan.inputs, *plan.outputs, plan.dead)
        if queue
    ]
    return [Pipeline([loads[name] for name in names]) for names in connected_groups(loads, pairs)]


@dataclass(frozen=True, slots=True)
class ResourceShares:
    """The share of the time in which each thing could not have done more, in one pipeline of a run of `seconds`.

    `shortest_share`: as a share of the pipeline, when what goes on beside it ends; it cannot get shorter than that.
    `run_share` and `others_share`: what the run and what other programs take of the machine.
    """

    by_key: dict[ShareKey, float]
    pipeline: Pipeline
    seconds: float
    shortest_share: float
    cores: int
    run_share: float
    others_share: float

    def predict_gain(self, changed: dict[ShareKey, float]) -> tuple[float, ShareKey]:
        """Return how many times as fast the run would be with these shares changed, and its limit then."""
        after = self.by_key | changed
        then = max(after, key=after.__getitem__)
        idle = 1 - min(1.0, max(self.by_key.values()))
        span = self.pipeline.seconds
        lasts = min(1.0, max(idle + after[then], self.shortest_share))
        return self.seconds / (self.seconds - span + span * lasts), then


def find_bottleneck(record: RunRecord) -> Bottleneck | None:
    """Return what limits the run and what would help; None where nothing useful can be said."""
    found = find_pipelines(record)
    main = max(found, key=lambda each: each.seconds, default=None)
    if main is None or main.seconds < max(MIN_RUN_SECONDS, MIN_MAIN_SHARE * record.seconds) or main.is_phased:
        return None
    beside = [each for each in found if each is not main and each.begin < main.end]
    stop = max((each.end - main.begin for each in beside), default=0.0) / main.seconds
    if len(main.task_loads) == 1:
        return _lone_task(main, record, stop) if len(found) > 1 else None
    shares = _resource_shares(main, beside, record, stop)
    if (machine := _machine_bottleneck(shares)) is not None or stop > 1 / MIN_GAIN:
        return machine  # what goes on beside it takes as long: faster, it would not shorten the run
    if (network := _network_bottleneck(shares, record)) is not None:
        return network
    return _withdraw_vain_advice(_interpreter_bottleneck(shares) or _largest_bottleneck(shares), shares)


def _withdraw_vain_advice(found: Bottleneck | None, shares: ResourceShares) -> Bottleneck | None:
    """Promise nothing of more workers where they would need processors that other programs have."""
    busy = shares.run_share + shares.others_share
    if found is None or found.gain is None or shares.others_share <= NOTABLE_OTHERS_SHARE or busy < MIN_MACHINE_SHARE:
        return found
    load = next(load for load in shares.pipeline.task_loads if load.name == found.task)
    if load.computing_share(shares.pipeline.end) < NEEDS_PROCESSOR_SHARE:
        return found  # it waits: that takes no processor
    text = found.sentence.partition("; ")[0]
    others = f"other programs take {_format_percent(shares.others_share)} of the machine"
    return Bottleneck(f"{text}; {others}, which leaves more workers nothing", found.kind, found.task)


def _resource_shares(main: Pipeline, beside: Iterable[Pipeline], record: RunRecord, stop: float) -> ResourceShares:
    of: dict[ShareKey, float] = {}
    for load in main.task_loads:
        if load.plan.concurrency is None:
            of["task", load.name] = load.busy_share(main.end)
        else:
            of["task", load.name] = load.computing_share(main.end)  # its loop; waiting together is not work
            # Little's law: items in flight, in the mean, are rate × time per item.
            in_flight = load.share_until(main.end, load.item_seconds)
            of["concurrency", load.name] = in_flight / (load.mean_workers * load.plan.concurrency)
        if load.plan.rate and load.item_count >= MIN_RATE_ITEMS:
            of["rate", load.name] = load.share_until(main.end, load.item_count / load.plan.rate)
    window = max(main.end - max(load.begin for load in main.task_loads), 1e-3)
    all_loads = [(load, 1.0) for load in main.task_loads]
    all_loads += [(load, load.share_within(main)) for each in beside for load in each.task_loads]
    cores = max(1, record.plan.machine.cores)
    # What runner itself took of a core: the supervisor and the printer.
    own = max(0.0, record.cpu - sum(worker.cpu for worker in _workers_in_mode(record, "thread"))) / record.seconds
    computing = sum((load.cpu_seconds - load.far_cpu_seconds) * part for load, part in all_loads) / window
    ours, theirs = (computing + own) / cores, other_programs_share(record)
    of["machine", ""] = ours / (1 - min(theirs, FAIR_MACHINE_SHARE))
    threads = sum(load.cpu_seconds * part for load, part in all_loads if load.plan.mode == "thread") / window
    # Threads that take more than one core let the interpreter go while they compute.
    if own < threads and threads + own <= MAX_INTERPRETER_SHARE:
        of["interpreter", ""] = threads + own
    if record.nodes:
        of |= {("network", node.name): _full_share(node, main, record) for node in record.nodes}
        far = sum(load.far_cpu_seconds * part for load, part in all_loads) / window
        of["nodes", ""] = far / max(1, _far_cores(record))
    return ResourceShares(of, main, record.seconds, stop, cores, ours, theirs)


def _full_share(node: NodeSummary, main: Pipeline, record: RunRecord) -> float:
    """Return the share of a pipeline's time in which one direction of a machine's connection was full."""
    seconds = (record.seconds if node.left is None else node.left) - node.joined
    return max(node.sending, node.receiving) * min(1.0, max(0.0, seconds) / main.seconds)


def _far_cores(record: RunRecord) -> int:
    """Return the cores of the machines that have joined: those of a host count once, whatever agents it has."""
    return sum({node.host: node.cpus for node in record.nodes}.values())


def _lone_task(main: Pipeline, record: RunRecord, stop: float) -> Bottleneck | None:
    """Judge a task without queues that goes on when all else is over."""
    name = main.task_loads[0].name
    share = main.seconds / record.seconds
    if stop > 1 / MIN_GAIN or share < MIN_LONE_SHARE:
        return None
    text = f"{name} limits the run: it takes {_format_percent(share)} of the time, and all else is over before"
    return Bottleneck(text, "work", name)


def _machine_bottleneck(shares: ResourceShares) -> Bottleneck | None:
    if (far := shares.by_key.get(("nodes", ""), 0.0)) >= MIN_MACHINE_SHARE:
        load = max(shares.pipeline.task_loads, key=lambda each: each.far_cpu_seconds)
        text = f"the nodes limit the run: their cores are busy ({_format_percent(far)}), most with {load.name}"
        return Bottleneck(f"{text}; more nodes would give more, more workers nothing", "machine", load.name)
    share, busy = shares.by_key["machine", ""], shares.run_share + shares.others_share
    crowded = (
        shares.others_share > NOTABLE_OTHERS_SHARE and busy >= CROWDED_MACHINE_SHARE and share >= CROWDED_RUN_SHARE
    )
    if share < MIN_MACHINE_SHARE and not crowded:
        return None
    load = max(shares.pipeline.task_loads, key=lambda each: each.cpu_seconds)
    what = f"all {shares.cores} cores are" if shares.cores > 1 else "the one core is"
    text = f"the machine limits the run: {what} busy ({_format_percent(busy)})"
    if crowded:
        part, whose, why = shares.others_share, "other programs", "only compete with them"
    else:
        part, whose, why = load.cpu_seconds / shares.pipeline.seconds / shares.cores, load.name, "give nothing"
    text += f", {_format_percent(part / busy)} of that with {whose}; more workers would {why}"
    return Bottleneck(text, "machine", load.name)


def _interpreter_bottleneck(shares: ResourceShares) -> Bottleneck | None:
    """Judge threads that compute: one of their tasks could have processes."""
    share = shares.by_key.get(("interpreter", ""), 0.0)
    threads = [load for load in shares.pipeline.task_loads if load.plan.mode == "thread" and load.cpu_seconds]
    if share < MIN_INTERPRETER_SHARE or not threads:
        return None
    load = max(threads, key=lambda each: each.cpu_seconds)
    workers = load.worker_count if load.is_source else max(2, load.worker_count)
    computing = load.computing_share(shares.pipeline.end)
    changed = {
        ("task", load.name): computing * load.mean_workers / workers,
        ("interpreter", ""): share - computing * load.mean_workers,
    }
    # Their waiting for each other is in the executing time of all the threads: with it gone, what they compute stays.
    changed |= {("task", each.name): each.computing_share(shares.pipeline.end) for each in threads if each is not load}
    gain, _ = shares.predict_gain(changed)
    if gain < MIN_GAIN:
        return None
    how = f"{load.name} takes {_format_percent(load.cpu_seconds / sum(each.cpu_seconds for each in threads))} of it"
    more = "" if workers == load.worker_count else f" and {workers} workers"
    text = f"threads share one interpreter, which limits the run: {_format_percent(share)} busy, {how}"
    advice = f'mode = "process"{more} would give up to {gain:.1f}x'
    return Bottleneck(f"{text}; {advice}", "interpreter", load.name, workers, gain)


def _network_bottleneck(shares: ResourceShares, record: RunRecord) -> Bottleneck | None:
    """Judge the connections to other machines: the fullest of them, if nothing else has less to spare."""
    full = {key: share for key, share in shares.by_key.items() if key[0] == "network"}
    if not full:
        return None
    key = max(full, key=full.__getitem__)
    share = full[key]
    if share < MIN_NETWORK_SHARE or share < max(shares.by_key.values()):
        return None
    (node,) = (node for node in record.nodes if node.name == key[1])
    seconds = max(1e-3, (record.seconds if node.left is None else node.left) - node.joined)
    to_node = node.sending >= node.receiving
    rate = f"{(node.sent if to_node else node.received) / seconds / 1e6:.3g} MB/s"
    way = "to it" if to_node else "from it"
    full_time = _format_percent(share)
    text = f"the network to node `{node.name}` limits the run: {full_time} of the time full with what goes {way}"
    text += f", {rate}"
    others = sum(each * MIN_GAIN >= share for each in full.values()) - 1
    text += f", and so are {others} more" if others > 1 else ", and so is one more" if others else ""
    near = {each: part / 2 for each, part in full.items()}
    gain, then = shares.predict_gain(near)
    advice = f"half the bytes would give up to {gain:.1f}x" + _next_bottleneck(shares, then, key)
    return Bottleneck(f"{text}; {advice}", "network", gain=gain, node=node.name)


def _largest_bottleneck(shares: ResourceShares) -> Bottleneck | None:
    of_tasks = [key for key in shares.by_key if key[0] in {"task", "rate", "concurrency"}]
    of_tasks.sort(key=lambda key: -shares.by_key[key])
    most = shares.by_key[of_tasks[0]]
    kind, name = of_tasks[0]
    if most < (MIN_BUSY_SHARE if kind == "task" else MIN_REACHED_SHARE):
        return None
    near = [key for key in of_tasks if shares.by_key[key] * MIN_GAIN >= most]
    if len(near) > 1:
        return _balanced_tasks(shares, near)
    load = next(each for each in shares.pipeline.task_loads if each.name == name)
    return _busy_task(shares, load) if kind == "task" else _reached_bound(shares, load, kind)


def _balanced_tasks(shares: ResourceShares, near: list[ShareKey]) -> Bottleneck:
    """Judge two or more that are nearly as busy: more of one alone would give little."""
    told = ", ".join(f"{_name_share(key)} {_format_percent(shares.by_key[key])}" for key in near)
    text = f"balanced: {told} busy; more for one alone would give little"
    loads = [load for load in shares.pipeline.task_loads if ("task", load.name) in near and load.can_use_more]
    fewer = {("task", load.name): load.worker_count / load.suggested_workers for load in loads}
    gain, _ = shares.predict_gain({key: shares.by_key[key] * part for key, part in fewer.items()})
    if len(loads) < len(near) or gain < MIN_GAIN:
        return Bottleneck(text, "balanced", near[0][1])
    each = ", ".join(f"{load.suggested_workers} for {load.name}" for load in loads)
    return Bottleneck(f"{text}, {each} together about {gain:.1f}x", "balanced", near[0][1], None, gain)


def _busy_task(shares: ResourceShares, load: TaskLoad) -> Bottleneck | None:
    """Judge a task whose workers are busy: it needs more of them, or a faster source."""
    key = ("task", load.name)
    share = shares.by_key[key]
    begin = f"{load.name} limits the run: {_format_percent(share)} busy"
    if is_added_task(load.name):
        return Bottleneck(f"{begin}; that is the work of the program that runs this", "work", load.name)
    if load.is_source:
        return _busy_source(shares, load, begin)
    if not load.had_backlog:
        return None  # nothing ever waits for it: something else paces the run, a cycle perhaps
    workers, least = load.suggested_workers, load.plan.least_workers
    begin += f" in {load.mean_workers:.1f} of {least}..{load.worker_count} workers" if least else ""
    has_had_enough = least and load.mean_workers < FULL_RANGE_SHARE * load.worker_count  # as many as helped
    if not load.can_use_more or has_had_enough:
        return Bottleneck(begin, "work", load.name)
    gain, then = shares.predict_gain({key: share * load.worker_count / workers})
    if gain < MIN_GAIN:
        return Bottleneck(f"{begin}; more workers would give little, because of {_name_share(then)}", "work", load.name)
    advice = f'workers = "{least}..{workers}"' if least else f"{workers} workers"
    text = f"{begin}; {advice} would give about {gain:.1f}x{_next_bottleneck(shares, then, key)}"
    text += "" if least else f'; workers = "{load.worker_count}..{_suggested_most(shares, load)}" finds the number'
    return Bottleneck(text, "work", load.name, workers, gain)


def _suggested_most(shares: ResourceShares, load: TaskLoad) -> int:
    """Return the upper end of a range for a task: the cores, or more where its items mostly wait."""
    computes = load.computing_share(shares.pipeline.end) >= NEEDS_PROCESSOR_SHARE
    return max(load.suggested_workers, shares.cores if computes else RANGE_FACTOR * load.worker_count)


def _busy_source(shares: ResourceShares, load: TaskLoad, begin: str) -> Bottleneck:
    """Judge a source, to which another worker is no help: it would make all the items again."""
    saved = load.computing_share(shares.pipeline.end) * load.mean_workers / 2
    changed = {("task", load.name): shares.by_key["task", load.name] / 2}
    if shares.run_share > 0:
        changed["machine", ""] = shares.by_key["machine", ""] * (1 - saved / shares.cores / shares.run_share)
    if load.plan.mode == "thread" and ("interpreter", "") in shares.by_key:
        changed["interpreter", ""] = shares.by_key["interpreter", ""] - saved
    gain, _ = shares.predict_gain(changed)
    text = f"{begin} making items; twice as fast, it would give about {gain:.1f}x"
    return Bottleneck(f"{text}; more workers elsewhere would give nothing", "work", load.name, None, gain)


def _reached_bound(shares: ResourceShares, load: TaskLoad, kind: str) -> Bottleneck:
    """Judge a task that has as many items as its `rate` or its `concurrency` allows."""
    key = (kind, load.name)
    gain, then = shares.predict_gain({key: shares.by_key[key] / 2})
    if kind == "rate":
        busy = _format_percent(load.busy_share(shares.pipeline.end))
        text = f"its rate of {load.plan.rate:g}/s is reached, its workers are {busy} busy"
        advice = "twice the rate would give about"
    else:
        most = load.plan.concurrency or 0
        text = "as many items as it may have are in flight"
        advice = f"concurrency = {2 * most} would give up to"
    text = f"{load.name} limits the run: {text}; {advice} {gain:.1f}x"
    return Bottleneck(text + _next_bottleneck(shares, then, key), kind, load.name, None, gain)


def _next_bottleneck(shares: ResourceShares, then: ShareKey, now: ShareKey) -> str:
    """Name what would limit the run afterwards, when that is something else and near."""
    return "" if then == now or shares.by_key[then] < 0.5 else f" (then {_name_share(then)} would limit it)"


def _name_share(key: ShareKey) -> str:
    kind, name = key
    if kind == "task":
        return name
    shared = {"machine": "the machine's cores", "interpreter": "the threads' one interpreter"}
    shared |= {"network": f"the network to node `{name}`", "nodes": "the nodes' cores"}
    return shared.get(kind, f"{name}'s {kind}")


def _format_percent(share: float) -> str:
    return f"{min(1.0, share) * 100:.0f} %"
