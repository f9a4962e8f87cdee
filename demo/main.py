"""The demo: from a folder of images to nearest neighbours, step by step, on real data.

Run it with ``make demo``. It makes ./demo-lake, which it may replace only if an earlier demo made it.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fashion_mnist import LABELS, DataError, Images, find_or_fetch, read_images
from pictures import picture_row
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

import lake_format as lake
from lake_connectors import duckdb as lake_duckdb
from lake_format.errors import LakeError

TABLE = "demo-lake"
CACHE = Path(".cache")
MARK = "user.made-by"
COMMITS = 6
QUERIES = 200
PICTURED = 4
FILTER = "label_name IN ('Sandal', 'Sneaker') AND brightness < 0.2"

COUNT_SQL = (
    "SELECT label_name, count(*) AS images FROM images WHERE brightness > 0.4 "
    "GROUP BY ALL ORDER BY images DESC LIMIT 3"
)
KNN_SQL = (
    "SELECT id, label_name, _distance FROM knn('images', ?, 4) "
    "WHERE label_name IN ('Sandal', 'Sneaker') AND brightness < 0.2"
)
ORDER_SQL = """\
SELECT id, label_name FROM images WHERE label_name = 'Bag'
    ORDER BY array_distance(image, ?::FLOAT[784]) LIMIT 2"""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("label", pa.uint8()),
        ("label_name", pa.string()),
        ("brightness", pa.float32()),
        pa.field("image", pa.list_(pa.float32(), 784), nullable=False),
    ]
)

screen = Console(highlight=False)


def main() -> None:
    """Tell the whole story."""
    heading("1  The data")
    folder = with_bar("fetching Fashion-MNIST", lambda: find_or_fetch(CACHE))
    train, test = read_images(folder, "train"), read_images(folder, "t10k")
    screen.print(
        f"{len(train.pixels):,} images of {train.pixels.shape[1]} grey values, from {folder}", soft_wrap=True
    )
    screen.print(f"{len(test.pixels):,} more, which the table never sees, are the queries")

    heading("2  A table, in several commits")
    table = make_table()
    append_all(table, train)

    heading("3  An index")
    build_index(table)

    heading("4  Search from Python")
    search_from_python(table, train, test)

    heading("5  Search from SQL")
    search_from_sql(table, test)

    heading("6  Is it right, and is it fast?")
    measure(table, test)

    heading("7  What lies on disk")
    show_disk(table)
    show_next_steps()


def make_table() -> lake.Table:
    """A new, empty table; an earlier demo's is removed, anything else is left alone."""
    place = Path(TABLE)
    if place.exists():
        if not made_here(place):
            raise DataError(
                f"./{TABLE} is there and was not made by this demo; move it away, then run this again"
            )
        shutil.rmtree(place)
    table = lake.create(TABLE, SCHEMA, properties={MARK: "make demo"})
    CACHE.mkdir(exist_ok=True)
    (CACHE / "demo-table").write_text(identity(place))
    code('table = lake.create("demo-lake", schema)')
    return table


def made_here(place: Path) -> bool:
    """Whether an earlier demo made this folder; also true of tables in a format that this release cannot read."""
    mark = CACHE / "demo-table"
    if mark.is_file() and mark.read_text() == identity(place):
        return True
    try:
        return lake.open(TABLE).properties.get(MARK) == "make demo"
    except LakeError:
        return False


def identity(place: Path) -> str:
    """What tells this folder from any other that may come to have its name."""
    found = place.stat()
    return f"{place.resolve()} {found.st_dev} {found.st_ino}"


