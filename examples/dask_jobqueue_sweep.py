"""Runs of a study on the workers that a queue gives, as many as there is work for.

    pip install dask-jobqueue
    python examples/dask_jobqueue_sweep.py airline live
"""

import os
import sys

from dask_jobqueue import SLURMCluster
from distributed import Client

import seqlib

WORKER = {  # one run at a time, in a process that may start one of its own
    "cores": 1,
    "processes": 1,
    "memory": "10GB",
    "walltime": "04:00:00",
    "job_script_prologue": [
        "export DASK_DISTRIBUTED__WORKER__DAEMON=False",
        f"export SEQLIB_RUNS={os.path.abspath(os.environ.get('SEQLIB_RUNS', '.runs'))}",
    ],
}


def main(study: str, experiment: str) -> None:
    with SLURMCluster(**WORKER) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=1, maximum=32)
        runs = seqlib.train(study, experiment, client=client)
    print(runs[["arm", "seed", "key"]].to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
