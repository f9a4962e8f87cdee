"""A backfill as a job of many workers: its plan, its parts, and the record each finished fragment leaves behind.

Everything is plain JSON behind a checksum, stored below ``_lake/jobs/<job>/``; no version names these objects, so
nothing of a job is visible before its commit (spec/evolution.md, EVO-8 and EVO-9). No values are computed here.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from pyroaring import BitMap64

from lake_format.checksum import crc32
from lake_format.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidInputError,
    LakeError,
    NotFoundError,
)
from lake_format.model import ColumnGroup
from lake_format.paths import JOBS, job_plan_path, job_record_path
from lake_format.row_edits import FragmentRewrite, TouchedRows
from lake_format.statistics import ColumnStatistics
from lake_format.store.base import Store
from lake_format.store.paths import check_path

__all__ = ["BackfillPart", "BackfillPlan", "BackfillResult", "FragmentRecord", "JobRecords", "check_job_name"]

_HEAD = struct.Struct("<8sI")  # magic, CRC-32 of the rest
_MAGIC = b"LAKEJOB0"
_AT_ONCE = 32
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


def check_job_name(name: object) -> str:
    """A job's name as part of a path; InvalidInputError for anything else."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise InvalidInputError(
            f"{name!r} is no name of a job", fix="use up to 100 letters, digits, dots, dashes and underscores"
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPart:
    """The fragments that one worker fills; send it as JSON."""

    job: str
    number: int
    fragments: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"job": self.job, "number": self.number, "fragments": list(self.fragments)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        return cls(job=check_job_name(data["job"]), number=int(data["number"]), fragments=_numbers(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillPlan:
    """What a job is to do.

    Attributes
    ----------
    job
        Its name; a job of the same name is the same job, resumed.
    version
        The version whose rows are filled.
    field_id, column
        The column.
    values
        What is filled in, as text for people; ``sql`` is the expression itself where it is SQL, else None: then
        whoever runs or commits the job hands the values in.
    where, inputs, on
        As for a backfill in one go.
    reads
        Ids of the columns that decide which values are written.
    fragments
        The fragments to fill.
    parts
        How many workers the fragments are dealt to.
    """

    job: str
    table_id: str
    version: int
    field_id: int
    column: str
    values: str
    sql: str | None
    where: str | None
    inputs: tuple[str, ...] | None
    on: str | None
    reads: tuple[int, ...]
    fragments: tuple[int, ...]
    part_count: int

    @property
    def parts(self) -> tuple[BackfillPart, ...]:
        """The work, dealt out: neighbouring fragments together."""
        count = max(1, min(self.part_count, len(self.fragments)))
        size, more = divmod(len(self.fragments), count)
        parts, start = [], 0
        for number in range(count):
            stop = start + size + (number < more)
            parts.append(BackfillPart(job=self.job, number=number, fragments=self.fragments[start:stop]))
            start = stop
        return tuple(parts)

    def same_work(self, other: BackfillPlan) -> bool:
        """Whether two plans ask for the same, on whatever version and in whatever parts."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("table_id", "field_id", "values", "sql", "where", "inputs", "on")
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave; CorruptionError for anything else."""
        try:
            inputs = data["inputs"]
            return cls(
                job=check_job_name(data["job"]),
                table_id=_text(data["table_id"]),
                version=int(data["version"]),
                field_id=int(data["field_id"]),
                column=_text(data["column"]),
                values=_text(data["values"]),
                sql=_optional(data["sql"]),
                where=_optional(data["where"]),
                inputs=None if inputs is None else tuple(_text(name) for name in inputs),
                on=_optional(data["on"]),
                reads=tuple(int(one) for one in data["reads"]),
                fragments=_numbers(data),
                part_count=int(data["part_count"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptionError(f"the plan of a backfill is malformed: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillResult:
    """What a worker did; send it back as JSON. The files are recorded in the table's store already."""

    job: str
    number: int
    fragments: tuple[int, ...]
    rows: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "fragments": list(self.fragments)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave."""
        return cls(
            job=check_job_name(data["job"]),
            number=int(data["number"]),
            fragments=_numbers(data),
            rows=int(data["rows"]),
            bytes=int(data["bytes"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentRecord:
    """What was written for one fragment; ``rewrite`` is None where no row of it gets a value."""

    fragment_id: int
    rewrite: FragmentRewrite | None
    features: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "fragment_id": self.fragment_id,
            "features": sorted(self.features),
            "rewrite": None if self.rewrite is None else _rewrite_to_json(self.rewrite),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave; CorruptionError for anything else."""
        try:
            number, raw = int(data["fragment_id"]), data["rewrite"]
            return cls(
                fragment_id=number,
                rewrite=None if raw is None else _rewrite_from_json(number, raw),
                features=frozenset(_text(name) for name in data["features"]),
            )
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise CorruptionError(f"the record of a filled fragment is malformed: {error!r}") from error


class JobRecords:
    """A job's objects in the table's store."""

    def __init__(self, store: Store, job: str) -> None:
        self._store = store
        self._job = check_job_name(job)

    def start(self, plan: BackfillPlan) -> BackfillPlan:
        """Write the plan; where the job was started before, the plan it was started with."""
        try:
            self._store.create(job_plan_path(self._job), _seal(plan.to_json()))
        except AlreadyExistsError:
            found = self.plan()
            return plan if found is None else found
        return plan

    def plan(self) -> BackfillPlan | None:
        """The plan, or None where there is no such job."""
        data = self._read(job_plan_path(self._job))
        return None if data is None else BackfillPlan.from_json(data)

    def record(self, done: FragmentRecord) -> FragmentRecord:
        """Make a fragment done; where another worker was faster, what that one wrote."""
        try:
            self._store.create(job_record_path(self._job, done.fragment_id), _seal(done.to_json()))
        except AlreadyExistsError:
            found = self.done(done.fragment_id)
            return done if found is None else found
        return done

    def done(self, fragment_id: int) -> FragmentRecord | None:
        """What was written for a fragment; None where that is not done, or its file is gone."""
        data = self._read(job_record_path(self._job, fragment_id))
        if data is None:
            return None
        found = FragmentRecord.from_json(data)
        if found.fragment_id != fragment_id:
            raise CorruptionError(f"the record of fragment {fragment_id} is one of {found.fragment_id}")
        for group in found.rewrite.groups if found.rewrite else ():
            if not self._there(group):
                self._store.delete(job_record_path(self._job, fragment_id))
                return None
        return found

    def all_done(self, fragment_ids: Sequence[int]) -> list[FragmentRecord | None]:
        """What was written for each of these fragments; requests run side by side."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self.done, fragment_ids))

    def _there(self, group: ColumnGroup) -> bool:
        try:
            return self._store.size(group.path) == group.size
        except NotFoundError:
            return False

    def remove(self) -> None:
        """Forget the job; what cannot be deleted is garbage."""
        with suppress(LakeError):
            for found in list(self._store.list(f"{JOBS}{self._job}/")):
                with suppress(LakeError):
                    self._store.delete(found.path)

    def _read(self, path: str) -> dict[str, Any] | None:
        try:
            data = self._store.get(path)
        except NotFoundError:
            return None
        return _unseal(data, path)


def _seal(values: Mapping[str, Any]) -> bytes:
    body = json.dumps(values, separators=(",", ":")).encode()
    return _HEAD.pack(_MAGIC, crc32(body)) + body


def _unseal(data: bytes, path: str) -> dict[str, Any]:
    if len(data) < _HEAD.size:
        raise CorruptionError(f"job object {path!r} is cut short")
    magic, crc = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    if magic != _MAGIC or crc32(body) != crc:
        raise CorruptionError(
            f"job object {path!r} is damaged", fix="delete the job's objects and run it again"
        )
    try:
        values = json.loads(body)
    except ValueError as error:
        raise CorruptionError(f"job object {path!r} is not JSON") from error
    if not isinstance(values, dict):
        raise CorruptionError(f"job object {path!r} is not a JSON object")
    return values


def _rewrite_to_json(rewrite: FragmentRewrite) -> dict[str, Any]:
    return {
        "positions": _b64(rewrite.rows.positions.serialize()),
        "groups": [
            {
                "field_ids": list(group.field_ids),
                "schema_id": group.schema_id,
                "path": group.path,
                "format": group.format,
                "size": group.size,
                "layout": _b64(group.layout),
            }
            for group in rewrite.groups
        ],
        "statistics": [
            {
                "field_id": one.field_id,
                "null_count": one.null_count,
                "nan_count": one.nan_count,
                "lower": None if one.lower is None else _b64(one.lower),
                "upper": None if one.upper is None else _b64(one.upper),
            }
            for one in rewrite.statistics
        ],
    }


def _rewrite_from_json(fragment_id: int, raw: Mapping[str, Any]) -> FragmentRewrite:
    groups = tuple(
        ColumnGroup(
            field_ids=tuple(int(one) for one in group["field_ids"]),
            schema_id=int(group["schema_id"]),
            path=check_path(_text(group["path"])),
            format=_text(group["format"]),
            size=int(group["size"]),
            layout=_unb64(group["layout"]),
        )
        for group in raw["groups"]
    )
    statistics = tuple(
        ColumnStatistics(
            field_id=int(one["field_id"]),
            null_count=int(one["null_count"]),
            nan_count=None if one["nan_count"] is None else int(one["nan_count"]),
            lower=None if one["lower"] is None else _unb64(one["lower"]),
            upper=None if one["upper"] is None else _unb64(one["upper"]),
        )
        for one in raw["statistics"]
    )
    rows = TouchedRows(fragment_id=fragment_id, positions=BitMap64.deserialize(_unb64(raw["positions"])))
    return FragmentRewrite(rows=rows, groups=groups, statistics=statistics)


def _numbers(data: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(one) for one in data["fragments"])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _optional(value: object) -> str | None:
    return None if value is None else _text(value)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: object) -> bytes:
    return base64.b64decode(_text(text), validate=True)