def append_all(table: lake.Table, images: Images) -> None:
    """Append the images in a few commits, as a job that runs every day would."""
    code("table.append(rows)        # six times")
    size = len(images.pixels) // COMMITS
    started = time.perf_counter()
    with bar() as progress:
        task = progress.add_task("appending", total=len(images.pixels))
        for start in range(0, len(images.pixels), size):
            table.append(rows_of(images, start, start + size))
            progress.update(task, advance=size)
    took = time.perf_counter() - started
    screen.print(
        f"{table.count():,} rows in {COMMITS} commits, {took:.1f} s ({table.count() / took:,.0f} rows/s)"
    )


def rows_of(images: Images, start: int, stop: int) -> pa.RecordBatch:
    """Images as rows of the table."""
    pixels, labels = images.pixels[start:stop], images.labels[start:stop]
    return pa.record_batch(
        [
            pa.array(np.arange(start, start + len(pixels))),
            pa.array(labels),
            pa.array(np.array(LABELS)[labels]),
            pa.array(pixels.mean(axis=1)),
            pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), pixels.shape[1]),
        ],
        schema=SCHEMA,
    )


def build_index(table: lake.Table) -> None:
    """Build the vector index, with a bar."""
    code('table.create_index("image", metric="l2")')
    started = time.perf_counter()
    with bar() as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total or None)
            progress.update(tasks[stage], completed=done, total=total or None)

        table.create_index("image", metric="l2", progress=report)
    made = table.inspect.indexes().to_pylist()[0]
    screen.print(
        f"{made['kind']} index over {made['rows']:,} rows: {time.perf_counter() - started:.1f} s, ", end=""
    )
    screen.print(f"{megabytes(made['bytes'])} beside {megabytes(file_bytes(table))} of data")


def search_from_python(table: lake.Table, train: Images, test: Images) -> None:
    """One query, then the same with a filter."""
    query = test.pixels[0]
    code('table.search(query, k=4, select=["id", "label_name", "_distance"])')
    found = table.search(query, k=PICTURED, select=["id", "label_name", "_distance"]).to_pylist()
    captions = ["the query", *(f"at {row['_distance']:.2f}" for row in found)]
    pictures = [query, *(train.pixels[row["id"]] for row in found)]
    screen.print(picture_row(pictures, captions, colour=screen.is_terminal))
    names = ", ".join(row["label_name"] for row in found)
    screen.print(f"The query is labelled {LABELS[test.labels[0]]}; its neighbours: {names}")
    screen.print()
    code(f'table.search(query, k=4, where="{FILTER}")')
    columns = ["id", "label_name", "brightness", "_distance"]
    show(table.search(query, k=PICTURED, where=FILTER, select=columns).to_arrow())


def search_from_sql(table: lake.Table, test: Images) -> None:
    """The same table in DuckDB: attributes, neighbours and an aggregate over neighbours."""
    connection = lake_duckdb.connect()
    connection.attach(table, "images")
    query = test.pixels[0].tolist()
    code(COUNT_SQL)
    show(connection.sql(COUNT_SQL).to_arrow_table())
    code(KNN_SQL)
    show(connection.sql(KNN_SQL, params=[query]).to_arrow_table())
    code(ORDER_SQL)
    show(connection.sql(ORDER_SQL, params=[query]).to_arrow_table())


def measure(table: lake.Table, test: Images) -> None:
    """Recall against exact search, and the time of a query, over images the table has never seen."""
    queries = test.pixels[:QUERIES]
    exact, exact_ms = timed_searches(table, queries, exact=True)
    found, found_ms = timed_searches(table, queries, exact=False)
    hits = [len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)]
    neighbours = table.take([row for rows in found for row in rows], ["label"]).column("label").to_numpy()
    votes = [np.bincount(row).argmax() for row in neighbours.reshape(len(queries), -1)]
    right = int(np.sum(np.array(votes) == test.labels[:QUERIES]))
    grid = Grid(box=None, pad_edge=False, show_header=False)
    grid.add_row(f"recall@10 over {QUERIES} queries", f"[bold]{np.mean(hits):.3f}[/bold]")
    grid.add_row("one search with the index", f"[bold]{np.median(found_ms):.2f} ms[/bold] (median)")
    grid.add_row("one search without (exact)", f"{np.median(exact_ms):.1f} ms (median)")
    grid.add_row("kind of clothing guessed right from its 10 neighbours", f"{right} of {QUERIES}")
    screen.print(grid)


