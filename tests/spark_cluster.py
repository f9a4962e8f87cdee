"""A standalone Spark cluster of two workers with one core each, and drivers of their own to run jobs on it.

The processes are pyspark's own, started from its jars on ports that are free; a driver is a process too
(``spark_driver.py``), so that it can be killed. Only processes started here are ever ended.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark

__all__ = ["Cluster", "Driver", "Drivers", "wait_until"]

HOME = Path(pyspark.__file__).parent
TESTS = Path(__file__).parent
PATIENCE = 120.0
_MEMORY = "-Xmx256m"


def wait_until(what: str, check: Callable[[], Any]) -> Any:
    """The first answer that is not empty."""
    until = time.monotonic() + PATIENCE
    while not (found := check()):
        assert time.monotonic() < until, f"waited in vain: {what}"
        time.sleep(0.02)
    return found


class Cluster:
    """A master and two workers; they start executors when a driver asks for them, and again when one dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        paths = [str(TESTS), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self.environment = {
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "SPARK_HOME": str(HOME),
            "SPARK_SCALA_VERSION": _scala_version(),
            "SPARK_LOCAL_IP": "127.0.0.1",
        }
        self.master = self._start("master.Master", r"Starting Spark master at (spark://\S+)", [])
        options = ["--cores", "1", "--memory", "1g", "--work-dir"]
        for number in (1, 2):
            where = [*options, str(folder / f"work-{number}"), self.master]
            self._start("worker.Worker", r"Successfully registered with master (\S+)", where)

    def executors(self) -> list[int]:
        """The processes that run tasks: children of the workers."""
        return [child for worker in self._processes[1:] for child in _children(worker.pid)]

    def stop(self) -> None:
        """End the executors, then what started them."""
        for pid in self.executors():
            os.kill(pid, signal.SIGKILL)
        for process in reversed(self._processes):
            process.kill()
            process.wait()

    def _start(self, name: str, ready: str, arguments: list[str]) -> str:
        log = self.folder / f"process-{len(self._processes)}.log"
        place = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        command = ["java", _MEMORY, "-cp", f"{HOME / 'jars'}/*", f"org.apache.spark.deploy.{name}"]
        with log.open("wb") as output:
            process = subprocess.Popen([*command, *place, *arguments], stderr=output, env=self.environment)
        self._processes.append(process)
        return str(wait_until(name, lambda: re.search(ready, log.read_text(errors="replace")))[1])


class Driver:
    """A process that runs the jobs of ``spark_driver.py`` on a cluster, one after another."""

    def __init__(self, cluster: Cluster, cores: int) -> None:
        self._log = (cluster.folder / f"driver-{time.monotonic_ns()}.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, str(TESTS / "spark_driver.py"), cluster.master, str(cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=cluster.environment,
        )

    def start(self, name: str, /, **arguments: object) -> None:
        """Begin a job."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """What came of the job begun; RuntimeError with the message of what went wrong in it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the driver is gone"
        done, value = json.loads(line)
        if not done:
            raise RuntimeError(value)
        return value

    def run(self, name: str, /, **arguments: object) -> Any:
        """Begin a job and wait for it."""
        self.start(name, **arguments)
        return self.result()

    def kill(self) -> None:
        """End it at once; its JVM ends when it sees that."""
        machine = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        wait_until("the driver's JVM ends", lambda: not any(_is_running(pid) for pid in machine))
        self._log.close()


class Drivers:
    """The drivers of a cluster; there is one at a time, which has both cores, or two with one each."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: list[Driver] = []

    def one(self, *, fresh: bool = False) -> Driver:
        """A driver; a fresh one comes after the one that is there was killed."""
        if fresh or len(self._running) > 1:
            self.stop()
        if not self._running:
            self._running.append(Driver(self._cluster, 2))
        return self._running[0]

    def two(self) -> list[Driver]:
        """Two that run at the same time."""
        self.stop()
        self._running = [Driver(self._cluster, 1) for _ in range(2)]
        return self._running

    def stop(self) -> None:
        """Kill all of them."""
        while self._running:
            self._running.pop().kill()


def _scala_version() -> str:
    """What Spark's shell scripts would find out: it is in the names of the jars."""
    jar = next((HOME / "jars").glob("spark-core_*.jar"))
    return jar.name.removeprefix("spark-core_").partition("-")[0]


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
