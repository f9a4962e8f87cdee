"""``lake`` among other programs: help, start-up, pipes, signals, terminals, progress."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

import lake_format as lake
from cli.helpers import DIMENSION, LAKE, Run
from lake_connectors.cli.outcome import EXIT_MEANINGS
from lake_connectors.cli.progress import Progress
from lake_connectors.cli.root import FIRST_STEPS, PLACES, root

# --- help, start-up, progress -------------------------------------------------------------------------------


def test_help_lists_every_command(cli: Run) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(f"  {name} " in done.out for name in PLACES)
    assert cli("--version").out == f"lake {lake.__version__}\n"
    assert all(str(code) in done.out for code in EXIT_MEANINGS)


@pytest.mark.parametrize("name", PLACES)
def test_every_command_has_help_with_examples_that_parse(cli: Run, name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    done = cli(name, "--help")
    assert done.code == 0
    examples = command.examples  # type: ignore[attr-defined]
    assert len(examples) >= 2
    for example in examples:
        assert f"  {example}\n" in done.out
        assert_parses(name, command, example)
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_the_first_steps_in_the_help_work(cli: Run, here: Path) -> None:
    Path("rows.jsonl").write_text(
        "".join(json.dumps({"id": i, "vec": [i, 1, 0.5]}) + "\n" for i in range(30))
    )
    for step in FIRST_STEPS:
        done = cli(*shlex.split(step)[1:])
        assert done.code == 0, (step, done.err)


def assert_parses(name: str, command: click.Command, example: str) -> None:
    words = shlex.split(example)
    words = words[words.index("lake") :]
    ends = [index for index, word in enumerate(words) if word in ("|", ">")]
    assert words[1] == name
    command.make_context(name, words[2 : ends[0] if ends else None])


def test_the_commands_are_found_where_the_list_says() -> None:
    for name, place in PLACES.items():
        command = root.get_command(click.Context(root), name)
        assert command is not None
        assert command.callback is not None
        assert command.callback.__module__ == f"lake_connectors.cli.{place.module}"
        assert place.about.endswith(".")


def loaded_by(*words: str) -> set[str]:
    code = f"import sys; sys.argv = {['lake', *words]!r}\nfrom lake_connectors.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print('\\n', *sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stderr.split()}


def test_commands_load_only_what_they_need(items: lake.Table) -> None:
    assert not loaded_by("--version") & {"pyarrow", "numpy", "rich", "faiss", "vortex", "duckdb", "pandas"}
    assert not loaded_by("--help") & {"pyarrow", "numpy", "rich", "faiss", "vortex", "duckdb", "pandas"}
    assert not loaded_by("describe", "items") & {"faiss", "vortex", "duckdb", "pandas", "sqlglot"}
    assert not loaded_by("scan", "items", "--format", "json") & {"faiss", "duckdb", "pandas", "rich"}


def test_progress_shows_only_long_work_and_only_to_someone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(stream: io.StringIO, seconds: float) -> str:
        monkeypatch.setattr(sys, "stderr", stream)
        clock = iter([0.0, seconds, seconds])
        monkeypatch.setattr(time, "monotonic", lambda: next(clock, seconds))
        monkeypatch.setenv("TERM", "xterm")
        with Progress(total=100) as progress:
            progress("writing", 10, 0)
            progress("writing", 20, 0)
        return stream.getvalue()

    assert shown(Terminal(), 0.5) == ""
    assert shown(io.StringIO(), 5.0) == ""
    assert "writing" in shown(Terminal(), 5.0)


def test_a_narrow_terminal_cuts_cells_instead_of_wrapping_rows(items: lake.Table) -> None:
    import pty

    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    job = subprocess.Popen(
        [LAKE, "scan", "items", "--limit", "3"], stdout=child, stderr=child, env=environment
    )
    assert job.wait(30) == 0
    os.close(child)
    text = os.read(parent, 1 << 16).decode()
    os.close(parent)
    assert len(text.strip().splitlines()) == 5
    assert "…" in text


def test_a_closed_pipe_ends_quietly(items: lake.Table) -> None:
    scan = subprocess.Popen(
        [LAKE, "scan", "items", "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert scan.stdout is not None
    assert scan.stderr is not None
    scan.stdout.close()  # nobody reads at all: the first write fails
    assert scan.stderr.read() == b""
    assert scan.wait(30) == 141


def test_ctrl_c_stops_a_long_query(items: lake.Table) -> None:
    endless = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"
    job = subprocess.Popen([LAKE, "sql", endless, "items"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    time.sleep(4)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=30)
    assert (job.returncode, err.strip(), out) == (130, b"interrupted", b"")


def test_ctrl_c_ends_with_one_word_and_commits_nothing(items: lake.Table) -> None:
    command = [LAKE, "append", "items", "-", "--input-format", "json"]
    job = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert job.stdin is not None
    line = json.dumps({"id": 1, "vec": [0.5] * DIMENSION}).encode() + b"\n"
    job.stdin.write(line * 1000)
    job.stdin.flush()
    time.sleep(2.5)  # it is waiting for more rows now
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=30)
    assert (job.returncode, err.strip(), out) == (130, b"interrupted", b"")
    assert items.refresh().version == 2