def timed_searches(
    table: lake.Table, queries: npt.NDArray[np.float32], *, exact: bool
) -> tuple[list[list[int]], list[float]]:
    """Row ids of the ten nearest for each query, and how many milliseconds each search took."""
    rows, times = [], []
    with bar() as progress:
        for query in progress.track(queries, description="exact search" if exact else "search"):
            started = time.perf_counter()
            result = table.search(query, k=10, select=["_row_id"], exact=exact)
            times.append((time.perf_counter() - started) * 1000)
            rows.append(result.to_arrow().column("_row_id").to_pylist())
    return rows, times


def show_disk(table: lake.Table) -> None:
    """Files by kind, and the history of the table."""
    files = table.inspect.files().to_pandas()
    by_kind = files.assign(columns=files["columns"].map(", ".join)).groupby(["columns", "format"], sort=False)
    sizes = by_kind["bytes"].agg(["count", "sum"]).reset_index()
    grid = Grid("columns", "format", "files", "size", box=None, pad_edge=False, header_style="bold")
    for row in sizes.itertuples():
        grid.add_row(row.columns, row.format, str(row.count), megabytes(row.sum))
    for index in table.inspect.indexes().to_pylist():
        grid.add_row(f"index {index['name']}", "puffin", str(index["shards"]), megabytes(index["bytes"]))
    screen.print(grid)
    screen.print()
    history = Grid("version", "committed", "operation", "rows", box=None, pad_edge=False, header_style="bold")
    for version in table.versions():
        when = version["committed_at"].astimezone().strftime("%H:%M:%S")
        history.add_row(str(version["version"]), when, version["operation"], f"{version['rows']:,}")
    screen.print(history)


def show_next_steps() -> None:
    """Three commands that work as they stand."""
    lake_command = Path(sys.executable).with_name("lake")
    command = (
        lake_command.relative_to(Path.cwd()) if lake_command.is_relative_to(Path.cwd()) else lake_command
    )
    heading("Now you")
    for line in (
        f"{command} describe {TABLE}",
        f"{command} search {TABLE} --like-row 7 --k 5 --where \"label_name <> 'Sneaker'\"",
        f'{command} sql "SELECT label_name, count(*) FROM {TABLE.replace("-", "_")} GROUP BY ALL" {TABLE}',  # noqa: S608
    ):
        screen.print(f"  {line}", markup=False, soft_wrap=True)


def show(rows: pa.Table) -> None:
    """A small Arrow table on the screen."""
    grid = Grid(*rows.column_names, box=None, pad_edge=False, header_style="bold")
    for row in rows.to_pylist():
        grid.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    screen.print(grid)
    screen.print()


def heading(text: str) -> None:
    """A line that starts a step."""
    screen.print()
    screen.rule(f"[bold]{text}", align="left", style="dim")


def code(text: str) -> None:
    """The line of code whose result comes next."""
    screen.print(f">>> {text}", style="cyan", markup=False, soft_wrap=True)


def bar() -> Progress:
    """A progress bar that goes away when it is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)


def with_bar(what: str, work: Callable[[], Path]) -> Path:
    """Do something of unknown length behind a moving bar."""
    with bar() as progress:
        progress.add_task(what, total=None)
        return work()


def file_bytes(table: lake.Table) -> int:
    """Bytes of all data files."""
    return int(sum(table.inspect.files().column("bytes").to_pylist()))


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:,.1f} MB"


if __name__ == "__main__":
    try:
        main()
    except (LakeError, DataError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error[/bold red]: {error}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("\ninterrupted; run it again when you like")
        sys.exit(130)
