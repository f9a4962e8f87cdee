"""Random keyed histories of two writers against a dictionary: keys stay unique, found and right through everything.

Keys are changed, rows deleted and added again, fragments compacted, versions restored, the key dropped and declared
anew; runs of the key index are small, so that they are merged all the time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from key_samples import small_runs
from row_samples import Forced, InterruptedEngine

import lake_format as lake
from lake_format.errors import ConflictError
from lake_format.table import Table

IDS = st.integers(0, 24)
SETS = st.lists(IDS, min_size=1, max_size=9, unique=True)
VALUES = st.integers(0, 9)
SCHEMA = pa.schema([("region", pa.string()), ("id", pa.int32()), ("v", pa.int64())])

Model = dict[int, int]


def some(ids: list[int], value: int) -> pa.Table:
    rows = [{"region": "ab"[i % 2], "id": i, "v": value} for i in ids]
    return pa.Table.from_pylist(rows, SCHEMA)


class Keys(RuleBasedStateMachine):
    """One keyed table, a model of it, and a rival with a handle of its own."""

    @initialize(
        composite=st.booleans(),
        indexed=st.booleans(),
        fragment_rows=st.sampled_from([3, 100]),
        strategy=st.sampled_from(["rewrite", "move", "patch", None]),
    )
    def start(self, composite: bool, indexed: bool, fragment_rows: int, strategy: str | None) -> None:
        self.held = ExitStack()
        self.held.enter_context(small_runs(inline=3, fanout=3))
        self.held.enter_context(Forced(strategy))
        folder = self.held.enter_context(tempfile.TemporaryDirectory())
        self.key = ["region", "id"] if composite else ["id"]
        self.engine = InterruptedEngine(lambda: None)
        properties = {"write.fragment-rows": fragment_rows}
        uri = str(Path(folder) / "t")
        if indexed:
            lake.create(uri, SCHEMA, key=self.key, properties=properties)
        else:
            lake.create(uri, SCHEMA, properties=properties).append(some([1, 2, 3], 0)).set_key(self.key)
        self.model: Model = {} if indexed else {1: 0, 2: 0, 3: 0}
        self.table = lake.open(uri, engine=self.engine)
        self.rival = lake.open(uri)
        self.kept: dict[int, Model] = {self.table.version: dict(self.model)}

    def teardown(self) -> None:
        if hasattr(self, "held"):
            self.held.close()

    # --- what may be done; each also in a model ---------------------------------------------------------------

    def appended(self, table: Table, model: Model, ids: list[int], value: int) -> None:
        taken = [i for i in ids if i in model]
        try:
            table.append(some(ids, value))
        except (lake.DuplicateKeyError, ConflictError):
            assert taken
            return
        assert not taken
        model |= dict.fromkeys(ids, value)

    def upserted(self, table: Table, model: Model, ids: list[int], value: int) -> None:
        table.upsert(some(ids, value))
        model |= dict.fromkeys(ids, value)

    def deleted(self, table: Table, model: Model, low: int) -> None:
        table.delete(f"id >= {low} AND id < {low + 4}")
        for i in range(low, low + 4):
            model.pop(i, None)

    def shifted(self, table: Table, model: Model, low: int, by: int) -> None:
        """Give all rows from a key on another one."""
        moved = {i: v for i, v in model.items() if i >= low}
        rest = {i: v for i, v in model.items() if i < low}
        by *= 2  # regions follow from the parity
        try:
            table.update({"id": lake.sql(f"id + {by}")}, where=f"id >= {low}")
        except (lake.DuplicateKeyError, ConflictError):
            assert any(i + by in rest for i in moved)
            return
        assert not any(i + by in rest for i in moved)
        model.clear()
        model |= rest | {i + by: v for i, v in moved.items()}

    # --- alone --------------------------------------------------------------------------------------------------

    @rule(ids=SETS, value=VALUES)
    def append(self, ids: list[int], value: int) -> None:
        self.appended(self.table, self.model, ids, value)

    @rule(ids=SETS, value=VALUES)
    def upsert(self, ids: list[int], value: int) -> None:
        self.upserted(self.table, self.model, ids, value)

    @rule(low=IDS)
    def delete(self, low: int) -> None:
        self.deleted(self.table, self.model, low)

    @rule(low=IDS, by=st.integers(-2, 3))
    def shift(self, low: int, by: int) -> None:
        self.shifted(self.table, self.model, low, by)

    @rule()
    def compact(self) -> None:
        self.rival.compact(target_rows=50, deleted_share=0.01)

    @rule()
    def declare_anew(self) -> None:
        self.rival.refresh().drop_key().set_key(self.key)

    @rule(back=st.integers(1, 4))
    def restore(self, back: int) -> None:
        wanted = sorted(self.kept)[-back:][0]
        try:
            self.table.refresh().restore(wanted)
        except lake.InvalidInputError:  # from before the key
            return
        self.model = dict(self.kept[wanted])

    @rule(ids=SETS)
    def append_the_same_twice_at_once(self, ids: list[int]) -> None:
        """Of two appends of the same keys at most one lands."""
        free = [i for i in ids if i not in self.model]
        if not free:
            return
        self.engine.meanwhile = lambda: self.rival.append(some(free, 1))
        with pytest.raises(ConflictError):
            self.table.append(some(free[:1], 2))
        self.engine.meanwhile = None
        self.model |= dict.fromkeys(free, 1)

    # --- an upsert that meets something -----------------------------------------------------------------------

    @precondition(lambda self: self.model)
    @rule(ids=SETS, value=VALUES, low=IDS, by=st.integers(-2, 3), what=st.sampled_from("usdac"))
    def upsert_meets(self, ids: list[int], value: int, low: int, by: int, what: str) -> None:
        meanwhile: dict[str, Callable[[], object]] = {
            "u": lambda: self.upserted(self.rival, self.model, ids[:4], value + 10),
            "s": lambda: self.shifted(self.rival, self.model, low, by),
            "d": lambda: self.deleted(self.rival, self.model, low),
            "a": lambda: self.appended(self.rival, self.model, [*range(30, 33)], value),
            "c": lambda: self.rival.compact(target_rows=50, deleted_share=0.01),
        }
        self.engine.meanwhile = meanwhile[what]
        self.upserted(self.table, self.model, ids, value)
        self.engine.meanwhile = None

    @precondition(lambda self: self.model)
    @rule(low=IDS, by=st.integers(-2, 3), ids=SETS, value=VALUES, what=st.sampled_from("udc"))
    def shift_meets(self, low: int, by: int, ids: list[int], value: int, what: str) -> None:
        """A change of keys fits what came meanwhile, or is refused whole."""
        before = dict(self.model)
        meanwhile: dict[str, Callable[[], object]] = {
            "u": lambda: self.upserted(self.rival, self.model, ids, value),
            "d": lambda: self.deleted(self.rival, self.model, low + 1),
            "c": lambda: self.rival.compact(target_rows=50, deleted_share=0.01),
        }
        self.engine.meanwhile = meanwhile[what]
        try:
            self.table.update({"id": lake.sql(f"id + {2 * by}")}, where=f"id >= {low}")
        except (lake.DuplicateKeyError, ConflictError):
            self.engine.meanwhile = None
            return
        self.engine.meanwhile = None
        # Rows that it chose, which are those of its base, have moved if they are still there.
        chosen = {i for i in before if i >= low}
        moved = {i + 2 * by: v for i, v in self.model.items() if i in chosen}
        self.model = {i: v for i, v in self.model.items() if i not in chosen} | moved

    # --- always ---------------------------------------------------------------------------------------------------

    @invariant()
    def the_table_is_the_model(self) -> None:
        if not hasattr(self, "held"):
            return
        table = self.table.refresh()
        found = table.to_arrow()
        assert sorted(zip(found["id"].to_pylist(), found["v"].to_pylist(), strict=True)) == sorted(
            self.model.items()
        )
        self.kept[table.version] = dict(self.model)
        asked = list(range(-6, 36))
        keys = asked if len(self.key) == 1 else [("ab"[i % 2], i) for i in asked]
        assert table.get(keys, ["id"])["id"].to_pylist() == [i for i in asked if i in self.model]
        assert table.verify().problems == []


TestKeys = Keys.TestCase
TestKeys.settings = settings(
    max_examples=8, stateful_step_count=12, suppress_health_check=list(HealthCheck), deadline=None
)


@pytest.mark.long
class TestKeysLong(Keys.TestCase):  # type: ignore[name-defined,misc]
    """The same for longer."""

    settings = settings(
        max_examples=600, stateful_step_count=40, suppress_health_check=list(HealthCheck), deadline=None
    )
