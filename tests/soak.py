"""Many tiny runs under random kills: `python -m tests.soak pool` (or `folder`, `dask`). `pace`
measures, without kills, how many runs a second each way has.

Processes are killed at random, workers and what sweeps alike, and the same command is given again
until all is recorded. Prints how many records there are, how many were written twice, what was left
over, and which processes outlived their parents."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import click
import psutil

from seqlib.errors import SeqlibError
from seqlib.store import RECORD, Store
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import sweep


class Counting(Store):
    """A store that notes every record it writes."""

    def put(self, record):
        super().put(record)
        with open(self.root / "written", "a") as written:
            written.write(record.key + "\n")


def train(folder: Path, runs: int, workers: int, scheduler: str) -> None:
    """One command: everything that has no record yet."""
    specs = [AirlineSpec(arm="naive", epochs=1 + i) for i in range(runs)]
    client = None
    if scheduler:
        from distributed import Client

        client = Client(scheduler)
    try:
        sweep(specs, Counting(folder / "store"), workers=workers, quiet=True, client=client)
    except SeqlibError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def ours(folder: Path) -> list[psutil.Process]:
    """Processes that bear this soak's mark, whatever became of their parents, but this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (process.environ().get("SOAK") == str(folder) and process.pid != os.getpid()
                    and process.status() != psutil.STATUS_ZOMBIE):
                found.append(process)
    return found


def those_to_kill(folder: Path, of_cluster: bool) -> list[psutil.Process]:
    """What sweeps and what trains; of a cluster, whose workers lose the mark, no worker that has
    just started: Dask gives up one that dies before it is there."""
    found, youngest = [], 5 if of_cluster else 0
    for process in {*ours(folder), *(psutil.Process().children() if of_cluster else ())}:
        with suppress(psutil.Error):
            if (time.time() - process.create_time() > youngest
                    and not re.search("resource_tracker|forkserver", " ".join(process.cmdline()))):
                found.append(process)
    return found


def command(folder: Path, runs: int, workers: int, scheduler: str = "") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.soak", "one", "--folder", folder, "--runs", str(runs),
         "--workers", str(workers), "--scheduler", scheduler],
        env={**os.environ, "SOAK": str(folder), "SEQLIB_RUNS": str(folder / "runs")},
        stderr=subprocess.DEVNULL)


def soak(folder: Path, way: str, runs: int, workers: int, seed: int,
         every: float) -> dict[str, object]:
    """Sweep under kills until all is recorded; what came of it."""
    drawn, kills, began = random.Random(seed), Counter(), time.monotonic()
    cluster, scheduler = None, ""
    if way == "dask":
        import dask
        from distributed import LocalCluster

        dask.config.set({"distributed.scheduler.worker-saturation": 1.0,
                         "distributed.scheduler.allowed-failures": 20})
        cluster = LocalCluster(workers, threads_per_worker=1, dashboard_address=None,
                               env={"SOAK": str(folder), "SEQLIB_RUNS": str(folder / "runs")})
        scheduler = cluster.scheduler_address
    nodes = workers if way == "folder" else 1
    each = 1 if way == "folder" else workers
    started = [command(folder, runs, each, scheduler) for _ in range(nodes)]
    commands = nodes
    while any(process.poll() != 0 for process in started):
        time.sleep(drawn.uniform(0.5, 1.5) * every)
        victims = those_to_kill(folder, of_cluster=way == "dask")
        if victims:
            victim = drawn.choice(victims)
            kills["sweeping" if victim.pid in [p.pid for p in started] else "working"] += 1
            with suppress(psutil.Error):
                victim.send_signal(signal.SIGKILL)
        for i, process in enumerate(started):
            if process.poll() not in (None, 0):
                started[i] = command(folder, runs, each, scheduler)
                commands += 1
    if cluster:
        cluster.close()
    time.sleep(5)
    store, written = folder / "store", (folder / "store/written").read_text().split()
    sound = list(Store(store).records("airline"))
    return {"way": way, "workers": workers, "runs": runs, "records": len(sound),
            "written": len(written), "written twice": len(written) - len(set(written)),
            "half written": len(list((store / "airline").glob(".*.tmp"))),
            "other files": len(list((store / "airline").iterdir())) - len(
                list((store / "airline").glob(RECORD))),
            "holders": len(list((store / ".locks").glob("*.holder"))),
            "orphans": len(ours(folder)), "kills": dict(kills), "commands": commands,
            "seconds": round(time.monotonic() - began)}


def pace(folder: Path, way: str, runs: int, workers: int) -> dict[str, object]:
    """Runs a second of a sweep of runs that take no time, and seconds until the first record."""
    from distributed import Client, LocalCluster

    specs = [AirlineSpec(arm="naive", epochs=1 + i) for i in range(runs)]
    if way == "folder":
        began = time.time()
        started = [command(folder, runs, 1) for _ in range(workers)]
        assert all(process.wait() == 0 for process in started)
    elif way == "dask":
        with (LocalCluster(workers, threads_per_worker=1, dashboard_address=None) as cluster,
              Client(cluster) as client):
            began = time.time()
            sweep(specs, Store(folder / "store"), quiet=True, client=client)
    else:
        began = time.time()
        sweep(specs, Store(folder / "store"), quiet=True, workers=workers)
    times = sorted(path.stat().st_mtime for path in (folder / "store/airline").glob(RECORD))
    return {"way": way, "workers": workers, "runs a second": round(runs / (times[-1] - times[0])),
            "first after, s": round(times[0] - began, 1)}


@click.command()
@click.argument("way", type=click.Choice(["pool", "folder", "dask", "pace", "one"]))
@click.option("--runs", default=2000)
@click.option("--workers", default=4)
@click.option("--seed", default=0)
@click.option("--every", default=6.0, help="Seconds between two kills.")
@click.option("--folder", type=click.Path(path_type=Path))
@click.option("--scheduler", default="")
def main(way, runs, workers, seed, every, folder, scheduler):
    if way == "one":
        train(folder, runs, workers, scheduler)
    elif way == "pace":
        for way, count in itertools.product(("pool", "folder", "dask"), (1, 2, 4)):
            with tempfile.TemporaryDirectory(prefix="pace-") as name:
                os.environ["SEQLIB_RUNS"] = f"{name}/runs"
                print(json.dumps(pace(Path(name), way, runs, count)), flush=True)
    else:
        with tempfile.TemporaryDirectory(prefix="soak-") as name:
            print(json.dumps(soak(Path(name), way, runs, workers, seed, every)))


if __name__ == "__main__":
    main()
