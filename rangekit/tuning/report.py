"""What a search did, to be read and plotted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rangekit.lower.schedule import Schedule


@dataclass(frozen=True)
class Nest:
    """One launch: seconds of a call by ``default`` and at ``best``, and the schedule that gives them.

    ``tried`` counts candidates, ``rejected`` those that were out, by reason. ``history`` has the best seconds of a call
    against the seconds from the search's start. ``note`` says why there was no search, or what was unusual.
    """

    name: str
    schedule: Schedule
    default: float
    best: float
    tried: int = 0
    rejected: Mapping[str, int] = ()  # type: ignore[assignment]
    history: tuple[tuple[float, float], ...] = ()
    note: str = ""

    def __str__(self) -> str:
        gain = f"{_time(self.default)} -> {_time(self.best)} ({self.default / self.best:.2f}x)"
        if not self.tried or self.best == self.default:
            gain = _time(self.default) + (", none is faster" if self.tried else "") if self.default else "not measured"
        said = [f"{self.name}: {gain}"]
        if self.tried:
            out = ", ".join(f"{n} {reason}" for reason, n in sorted(self.rejected.items(), key=lambda r: (-r[1], r[0])))
            said.append(f"{self.tried} tried" + (f" ({out})" if out else ""))
        return "; ".join([*said, self.note] if self.note else said)


@dataclass(frozen=True)
class Report:
    """A whole program's search. ``ended`` is "time", "exhausted", "interrupted" or "kept" (found by an earlier one)."""

    name: str
    nests: tuple[Nest, ...]
    seconds: float
    ended: str

    @property
    def default(self) -> float:
        """Seconds of all launches without tuning."""
        return sum(n.default for n in self.nests)

    @property
    def best(self) -> float:
        """Seconds of all launches with the schedules found."""
        return sum(n.best for n in self.nests)

    def __str__(self) -> str:
        why = {"time": "time is up", "exhausted": "nothing is left to try", "interrupted": "interrupted",
               "kept": "found by an earlier search"}[self.ended]  # fmt: skip
        lines = [f"tuned {self.name} in {self.seconds:.1f} s: {why}"]
        for nest in self.nests:
            lines.append(f"  {nest}")
            if nest.best < nest.default:
                lines += [f"    {step!r}" for step in nest.schedule]
        return "\n".join(lines)


def _time(seconds: float) -> str:
    unit, name = next(((u, n) for u, n in ((1.0, "s"), (1e-3, "ms")) if seconds >= u), (1e-6, "µs"))
    return f"{seconds / unit:.3g} {name}"
