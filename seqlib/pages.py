"""Execute notebooks into book pages with papermill: one subprocess each, only what has changed, never a half page.

A page's inputs are its notebook, profile and parameters, the package's code, and the archive. Their digest stands
beside the page; while it is the same, the page is not executed again. A failed run leaves the previous page in place.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import yaml
from filelock import FileLock
from tqdm import tqdm

from seqlib import ledger, study
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import digest
from seqlib.store import ROOT, Store, scratch, write_atomically
from seqlib.sweep import cores

LEDGER = "claims"  # the page of all verdicts; it has no parameters of its own


@dataclass(frozen=True)
class Page:
    """A notebook, the parameters it gets, and the page it becomes."""

    name: str
    values: dict

    @property
    def notebook(self) -> Path:
        return ROOT / "notebooks" / f"{self.name}.ipynb"

    @property
    def output(self) -> Path:
        return ROOT / "book" / ("claims.ipynb" if self.name == LEDGER else f"studies/{self.name}.ipynb")

    @property
    def stamp(self) -> Path:
        return self.output.with_name(f".{self.name}.inputs")

    def inputs(self) -> str:
        """Digest of all that the page depends on."""
        package = Path(__file__).parent
        sources = [self.notebook, *sorted(package.rglob("*.py")), *sorted(package.rglob("*.yaml"))]
        archive = Store.archive().root
        records = sorted(archive.glob("*/*.json" if self.name == LEDGER else f"{self.name}/*.json"))
        hashes = [(str(path.name), hashlib.sha256(path.read_bytes()).hexdigest()) for path in [*sources, *records]]
        return digest([self.values, hashes])

    def fresh(self) -> bool:
        return self.output.exists() and self.stamp.exists() and self.stamp.read_text() == self.inputs()


def plan(names: list[str], profile: str, settings: list[str]) -> list[Page]:
    """Pages to make, all parameters validated. `settings` are NAME=VALUE, VALUE in YAML. Raises UsageError."""
    overrides = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set wants NAME=VALUE, got {text!r}; for example --set seeds=3")
        if name.strip() == "profile":
            raise UsageError("--set profile: use --profile")
        overrides[name.strip()] = _value(name, value)
    studies = [study.get(name) for name in names or study.NAMES]
    values = [s.parameters(profile, **overrides).model_dump(mode="json") for s in studies]
    pages = [Page(s.name, v) for s, v in zip(studies, values)]
    missing = [page.notebook for page in pages if not page.notebook.exists()]
    if missing:
        raise UsageError(f"no notebook {missing[0]}; run from a source checkout, or set SEQLIB_ROOT to one")
    return pages


def _value(name: str, text: str):
    """A parameter's value in YAML, with numbers such as 1e-3 as Python and JSON know them (YAML 1.1 takes them for text)."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"--set {name}: {text!r} is not a YAML value") from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    return value


def run(pages: list[Page], workers: int = 1, timeout: float = 3600, quiet: bool = False) -> list[Page]:
    """Execute the stale ones of `pages`, then the ledger if it is stale, then write the front page's answer table.

    Returns what was executed. Raises SeqlibError that names every page that failed, after all have been tried.
    """
    done, failures = [], []
    threads = max(1, cores() // max(1, workers))
    for batch in (pages, [Page(LEDGER, {})]):
        stale = [page for page in batch if not page.fresh()]
        with ThreadPoolExecutor(max(1, workers)) as executor, tqdm(total=len(stale), desc="pages", unit="page",
                                                                   disable=quiet or not stale) as bar:
            running: set[subprocess.Popen] = set()
            futures = {executor.submit(execute, page, threads, timeout, running): page for page in stale}
            try:
                for future in as_completed(futures):
                    try:
                        future.result()
                        done.append(futures[future])
                    except SeqlibError as error:
                        failures.append(str(error))
                    bar.update()
            except KeyboardInterrupt:
                executor.shutdown(wait=False, cancel_futures=True)
                for process in list(running):
                    _end(process)
                raise
    answer = ROOT / "book" / "answer.md"
    if done or not answer.exists():
        write_atomically(answer, ledger.answer_table().encode())
    if failures:
        raise SeqlibError("\n".join(failures))
    return done


def execute(page: Page, threads: int, timeout: float, running: set[subprocess.Popen]) -> None:
    """Run one notebook in a subprocess, which stands in `running` while it lives; move it into place when every cell has
    succeeded. Two runs never work on one page at once."""
    page.output.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(page.output.with_name(f".{page.name}.lock")):
        if not page.fresh():  # another run may have made it meanwhile
            _execute(page, threads, timeout, running)


def _execute(page: Page, threads: int, timeout: float, running: set[subprocess.Popen]) -> None:
    inputs = page.inputs()
    work = scratch() / "pages" / f"{page.name}.ipynb"
    write_atomically(work.with_suffix(".yaml"), yaml.safe_dump(page.values).encode())
    work.unlink(missing_ok=True)
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_DISABLE": "1",
                   **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))}
    command = [sys.executable, "-m", "papermill", str(page.notebook), str(work), "-f", str(work.with_suffix(".yaml")),
               "--kernel", "python3", "--no-progress-bar", "--cwd", str(ROOT)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               start_new_session=True)
    running.add(process)
    try:
        _, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise SeqlibError(f"page {page.name}: no result after {timeout:g} s, stopped{_failing_cell(work)}\n"
                          "the previous page is unchanged; raise --timeout or choose a smaller profile") from None
    finally:
        _end(process)
        running.discard(process)
    problem = _problem(work, process.returncode)
    if problem:
        last = [line for line in (stderr or "").splitlines() if line.strip()][-1:]
        cell = _failing_cell(work)
        told = "" if last and last[0] in cell else "\n" + "".join(last)
        raise SeqlibError(f"page {page.name}: {problem}{cell}{told}\n"
                          f"the previous page is unchanged; the failed notebook is {work}")
    notebook = nbformat.read(work, 4)
    for cell in notebook.cells:  # the page folds away the values that papermill put in
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
    write_atomically(page.output, nbformat.writes(notebook).encode())
    write_atomically(page.stamp, inputs.encode())


def _end(process: subprocess.Popen) -> None:
    """End papermill and its kernel, which has a process group of its own, whatever state they are in."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _problem(work: Path, code: int) -> str | None:
    """Trust the exit code and the outputs: papermill marks the cells of a dead kernel as completed."""
    if code != 0:
        return f"papermill ended with exit code {code}"
    cells = [c for c in nbformat.read(work, 4).cells if c.cell_type == "code" and c.source.strip()]
    if any(output.output_type == "error" for cell in cells for output in cell.outputs):
        return "a cell raised an error"
    return None if all(cell.execution_count for cell in cells) else "a cell was not executed"


def _failing_cell(work: Path) -> str:
    """The source of the cell that failed or was running, to print."""
    if not work.exists():
        return "; the notebook did not start"
    try:
        cells = [c for c in nbformat.read(work, 4).cells if c.cell_type == "code" and c.source.strip()
                 and "injected-parameters" not in c.metadata.get("tags", [])]  # the source notebook's own numbering
    except (json.JSONDecodeError, nbformat.reader.NotJSONError):
        return ""
    raised = [(cell, output) for cell in cells for output in cell.outputs if output.output_type == "error"]
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    if not raised and not started:
        return ""
    cell = raised[0][0] if raised else started[-1]  # a dead or stopped kernel leaves no error: it was in the last one
    error = f"\n{raised[0][1].ename}: {raised[0][1].evalue}" if raised else ""
    return f" in code cell {cells.index(cell) + 1}:\n{cell.source}{error}"
