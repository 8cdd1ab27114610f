"""What one machine has, and which workers have it: CPUs, shares of GPUs, memory. Pure: it is told all that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from runner.model import Resources

#: Everything is counted in whole parts of this size, as sums of fractions such as 0.1 are never quite right.
_PARTS = 10_000
#: Libraries that compute in threads of their own take as many as the machine has CPUs, in each worker, unless told.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"


class _Share(Struct, frozen=True):
    """What one worker has taken; `gpus` are (index of the device, parts of it)."""

    cpus: int
    memory: int
    gpus: tuple[tuple[int, int], ...]


class MachineShares:
    """A machine's resources and the workers, by slot, that have shares of them. `memory` 0: not known, never short.

    `gpus` are the devices as the machine's programs name them.

    >>> from runner.model import Resources
    >>> machine = MachineShares(4, ("0", "1"), 16_000_000_000)
    >>> machine.take(1, Resources(1, 0.5)), machine.take(2, Resources(2, 0.5)), machine.take(3, Resources(1, 1))
    (True, True, True)
    >>> machine.gpu_names(1), machine.gpu_names(2), machine.gpu_names(3), machine.take(4, Resources(1))
    ('0', '0', '1', False)
    """

    def __init__(self, cpus: float, gpus: Sequence[str] = (), memory: int = 0) -> None:
        self.cpus, self.memory = _parts(cpus), memory
        self.gpus = tuple(gpus)
        self.free_cpus = self.cpus
        self._free_memory = memory
        self._free_gpus = [_PARTS] * len(self.gpus)
        self._shares: dict[int, _Share] = {}

    @property
    def is_empty(self) -> bool:
        """Return True if no worker has a share."""
        return not self._shares

    def could_fit(self, wanted: Resources) -> bool:
        """Return True if a worker would have room here, were the machine empty."""
        return (
            _parts(wanted.cpus) <= self.cpus
            and (not self.memory or wanted.memory <= self.memory)
            and wanted.gpus <= len(self.gpus)
        )

    def capacity(self, wanted: Resources) -> int:
        """Return how many workers that need this would have room here, were the machine empty.

        >>> from runner.model import Resources
        >>> MachineShares(4, ("0", "1")).capacity(Resources(0.5, 0.5)), MachineShares(4).capacity(Resources(8))
        (4, 0)
        """
        most = [self.cpus // max(1, _parts(wanted.cpus))]
        if self.memory and wanted.memory:
            most.append(self.memory // wanted.memory)
        if gpus := _parts(wanted.gpus):
            most.append(len(self.gpus) * (_PARTS // gpus) if gpus < _PARTS else len(self.gpus) // (gpus // _PARTS))
        return min(most)

    def take(self, slot: int, wanted: Resources, *, crowded: bool = False) -> bool:
        """Give a worker its share if there is room. `crowded`: CPUs may be short, as they only make it slower."""
        gpus = self._pick_gpus(_parts(wanted.gpus))
        cpus = _parts(wanted.cpus)
        short_of_memory = self.memory and wanted.memory > self._free_memory
        if gpus is None or short_of_memory or (cpus > self.free_cpus and not crowded):
            return False
        self._shares[slot] = _Share(cpus, wanted.memory, gpus)
        self._change(self._shares[slot], -1)
        return True

    def release(self, slot: int) -> None:
        """Take a worker's share back; a second time does nothing."""
        share = self._shares.pop(slot, None)
        if share is not None:
            self._change(share, 1)

    def _change(self, share: _Share, sign: int) -> None:
        self.free_cpus += sign * share.cpus
        self._free_memory += sign * share.memory
        for device, parts in share.gpus:
            self._free_gpus[device] += sign * parts

    def _pick_gpus(self, parts: int) -> tuple[tuple[int, int], ...] | None:
        """Return whole free devices, or a part of the fullest that has room for it; None: there are none."""
        if parts == 0:
            return ()
        if parts < _PARTS:
            having_room = [device for device, free in enumerate(self._free_gpus) if free >= parts]
            if not having_room:
                return None
            return ((min(having_room, key=lambda device: self._free_gpus[device]), parts),)
        whole = [device for device, free in enumerate(self._free_gpus) if free == _PARTS][: parts // _PARTS]
        return tuple((device, _PARTS) for device in whole) if len(whole) == parts // _PARTS else None

    def gpu_names(self, slot: int) -> str:
        """Return a worker's devices, as `GPU_VARIABLE` wants them."""
        return ",".join(self.gpus[device] for device, _ in self._shares[slot].gpus)

    def worker_env(self, slot: int, wanted: Resources, env: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a worker that has a share: its GPUs, and its threads unless its `env` says so.

        >>> from runner.model import Resources
        >>> machine = MachineShares(4, ("0", "1"))
        >>> machine.take(7, Resources(2, 2))
        True
        >>> machine.worker_env(7, Resources(2, 2), {"OMP_NUM_THREADS": "1"})["CUDA_VISIBLE_DEVICES"]
        '0,1'
        """
        threads = str(max(1, int(wanted.cpus)))
        made = dict.fromkeys(_THREAD_VARIABLES, threads)
        if self._shares[slot].gpus:
            made[GPU_VARIABLE] = self.gpu_names(slot)
        return made | dict(env)


def _parts(amount: float) -> int:
    return round(amount * _PARTS)


def visible_gpus(environment: Mapping[str, str], devices: Sequence[str]) -> tuple[str, ...]:
    """Return the GPUs that programs here may see: those that the environment names, else all devices in order.

    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}, ["nvidia0"]), visible_gpus({}, ["nvidia0", "nvidia1"])
    (('2', '3'), ('0', '1'))
    >>> visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"]), visible_gpus({}, ["nvidiactl"])
    ((), ())
    """
    if (named := environment.get(GPU_VARIABLE)) is not None:
        return tuple(word.strip() for word in named.split(",") if word.strip() and word.strip() != "-1")
    count = sum(name.removeprefix("nvidia").isdecimal() for name in devices if name.startswith("nvidia"))
    return tuple(map(str, range(count)))
