"""Parts of hosts that are kept for projects, as columns: what a project does not use of its part, others cannot take."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from controlplane.domain.hosts import HostReservation

IntColumn = npt.NDArray[np.int64]
_Amounts = tuple[int, int]  # thousandths of a core, bytes


class Reservations:
    """What is reserved, what its owners use of it, and so what is kept from others.

    Invariant: `_kept` has, for each host, the sums over projects of what is reserved and not used.
    """

    def __init__(self, size: int) -> None:
        self._reserved: dict[int, dict[str, _Amounts]] = {}  # row -> project -> amounts
        self._used: dict[tuple[int, str], _Amounts] = {}  # (row, project), where something is placed
        self._kept: tuple[IntColumn, IntColumn] = (np.zeros(size, np.int64), np.zeros(size, np.int64))

    def set_row(self, row: int, reservations: Iterable[HostReservation]) -> None:
        """What is reserved of a host, from now on."""
        found = {r.project.removeprefix("projects/"): (r.cpu_millis, r.memory_bytes) for r in reservations}
        if found:
            self._reserved[row] = found
        else:
            self._reserved.pop(row, None)
        self._sum(row)

    def use(self, row: int, project: str, cpu_millis: int, memory_bytes: int) -> None:
        """A project uses so much more of a host; negative: less."""
        if not cpu_millis and not memory_bytes:
            return
        cpu, memory = self._used.get((row, project), (0, 0))
        cpu, memory = cpu + cpu_millis, memory + memory_bytes
        if cpu or memory:
            self._used[row, project] = (cpu, memory)
        else:
            self._used.pop((row, project), None)
        if row in self._reserved:
            self._sum(row)

    def kept_from(self, project: str) -> tuple[IntColumn, IntColumn]:
        """Of each host what is kept for other projects: (thousandths of a core, bytes)."""
        cpu, memory = self._kept
        own = [(row, self._unused(row, project)) for row, parts in self._reserved.items() if project in parts]
        if own:
            cpu, memory = cpu.copy(), memory.copy()
            for row, (own_cpu, own_memory) in own:
                cpu[row] -= own_cpu
                memory[row] -= own_memory
        return cpu, memory

    def kept_from_on(self, row: int, project: str, less: Iterable[tuple[str, int, int]]) -> _Amounts:
        """What would be kept for others on one host, if (project, cpu, memory) of `less` were gone."""
        gone: dict[str, _Amounts] = {}
        for name, cpu, memory in less:
            before = gone.get(name, (0, 0))
            gone[name] = (before[0] + cpu, before[1] + memory)
        others = [name for name in self._reserved.get(row, {}) if name != project]
        unused = [self._unused(row, name, gone.get(name, (0, 0))) for name in others]
        return sum(amounts[0] for amounts in unused), sum(amounts[1] for amounts in unused)

    def _unused(self, row: int, project: str, less: _Amounts = (0, 0)) -> _Amounts:
        reserved = self._reserved[row][project]
        used = self._used.get((row, project), (0, 0))
        return max(0, reserved[0] - used[0] + less[0]), max(0, reserved[1] - used[1] + less[1])

    def _sum(self, row: int) -> None:
        amounts = [self._unused(row, project) for project in self._reserved.get(row, {})]
        self._kept[0][row] = sum(cpu for cpu, _ in amounts)
        self._kept[1][row] = sum(memory for _, memory in amounts)
