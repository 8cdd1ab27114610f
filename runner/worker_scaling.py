"""The number of workers of a task with a range (`workers = "2..16"`): one decision in an interval.

    no worker was free, items waited, there was room ──▶ one more, or a quarter more; while that pays, twice as many
    the same, and items do nothing but wait          ──▶ as many as what is queued keeps at work for an interval
    it does not pay: items only take longer          ──▶ as before; not asked again for a while
    for 10 s a quarter of them waited for items      ──▶ fewer, by the part that waited all the time

Pure: the caller says what was seen, and does what is decided. There is one number, and it moves once in an interval, so
a task cannot be told to grow and to shrink at once. Whether a step pays is judged by what an item costs, not by items a
second: as long as no worker is free, throughput is workers divided by cost, and the cost needs fewer items to be known.
"""

from __future__ import annotations

from math import inf, sqrt

from msgspec import Struct, field

#: Seconds from one decision to the next, at least. A worker is ready in some milliseconds, and a second is enough for
#: shares of processors, which the kernel counts in hundredths of a second.
INTERVAL = 1.0
#: Before the first decision, seconds from one look to the next: a burst of some seconds has no second to lose.
EARLY_INTERVAL = 0.25
#: An early decision has seen at least so many items of each worker.
EARLY_ITEMS = 2
#: A step to what the queue asks for has at most so many times the workers.
MAX_JUMP = 8
#: What a saturated worker waits for items, as a share of its time: the way of a reply and of the next grant.
MAX_FREE_SHARE = 0.1
#: What it waits for room, or for its turn, where neither holds it up.
MAX_HINDERED_SHARE = 0.05
#: From this share of its time on, an item computes; below the second one it does nothing but wait. In between, it may
#: only seem to wait because other programs have the processors: then none is idle.
COMPUTING_SHARE, SLEEPING_SHARE = 0.5, 0.1
#: Samples in a row in which at least this share of the workers waited for items: then there are too many.
QUIET_SAMPLES, MIN_FREE_SHARE = 10, 0.25
#: A step that did not pay is not asked for again until an item costs so much more or less, or for so many seconds.
CHANGED_COST, REFUSAL_SECONDS = 0.5, 60.0
#: Samples of which the cost of an item is known, if there were enough items in them.
_COST_SAMPLES = 5
#: Samples without any item after which items are known to be long, and free processors decide alone.
_LONG_SAMPLES = 3
#: The error of a mean cost, as a part of it, that comes from the width of a class of the histogram.
_CLASS_ERROR = 0.03


class ItemTimes(Struct, frozen=True):
    """Times of items: how many, the sum of their seconds, and the sum of the squares of these.

    `computing` is the processor time, and `working` the time of workers that were at these items, in seconds.

    >>> times = ItemTimes(2, 6.0, 20.0, 1.5, 6.0)
    >>> times.mean, times.computing_share, times.plus(times).count
    (3.0, 0.25, 4)
    """

    count: int = 0
    seconds: float = 0.0
    squares: float = 0.0
    computing: float = 0.0
    working: float = 0.0

    @property
    def mean(self) -> float:
        """Return what an item costs, in seconds."""
        return self.seconds / self.count if self.count else 0.0

    @property
    def computing_share(self) -> float:
        """Return the share of a processor that a worker takes while it executes."""
        return min(1.0, self.computing / self.working) if self.working else 1.0

    @property
    def relative_variance(self) -> float:
        """Return the variance of the mean, as a part of its square."""
        if not self.count or not self.seconds:
            return inf
        spread = max(0.0, self.squares / self.count / self.mean / self.mean - 1)  # the square of a tiny mean is 0
        return spread / self.count + _CLASS_ERROR**2

    def plus(self, other: ItemTimes) -> ItemTimes:
        """Return both together."""
        sums = (getattr(self, name) + getattr(other, name) for name in self.__struct_fields__[1:])
        return ItemTimes(self.count + other.count, *sums)


