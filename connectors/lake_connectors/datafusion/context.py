"""The session users hold: DataFusion's own, in which tables of a lake have names and searches use their index."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from datafusion import DataFrame, SessionConfig, SessionContext, udtf

from lake_connectors.adapter.following import Observer
from lake_connectors.adapter.names import default_name
from lake_connectors.adapter.opening import opened
from lake_connectors.adapter.requests import NearestRequest
from lake_connectors.datafusion.catalog import FolderOfTables, LakeTables, Mentions, following
from lake_connectors.datafusion.conditions import carry
from lake_connectors.datafusion.datasets import LakeDataset, NearestDataset, TableDataset, TableFollower
from lake_connectors.datafusion.functions import distance_functions
from lake_connectors.datafusion.joins import keys_let_through
from lake_connectors.datafusion.plans import Ordered, Scan, constant, ordered, scans
from lake_connectors.datafusion.settling import passing, readers, settle, settle_by_count
from lake_format.errors import InvalidInputError, LakeError, NotFoundError, UnsupportedError
from lake_format.queries import check_k
from lake_format.schema import is_vector
from lake_format.store.consent import AllowExternal
from lake_format.table import Table

__all__ = ["LakeContext", "connect"]

_CATALOG, _SCHEMA = "datafusion", "public"
_VECTOR = re.compile(r"\bknn\s*\(\s*'[^']*'\s*,\s*\$(\w+)\s*[,)]")
_KNN = ("table", "vector", "k", "column", "metric", "recall", "exact")


def connect(config: SessionConfig | None = None, runtime: Any | None = None) -> LakeContext:
    """A DataFusion session to which tables can be attached; parameters as of ``datafusion.SessionContext``."""
    return LakeContext(config, runtime)


class LakeContext(SessionContext):
    """A DataFusion session with tables of a lake in it.

    Statements see the newest version of a table, each mention of it one version. ``knn(table, vector, k)`` and
    ``ORDER BY array_distance(vec, …) LIMIT k`` use the index, if the statement is given to :meth:`sql`. Conditions on
    what ``knn`` returns apply before the search, written in WHERE (``id IN (SELECT …)`` too) or following from an
    equality in a join; k rows come back where k rows match.
    """

    def __init__(self, config: SessionConfig | None = None, runtime: Any | None = None) -> None:
        super().__init__(config or SessionConfig(), runtime)
        self._mentions = Mentions()
        self._parameters: Mapping[str, Any] = {}
        self._refused: LakeError | None = None
        self._partitions = os.cpu_count() or 1
        catalog = self.catalog(_CATALOG)
        self._tables = LakeTables(self._mentions, self._partitions)
        catalog.deregister_schema(_SCHEMA, cascade=True)
        catalog.register_schema(_SCHEMA, self._tables)
        self._folders: dict[str, LakeTables] = {}
        self.register_udtf(udtf(self._knn, "knn"))
        for function in distance_functions():
            self.register_udf(function)

    # --- tables -------------------------------------------------------------------------------------------

    def attach(
        self,
        table: Table | str | os.PathLike[str],
        name: str | None = None,
        *,
        version: int | None = None,
        max_staleness: float = 0.0,
        storage_options: Mapping[str, str] | None = None,
        allow_external: AllowExternal | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """Make a table readable by name.

        Parameters
        ----------
        table
            A table, or where it is. One opened at an older version stays there; any other is followed.
        name
            How SQL names it; by default the last part of the URI. Attaching a name again replaces it.
        version
            With a URI: that version, for good.
        max_staleness
            Seconds for which a version is taken for the newest without asking the store again.
        storage_options, allow_external
            With a URI: as for ``lake.open``.
        observer
            Called with a ``Pushdown`` whenever a statement reads the table.

        Raises
        ------
        NotFoundError
            There is no table at the URI, or no such version.
        """
        found = opened(table, version, storage_options, allow_external)
        chosen = default_name(found.uri) if name is None else str(name)
        if not chosen.strip():
            raise InvalidInputError("the table's name is empty", fix="give name=")
        self._tables.followers[chosen] = following(chosen, found, max_staleness, observer)
        return self

    def attach_folder(
        self,
        uri: str | os.PathLike[str],
        name: str = "lake",
        *,
        max_staleness: float = 0.0,
        storage_options: Mapping[str, str] | None = None,
        allow_external: AllowExternal | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """Make all tables of a folder readable as ``name.table``, those that are made later too."""

        def follow(table_name: str, found: Table) -> TableFollower:
            return following(table_name, found, max_staleness, observer)

        opening = {"storage_options": storage_options, "allow_external": allow_external}
        folder = FolderOfTables(self._mentions, self._partitions, os.fspath(uri), opening, follow)
        self.catalog(_CATALOG).register_schema(name, folder)
        self._folders[name] = folder
        return self

    def detach(self, name: str) -> Self:
        """Take an attached table out; the table itself is not touched."""
        if self._tables.followers.pop(name, None) is None:
            known = ", ".join(self._tables.followers) or "none"
            raise NotFoundError(f"no table {name!r} is attached to this session", fix=f"attached: {known}")
        return self

    # --- statements ---------------------------------------------------------------------------------------

    def sql(
        self,
        query: str,
        options: Any | None = None,
        param_values: dict[str, Any] | None = None,
        **named_params: Any,
    ) -> DataFrame:
        """A frame over a query, as DataFusion's ``sql``; searches in it are found and use the index."""
        with self._mentions.lock:
            self._parameters, self._refused = param_values or {}, None
            self._mentions.taken()
            try:
                left = _without_arguments(query, param_values)
                frame = super().sql(query, options, left, **named_params)
                self._settle(frame, self._mentions.taken())
            except ValueError:
                if self._refused is None:
                    raise
                # DataFusion puts the whole traceback into its message: what is wrong would be lost in it.
                raise ValueError(f"Error during planning: {self._refused}") from self._refused
            finally:
                self._parameters, self._refused = {}, None
            return frame

    # --- inside -------------------------------------------------------------------------------------------

    def _settle(self, frame: DataFrame, made: list[LakeDataset]) -> None:
        """Give every search of a statement the rows it needs."""
        if not made or not _may_need(frame.logical_plan().display_indent(), made):
            return
        found = list(scans(frame.optimized_logical_plan()))
        searches = {at: search for at, scan in enumerate(found) if (search := ordered(scan)) is not None}
        filtered = any(scan.is_filtered for scan in found)
        if not searches and not (filtered and any(isinstance(one, NearestDataset) for one in made)):
            return
        for dataset, read in _by_reader(readers(found, made, self.create_dataframe_from_logical_plan)):
            if isinstance(dataset, NearestDataset):
                scan = _only([found[at] for at in read])
                if scan.is_filtered:
                    self._fill(scan, dataset, dataset.candidates)
            elif isinstance(dataset, TableDataset) and len(read) == 1 and read[0] in searches:
                self._order(found[read[0]], searches[read[0]], dataset)

    def _order(self, scan: Scan, search: Ordered, dataset: TableDataset) -> None:
        """Let the table under an ORDER BY hand out its nearest rows only."""
        schema = dataset.snapshot.schema
        column = schema.field(search.column) if search.column in schema.names else None
        if column is None or not is_vector(column.type) or len(search.vector) != column.type.list_size:
            return
        if not np.isfinite(np.asarray(search.vector, np.float64)).all():
            return
        nearest = dataset.order_by(search.request())
        if scan.is_filtered:
            self._fill(scan, nearest, search.rows)

    def _fill(self, scan: Scan, dataset: NearestDataset, wanted: int) -> None:
        """Let a search hand out rows of which as many as are wanted pass the filters above it."""
        carried, frame_of = carry(scan, dataset.searched), self.create_dataframe_from_logical_plan
        dataset.carried = (*carried.terms, *keys_let_through(scan, dataset.searched, frame_of))
        if scan.joins:
            settle_by_count(dataset, wanted, frame_of(scan.chain[0]).count)
        elif not carried.whole:
            settle(dataset, wanted, lambda: passing(scan, frame_of))

    def _knn(self, *arguments: Any) -> NearestDataset:
        """The table function: ``knn(table, vector, k [, column, metric, recall, exact])``."""
        try:
            return self._searched(arguments)
        except LakeError as error:
            self._refused = error
            raise

    def _searched(self, arguments: Sequence[Any]) -> NearestDataset:
        if not 2 <= len(arguments) <= len(_KNN):
            raise InvalidInputError(
                f"knn() takes a table, a vector and k, not {len(arguments)} arguments",
                fix="and then, as wanted: vector column, metric, recall, exact",
            )
        given = {name: self._value(name, one) for name, one in zip(_KNN, arguments, strict=False)}
        follower = self._named(given["table"])
        request = NearestRequest(
            vector=_vector(given["vector"]),
            k=check_k(given.get("k", 10)),
            ordered=False,
            metric=given.get("metric"),
            recall=_number("recall", given.get("recall", 0.95)),
            exact=_truth("exact", given.get("exact")),
            column=given.get("column"),
        )
        dataset = NearestDataset(follower, request)
        self._mentions.add(dataset)
        return dataset

    def _value(self, name: str, expression: Any) -> Any:
        """The value of an argument: a constant, or a parameter of the statement."""
        if expression.variant_name() == "Placeholder":
            key = str(expression).removeprefix("Expr(").removesuffix(")").lstrip("$")
            if key not in self._parameters:
                raise InvalidInputError(
                    f"knn(): no value was given for ${key}", fix="pass it in param_values"
                )
            value = self._parameters[key]
            return value.as_py() if hasattr(value, "as_py") else value
        try:
            return constant(expression)
        except ValueError as error:
            raise InvalidInputError(
                f"knn(): {name} must be a constant or a parameter, not {expression}",
                fix="for many queries call Table.search with a batch of vectors",
            ) from error

    def _named(self, name: object) -> TableFollower:
        folder, dot, rest = str(name).partition(".")
        tables = self._folders.get(folder) if dot else self._tables
        found = tables.follower(rest if dot else str(name)) if tables is not None else None
        if found is None:
            known = ", ".join(self._tables.followers) or "none"
            raise NotFoundError(f"knn(): no lake table {name!r} is attached", fix=f"attached: {known}")
        return found


