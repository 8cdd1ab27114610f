"""`python -m bench.flame FILE.svg [WORKLOAD]`: where the time goes, in runner and in its workers, as a flame graph.

The workload is `small`, with a called sink, unless another is named.

py-spy samples every process of one run; the samples of what does the same are put together, and drawn widest first.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.workloads import find

if TYPE_CHECKING:
    from bench.kinds import Workload

#: What a stack is about: the first of these files that it goes through.
ROLES = {
    "worker/produce.py": "the source's process",
    "worker/call.py": "the other workers",
    "supervisor/loop.py": "the supervisor",
}
_FRAME = re.compile(r"(?P<name>.+?) \((?P<file>[^)]+?)(:\d+)?\)$")

Tree = dict[str, Any]


def samples(workload: Workload) -> list[tuple[list[str], int]]:
    """Stacks of a run twice as long as in the tables, the outermost frame first, and how often each was seen."""
    with tempfile.TemporaryDirectory() as folder:
        file, raw = Path(folder, "tasks.toml"), Path(folder, "raw")
        text = workload.row("runner").toml
        assert text is not None
        file.write_text(f'[run]\nstate = "{folder}/state"\n{text(2 * workload.items)}')
        command = ["py-spy", "record", "-r", "250", "-f", "raw", "--subprocesses", "-o", str(raw), "--"]
        run = [sys.executable, "-m", "runner", "run", str(file), "-q"]
        subprocess.run([*command, *run], check=True, env=_environment(folder), stdout=subprocess.DEVNULL)
        lines = [line.rsplit(" ", 1) for line in raw.read_text().splitlines()]
    return [(stack.split(";"), int(seen)) for stack, seen in lines]


def _environment(folder: str) -> dict[str, str]:
    import os

    from bench.stamps import STAMPS

    return {**os.environ, STAMPS: str(Path(folder, "stamps")), "PYTHONPATH": str(Path(__file__).parent.parent)}


def tree(stacks: list[tuple[list[str], int]]) -> Tree:
    """The stacks as a tree: name → (how often, what it called)."""
    root: Tree = {}
    for stack, seen in stacks:
        frames = [found for frame in stack if (found := _FRAME.match(frame))]
        files = [frame["file"] for frame in frames]
        first = next((at for at, each in enumerate(files) if any(file in each for file in ROLES)), None)
        if first is None:
            continue  # it starts, or ends
        role = next(role for file, role in ROLES.items() if any(file in each for each in files))
        names = [each["name"] for each in frames[first:]]
        place = root
        for name in [role, *names]:
            entry = place.setdefault(name, [0, {}])
            entry[0] += seen
            place = entry[1]
    return root


def draw(file: Path, root: Tree) -> None:
    """One lane for each role; a frame is as wide as its share of the samples."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "runner"
    from matplotlib import pyplot as plt

    roles = sorted(root.items(), key=lambda item: -item[1][0])
    heights = [2 + _depth(inside) for _, (_, inside) in roles]
    figure, axes = plt.subplots(
        len(roles), 1, figsize=(11, sum(heights) / 4), height_ratios=heights, layout="constrained", squeeze=False
    )
    whole = sum(seen for _, (seen, _) in roles)
    for axis, (role, (seen, inside)) in zip(axes.flat, roles, strict=True):
        depth = _lane(axis, inside, 0, 0, seen)
        axis.set(xlim=(0, seen), ylim=(0, max(depth, 1)), xticks=[], yticks=[])
        axis.set_title(f"{role}: {seen / whole:.0%} of the time", loc="left", fontsize=9)
        axis.spines[:].set_visible(False)
    figure.savefig(file, metadata={"Date": None})


def _depth(frames: Tree) -> int:
    return 1 + max((_depth(inside) for _, inside in frames.values()), default=0)


def _lane(axis: Any, frames: Tree, left: float, depth: int, whole: int) -> int:
    deepest = depth
    shade = ("#f59f00", "#f76707", "#fab005")[depth % 3]
    for name, (seen, inside) in sorted(frames.items(), key=lambda item: -item[1][0]):
        if seen >= whole / 200:
            axis.barh(depth + 0.5, seen, 0.94, left, color=shade, edgecolor="white", linewidth=0.4)
            if seen > whole / 12:
                axis.text(left + whole / 400, depth + 0.5, name, va="center", fontsize=6.5, clip_on=True)
            deepest = max(deepest, _lane(axis, inside, left, depth + 1, whole))
        left += seen
    return max(deepest, depth + bool(frames))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), tree(samples(find(*sys.argv[2:] or ["small"]))))
