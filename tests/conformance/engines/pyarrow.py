"""pyarrow and pandas, which read the table as the ``pyarrow.dataset.Dataset`` it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

import lake_format as lake
from conformance.engine import Reached, Support
from conformance.mapped import lies_in_mapped_file

field = pc.field
_GREATER = re.compile(r"(\w+) > ([\d.]+)")
EXPRESSIONS: dict[str, pc.Expression] = {
    "id < 100": field("id") < 100,
    "id BETWEEN 50 AND 60": (field("id") >= 50) & (field("id") <= 60),
    "id IN (1, 2, 417)": field("id").isin([1, 2, 417]),
    "NOT id = 3": ~(field("id") == 3),
    "small = 2 OR category = 'a'": (field("small") == 2) | (field("category") == "a"),
    "NOT (small = 2 AND category = 'a')": ~((field("small") == 2) & (field("category") == "a")),
    "price > 50": field("price") > 50,
    "price <= 0": field("price") <= 0,
    "price = 0": field("price") == 0,
    "NOT price > 50": ~(field("price") > 50),
    "price IS NULL": field("price").is_null(),
    "weight > 0.2": field("weight") > 0.2,
    "title = 'x'": field("title") == "x",
    "title >= 'x'": field("title") >= "x",
    "title IS NOT NULL": field("title").is_valid(),
    "title = 'Ärger'": field("title") == "Ärger",
    "category IN ('a', 'c')": field("category").isin(["a", "c"]),
    "category <> 'a'": field("category") != "a",
    "category NOT IN ('a', 'b')": ~field("category").isin(["a", "b"]),
    "day = DATE '2024-01-05'": field("day") == date(2024, 1, 5),
    "day > DATE '2024-02-01'": field("day") > date(2024, 2, 1),
    "moment >= TIMESTAMP '2024-03-31 02:00:00'": field("moment") >= datetime(2024, 3, 31, 2),
    "cost > 1.05": field("cost") > Decimal("1.05"),
    "cost = -2": field("cost") == Decimal("-2.00"),
    "flag": field("flag"),
    "NOT flag": ~field("flag"),
    "flag IS NULL": field("flag").is_null(),
    "vec IS NULL": field("vec").is_null(),
    "id > 100 AND id < 300 AND (category = 'b' OR price > 20)": (field("id") > 100)
    & (field("id") < 300)
    & ((field("category") == "b") | (field("price") > 20)),
}


def expression(where: str | None) -> pc.Expression | None:
    if where is None:
        return None
    if where in EXPRESSIONS:
        return EXPRESSIONS[where]
    if (found := _GREATER.fullmatch(where)) is not None:
        return field(found[1]) > float(found[2])
    low, high = (int(number) for number in re.findall(r"\d+", where))
    return (field("id") >= low) & (field("id") < high)


class PyArrowSession:
    def __init__(self, table: Reached, copy: pa.Table | None) -> None:
        self.attach(table)
        self.copy = copy

    def read(
        self, columns: Sequence[str] | None, where: str | None = None, limit: int | None = None
    ) -> pa.Table:
        dataset: ds.Dataset = self.table.refresh()
        names = None if columns is None else list(columns)
        if limit is not None:
            return dataset.head(limit, columns=names, filter=expression(where))
        return dataset.to_table(columns=names, filter=expression(where))

    def copied(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        return ds.dataset(self.copy).to_table(columns=list(columns), filter=expression(where))

    def knn(self, vector: Sequence[float], k: int, where: str | None = None) -> list[tuple[int, float]]:
        found = self.table.search(vector, k, where=expression(where), select=["id", "_distance"]).to_arrow()
        return list(zip(*found.to_pydict().values(), strict=True))

    def ordered(self, vector: Sequence[float], k: int, where: str | None = None) -> list[int]:
        raise NotImplementedError

    def joined(self, vectors: Sequence[Sequence[float]], k: int) -> list[list[int]]:
        found = self.table.search(vectors, k, select=["id"]).to_arrow().to_pylist()
        return [[row["id"] for row in found if row["_query"] == number] for number in range(len(vectors))]

    def append(self, rows: pa.Table) -> None:
        self.table.append(rows.to_pandas())

    def stream(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        dataset: ds.Dataset = self.table.refresh()
        for batch in dataset.to_batches(columns=list(columns)):
            yield pa.table(batch)

    def attach(self, table: Reached) -> None:
        self.table = table.open()

    def attach_with(self, **options: object) -> None:
        self.table = lake.open(self.table.uri, **options)

    def search(self, vector: object, k: object = 3, **options: object) -> object:
        return self.table.search(vector, k, **options)

    def search_by_a_column(self, name: str) -> object:
        return self.table.search(pc.field(name), 3)

    def ask_with_an_unknown_option(self, name: str) -> object:
        return self.table.to_table(**{name: 1})

    def maps_vectors(self) -> bool:
        return lies_in_mapped_file(self.table.to_table(columns=["vec"]).column("vec"))

    def close(self) -> None: ...


class PyArrow:
    name = "PyArrow, pandas"
    slow = False
    differs: Mapping[str, str] = MappingProxyType({})
    errors = (pa.ArrowException, lake.LakeError)
    options = frozenset({"option", "metric", "recall", "column"})
    words: Mapping[str, str] = MappingProxyType(
        {
            "column for a vector": "query is not a vector of numbers: .*Expression",
            "column of text for a vector": "query is not a vector of numbers: .*Expression",
        }
    )
    support: Mapping[str, Support] = {
        "types": "pushed",
        "projection": "pushed",
        "filter": "pushed",
        "odd filter": "absent",
        "limit": "pushed",
        "knn": "pushed",
        "knn filter": "pushed",
        "knn odd filter": "absent",
        "order by": "absent",
        "knn join": "pushed",
        "new rows": "pushed",
        "new columns": "pushed",
        "version": "pushed",
        "append": "pushed",
        "evolution": "pushed",
        "imported": "pushed",
        "mapped vectors": "pushed",
        "mistakes": "answered",
    }

    def open(self, table: Reached, copy: pa.Table | None = None) -> PyArrowSession:
        return PyArrowSession(table, copy)

    def owns(self, error: BaseException) -> bool:
        return isinstance(error, self.errors)

    def takes(self, kind: pa.DataType) -> bool:
        return True


ENGINE = PyArrow()