def _may_need(plan: str, made: list[LakeDataset]) -> bool:
    """Whether a plan, not optimised yet, may filter what a search finds or order what a table holds."""
    searches = any(isinstance(one, NearestDataset) for one in made)
    if searches and ("Filter:" in plan or "Join" in plan):
        return True
    return "Sort:" in plan and any(isinstance(one, TableDataset) for one in made)


def _without_arguments(query: str, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """The parameters without vectors that are nothing but an argument of ``knn``, which reads them itself.

    DataFusion would write each into its plan, and nothing would be left there to read it.
    """
    taken = {name for name in _VECTOR.findall(query) if len(re.findall(rf"\${name}\b", query)) == 1}
    if not parameters or not taken:
        return parameters
    return {name: value for name, value in parameters.items() if name not in taken}


def _by_reader(read: list[LakeDataset | None]) -> list[tuple[LakeDataset, list[int]]]:
    """The places of the scans of each dataset."""
    found: dict[int, tuple[LakeDataset, list[int]]] = {}
    for at, dataset in enumerate(read):
        if dataset is not None:
            found.setdefault(id(dataset), (dataset, []))[1].append(at)
    return list(found.values())


def _only(found: list[Scan]) -> Scan:
    """The one scan of a search; of several that ask for the same rows, any."""
    if any(scan.conditions != found[0].conditions for scan in found[1:]) and any(
        scan.is_filtered for scan in found
    ):
        raise UnsupportedError(
            "one knn() is filtered in several ways, and each would have other rows for its k",
            fix="write knn(...) out in each place instead of naming it once in WITH",
        )
    return found[0]


def _vector(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidInputError(f"knn(): the vector {value!r} is no list of numbers") from error
    try:
        return np.asarray(value, np.float32).ravel()
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            "the query vector is NULL or holds something that is no number",
            fix="search with finite numbers only",
        ) from error


def _truth(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise InvalidInputError(f"knn(): {name} must be true or false, not {value!r}")
    return bool(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"knn(): {name} must be a number, not {value!r}")
    return value