class LoadSample(Struct, frozen=True):
    """What was seen of a task since the sample before.

    `free`, `hindered`: shares of its ready workers' time in which they waited for items; for room, or for their turn.
    `has_backlog`: items wait that another worker could take, and their results have room; `backlog` is how many.
    `unready`: workers that are not there yet. `is_whole`: those that are there were ready all the time. `times`: those
    of items that have ended. `idle_cores`: processors that nothing needed; inf: of other machines, which say it by
    having no place.
    """

    at: float
    free: float = 0.0
    hindered: float = 0.0
    has_backlog: bool = True
    unready: int = 0
    is_whole: bool = True
    times: ItemTimes = ItemTimes()
    idle_cores: float = 0.0
    backlog: int = 0

    @property
    def is_saturated(self) -> bool:
        """Return True if no worker was free, and another one would have had something to do."""
        return self.has_backlog and self.free <= MAX_FREE_SHARE and self.hindered <= MAX_HINDERED_SHARE


class ScalingDecision(Struct, frozen=True):
    """Another number of workers, and why."""

    number: int
    before: int
    why: str


class _Step(Struct, frozen=True):
    """A step up that has to pay: the number before it, and what an item cost then. A jump: what the queue asked for."""

    before: int
    times: ItemTimes
    is_jump: bool = False


