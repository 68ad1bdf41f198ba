import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // workers)))


# What takes longest begins first, or one process works on it alone at the end.
LONG = ("test_book", "test_notebooks", "test_sweep", "test_pages", "test_site", "test_shakespeare",
        "test_code", "test_lab", "test_verify")


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def runs(tmp_path_factory, worker_id):
    """A scratch store of all tests that execute the studies' notebooks: each run is trained once,
    by whichever comes first."""
    folder = tmp_path_factory.getbasetemp()
    return (folder if worker_id == "master" else folder.parent) / "runs"


@pytest.fixture(autouse=True)
def own_stores(monkeypatch, tmp_path):
    """No test touches the project's stores."""
    monkeypatch.setenv("SEQLIB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SEQLIB_RESULTS", str(tmp_path / "results"))


@pytest.fixture(autouse=True)
def own_log():
    """A command called in this process shows its log on an output that ends with its test."""
    logger = logging.getLogger("seqlib")
    before = logger.handlers[:], logger.level
    yield
    logger.handlers[:], level = before
    logger.setLevel(level)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "checkout")


class Checkout:
    """A copy of the project's notebooks and book in a folder of its own, and `seqlib` run there."""

    def __init__(self, root: Path):
        self.root = root
        generated = shutil.ignore_patterns("studies", "*.ipynb", "answer.md", ".*.lock",
                                           ".*.inputs")
        shutil.copytree(ROOT / "book", root / "book", ignore=generated)
        shutil.copytree(ROOT / "notebooks", root / "notebooks")
        (root / "seqlib").symlink_to(ROOT / "seqlib")  # a kernel's folder is in its path
        for name in ("_config.yml", "_toc.yml", "README.md", "CITATION.cff"):
            shutil.copy(ROOT / name, root / name)
        for name in ("results", "examples"):
            (root / name).symlink_to(ROOT / name)

    def environment(self, **more):
        names = {"SEQLIB_ROOT": self.root, "SEQLIB_RUNS": self.root / "runs",
                 "SEQLIB_RESULTS": self.root / "results"}
        return {**os.environ, **{k: str(v) for k, v in {**names, **more}.items()}}

    def start(self, *arguments, limit=None, nohup=False, **more):
        """A `seqlib` process as a terminal starts it, whatever this one was told to ignore, or
        under `nohup`; `limit` is the largest file, in bytes, that the system lets it write."""
        def prepare():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            if nohup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            if limit:
                import resource  # not on Windows

                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.Popen([sys.executable, "-m", "seqlib", *arguments], preexec_fn=prepare,
                                env=self.environment(**more), text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def seqlib(self, *arguments, **more):
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=1500)
        return process.returncode, out, err

    def records(self):
        return sorted((self.root / "runs" / "records" / "airline").glob("*.json"))
