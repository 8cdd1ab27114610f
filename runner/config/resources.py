"""The table `resources` of a task: what each of its workers needs of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.config import units
from runner.config import value_types as types
from runner.config.reader import InvalidValue, Key, KeyTable, ValueType, describe_value
from runner.model import Resources

if TYPE_CHECKING:
    from runner.config.reader import ValuePlace

#: A worker that needs more is a slip: the largest machines that can be had have some hundreds.
_MAX_CPUS, _MAX_GPUS = 4096, 256


def _convert_gpus(value: Any, at: ValuePlace) -> float:
    gpus = float(_GPU_NUMBER.convert(value, at))
    if gpus > 1 and gpus != int(gpus):
        wanted = "a share of one GPU, such as 0.25, or a whole number"
        raise InvalidValue("E105", f"must be {wanted}, not {describe_value(value)}")
    return gpus


_GPU_NUMBER = types.number(0, _MAX_GPUS)
RESOURCES = KeyTable(
    "resources",
    Key("cpus", types.number(0.01, _MAX_CPUS), "CPUs, or a share of one", "1"),
    Key("gpus", ValueType(_convert_gpus, _GPU_NUMBER.schema, "a number"), "GPUs, or a share of one", "0"),
    Key("memory", units.size(0), "memory; 0B: any", '"0B"'),
)
_TABLE = types.table_of(RESOURCES, Resources)
#: Left out, it stays so: a task that names no resources is not one that names the usual ones.
RESOURCES_TYPE = _TABLE._replace(expand=lambda value: _TABLE.expand(value) if value else value)