class WorkerScaler(Struct):
    """The number of workers of one task, from `least` to `most`.

    >>> scaler = WorkerScaler(1, 8)
    >>> asleep = ItemTimes(100, 10.0, 1.0, computing=0.0, working=10.0)
    >>> [scaler.decide(LoadSample(at, times=asleep)).number for at in (1.0, 2.0, 3.0)]
    [2, 4, 8]
    """

    least: int
    most: int
    number: int = 0
    #: What items cost at the present number, by sample.
    _samples: list[ItemTimes] = field(default_factory=list)
    _step: _Step | None = None
    #: The size of the last step up of a row of them; 0: there was none.
    _last_size: int = 0
    _free_shares: list[float] = field(default_factory=list)
    #: What an item cost where a further worker was in vain (0: not known), and until when none is asked for.
    _refused_cost: float = 0.0
    _refused_until: float = -inf
    #: Until when steps are small, because one to what the queue asks for did not pay.
    _small_until: float = -inf

    def __post_init__(self) -> None:
        self.number = self.number or self.least

    def decide(self, load: LoadSample) -> ScalingDecision | None:
        """Return another number of workers; None: it stays."""
        return self._fewer(load) or self._more(load)

    def decide_early(self, load: LoadSample) -> ScalingDecision | None:
        """Return more workers for items that only wait, after less than an interval; None: it is too early."""
        times = load.times
        is_known = times.count >= EARLY_ITEMS * self.number and times.computing_share < SLEEPING_SHARE
        if load.unready or not load.is_saturated or not is_known:
            return None
        return self._step_up(load, times, is_long=False)

    def lose(self, lost: int, at: float, why: str) -> ScalingDecision | None:
        """Do without workers that could not be started, and ask for none for a while."""
        self._refused_cost, self._refused_until = 0.0, at + REFUSAL_SECONDS
        return self._change(max(self.least, self.number - lost), why)

    def _change(self, number: int, why: str) -> ScalingDecision | None:
        if number == self.number:
            return None
        decision = ScalingDecision(number, self.number, why)
        if number < self.number:
            self._step, self._last_size = None, 0
        self.number = number
        self._samples, self._free_shares = [], []
        return decision

    def _fewer(self, load: LoadSample) -> ScalingDecision | None:
        shares = self._free_shares
        if load.free < MIN_FREE_SHARE:
            shares.clear()
            return None
        shares.append(load.free)
        if len(shares) < QUIET_SAMPLES:
            return None
        del shares[:-QUIET_SAMPLES]
        spare = max(1, int(self.number * min(shares)))
        seconds = QUIET_SAMPLES * INTERVAL
        return self._change(max(self.least, self.number - spare), f"{spare} waited for items for {seconds:g} s")

    def _more(self, load: LoadSample) -> ScalingDecision | None:
        if load.unready:  # what they bring is not to be seen yet
            return None
        if not load.is_saturated:  # they are enough: a step that led to this was neither good nor bad
            self._step, self._last_size = None, 0
            self._samples.clear()
            return None
        self._samples.append(load.times)
        times = self._recent_times()
        is_long = not times.count and len(self._samples) >= _LONG_SAMPLES
        return self._step_up(load, times, is_long=is_long) if is_long or times.count >= self.number else None

    def _step_up(self, load: LoadSample, times: ItemTimes, *, is_long: bool) -> ScalingDecision | None:
        """Have more workers, unless the last step has not paid: then take that back."""
        share = 1.0 if is_long else times.computing_share
        if share >= COMPUTING_SHARE and not load.is_whole:  # they may need now what they left idle before
            return None
        step, self._step = self._step, None
        if step is not None and not is_long and not _has_paid(step, self.number, times):
            if step.is_jump:  # fewer may pay
                self._small_until = load.at + REFUSAL_SECONDS
            else:
                self._refused_cost, self._refused_until = step.times.mean, load.at + REFUSAL_SECONDS
            slower = times.mean / step.times.mean
            return self._change(step.before, f"with {self.number}, an item takes {slower:.1f} times as long")
        if self._is_refused(load.at, times):
            return None
        more = self._step_size(load.idle_cores, share, is_long=is_long)
        asked = 0 if is_long or share >= SLEEPING_SHARE else self._find_asked_number(load, times)
        is_jump = asked > self.number + more
        more = asked - self.number if is_jump else more
        if not more:
            self._last_size = 0
            return None
        self._last_size, self._step = more, _Step(self.number, times, is_jump)
        return self._change(self.number + more, "no worker was free, and items waited")

    def _find_asked_number(self, load: LoadSample, times: ItemTimes) -> int:
        """Return how many workers what is queued keeps at work for an interval, as far as a step may go; or 0."""
        if load.at < self._small_until:
            return 0
        asked = round(load.backlog * times.working / times.count / INTERVAL)
        return min(asked, MAX_JUMP * self.number, self.most)

    def _recent_times(self) -> ItemTimes:
        """Return the times of the last samples, of as many of them as it takes to have an item of each worker."""
        found = ItemTimes()
        for at, each in enumerate(reversed(self._samples)):
            if at >= _COST_SAMPLES and found.count >= self.number:
                del self._samples[: len(self._samples) - at]
                break
            found = found.plus(each)
        return found

    def _is_refused(self, at: float, times: ItemTimes) -> bool:
        if at >= self._refused_until:
            return False
        cost = self._refused_cost
        return not cost or not times.count or abs(times.mean / cost - 1) < CHANGED_COST

    def _step_size(self, idle_cores: float, computing_share: float, *, is_long: bool) -> int:
        """Return how many more: one, or a quarter where one would hardly be seen, then twice as many each time.

        Those that need a processor get no more than there are idle ones.
        """
        first, room = max(1, self.number // 4), inf
        wanted = first if is_long else max(first, 2 * self._last_size)
        if idle_cores != inf and computing_share >= SLEEPING_SHARE:
            room = int(idle_cores / computing_share + 0.5)
        return int(min(wanted, self.most - self.number, room))


def _has_paid(step: _Step, number: int, times: ItemTimes) -> bool:
    """Return True if throughput has risen by half of what so many more workers should bring, as far as is known.

    With all of them busy throughput is number / cost, so the cost may have risen by number / (mean of both numbers).

    >>> before = _Step(2, ItemTimes(100, 10.0, 1.0))
    >>> [_has_paid(before, 4, ItemTimes(100, 100 * cost, 100 * cost**2)) for cost in (0.1, 0.13, 0.15, 0.2)]
    [True, True, False, False]
    """
    if not step.times.mean:
        return True  # before it no item had ended, or none took time
    slower = times.mean / step.times.mean
    error = slower * sqrt(times.relative_variance + step.times.relative_variance)
    return slower - error <= number / ((number + step.before) / 2)
