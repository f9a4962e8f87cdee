"""What a maintenance run found due, did, and why. Plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

__all__ = ["MaintenanceReport", "MaintenanceStep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceStep:
    """One kind of upkeep.

    Attributes
    ----------
    name
        ``compact``, ``cluster``, ``optimize-indexes``, ``expire`` or ``collect-garbage``.
    due
        Whether it had to be done.
    why
        What was found, in words.
    result
        The report of what was done; None where nothing was.
    """

    name: str
    due: bool
    why: str
    result: Any = None


@dataclass(slots=True, kw_only=True)
class MaintenanceReport:
    """What a maintenance run did, or would do.

    Attributes
    ----------
    dry_run
        Whether nothing was touched.
    steps
        Every kind of upkeep, in the order it was looked at.
    """

    dry_run: bool
    steps: list[MaintenanceStep] = field(default_factory=list)

    @property
    def due(self) -> list[str]:
        """Names of the steps that were due."""
        return [step.name for step in self.steps if step.due]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "dry_run": self.dry_run,
            "steps": [
                {"name": one.name, "due": one.due, "why": one.why, "result": _plain(one.result)}
                for one in self.steps
            ],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
