"""Execute notebooks into pages of the book with papermill: each in a process of its own, only what
has changed, never half a page.

A page's inputs are its notebook and parameters, the package's code, the archive, the installed
packages and where data come from. Their digest stands in the page; while it is the same, the page
is not executed again. What they were, one by one, is in a file beside it. A run that fails leaves
the previous page in place.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock
from nbformat import NotebookNode
from tqdm import tqdm

from seqlib import devices, ledger, yamls
from seqlib import plan as plans
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError, nearest
from seqlib.processes import cores, kill_children
from seqlib.record import digest
from seqlib.store import ROOT, Store, scratch, write_atomically

LEDGER = "claims"  # the page of all verdicts
OTHERS = {LEDGER: "*/*.json", "speed": "speed.json"}  # pages of no study, and what they read
PROFILES = ("quick", "smoke")
LISTED = 8  # files that `why` names of those that have changed
PAPERMILL = """
import json, os, sys, threading

def end_with_parent():
    sys.stdin.read()  # ends when the process that started this one has ended, in whatever way
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
import papermill
papermill.execute_notebook(**json.loads(sys.argv[1]), kernel_name="python3", progress_bar=False)
"""


@dataclass(frozen=True)
class Page:
    """A notebook, the parameters that it gets, and the page that it becomes: one of the book, or,
    as it was executed, a file in `folder`."""

    name: str
    values: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def notebook(self) -> Path:
        return ROOT / "notebooks" / f"{self.name}.ipynb"

    @property
    def output(self) -> Path:
        book = ROOT / "book" if self.name in OTHERS else ROOT / "book" / "studies"
        return (self.folder or book) / f"{self.name}.ipynb"

    @property
    def made_of(self) -> Path:
        """Where it is kept what the page of the book was made of, one by one."""
        return self.output.with_name(f".{self.name}.inputs")

    def inputs(self) -> dict[str, Any]:
        """All that the page depends on: hashes of files by name, and values. The page has their
        digest, and the file beside it what they were, for `seqlib run --why`."""
        package, archive = Path(__file__).parent, Store.archive().root
        code = [path for end in ("py", "yaml", "csv") for path in package.rglob(f"*.{end}")]
        records = archive.glob(OTHERS.get(self.name, f"{self.name}/*.json"))
        values = own_values(self.notebook) | self.values
        files = [path for value in values.values()
                 if isinstance(value, str) and (path := Path(value)).is_file()]
        data = os.environ.get("SEQLIB_DATA", "")
        return {"notebook": _hashes([self.notebook], self.notebook.parent),
                "parameter": self.values, "code": _hashes(code, package.parent),
                "record": _hashes(records, archive), "file": _hashes(files),
                "package": versions(),
                "data": {"SEQLIB_DATA": data and str(Path(data).resolve())}}

    def stamp(self) -> str | None:
        """The digest of the inputs that the page in the book was made of; None without a page."""
        if self.folder or not self.output.exists():
            return None
        return nbformat.read(self.output, 4).metadata.get("seqlib", {}).get("inputs", "")

    def fresh(self) -> bool:
        """Whether the page stands in the book, made of today's inputs."""
        stamp = self.stamp()
        return stamp is not None and stamp == digest(self.inputs())

    def why(self) -> list[str]:
        """What has changed since the page was made, a line a kind of input; empty where nothing
        has. Nothing is executed."""
        stamp, now = self.stamp(), self.inputs()
        if stamp is None:
            return ["never made" if self.folder is None else "an --output is made each time"]
        if stamp == digest(now):
            return []
        try:
            before = json.loads(self.made_of.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if digest(before) != stamp:  # of an older seqlib, or copied without it
            return [f"changed, but not known in what: {self.made_of.name} beside the page is "
                    "missing or of another page"]
        changes = [_change(kind, before.get(kind, {}), now[kind]) for kind in now]
        return [change for change in changes if change]


def _hashes(paths: Iterable[Path], root: Path | None = None) -> dict[str, str]:
    """Of each file its sha256, shortened, by its path below `root`."""
    return {(path.relative_to(root) if root else path).as_posix():
            hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(paths)}


def _change(kind: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """How one kind of input differs, in a line: files by name, records by number, and other things
    with what they were and are. Empty where it does not."""
    new, gone = now.keys() - before.keys(), before.keys() - now.keys()
    changed = {name for name in now.keys() & before.keys() if now[name] != before[name]}
    if not (new or gone or changed):
        return ""
    if kind == "record":
        return f"records: {len(new)} new, {len(changed)} changed, {len(gone)} gone"
    lines = []
    for name in sorted(new | gone | changed):
        if kind in ("notebook", "code", "file"):
            lines.append(name + (" (new)" if name in new else " (gone)" if name in gone else ""))
        else:
            was, is_now = (side.get(name) or "not set" for side in (before, now))
            lines.append(f"{name} {was} -> {is_now}")
    more = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return f"{kind}: {', '.join(lines[:LISTED] + more)}"


def versions() -> dict[str, str]:
    """Installed versions of Python and of the packages that this one needs."""
    found = {"python": platform.python_version()}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for line in importlib.metadata.requires("seqlib") or ():
            name = re.match(r"[\w.-]+", line)[0]
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


def own_values(notebook: Path) -> dict[str, Any]:
    """A notebook's parameters, each with the value that the notebook gives it."""
    import papermill  # takes a second to import

    def value(text: str) -> Any:
        with contextlib.suppress(ValueError, SyntaxError):  # computed
            return ast.literal_eval(text)

    found = papermill.inspect_notebook(str(notebook))
    return {name: value(parameter["default"]) for name, parameter in found.items()}


def plan(names: list[str], profile: str, settings: list[str],
         output: str | None = None) -> list[Page]:
    """Pages to make, every parameter checked. `settings` are NAME=VALUE, `output` is a folder other
    than the book. Raises UsageError on an unknown study, profile or parameter, or a wrong value."""
    if profile == "full":
        raise UsageError("there is no profile full: a notebook trains a live run alone, and "
                         "`seqlib sweep STUDY` fills the archive")
    if profile not in PROFILES:
        raise nearest("profile", profile, PROFILES)
    changed, pages = dict(map(parse_setting, settings)), []
    for name in names or studies.names():
        studies.folder(name)  # raises where there is no such study
        page = Page(name)
        if not page.notebook.exists():
            raise UsageError(f"no notebook {page.notebook}; run from a source checkout, or set "
                             "SEQLIB_ROOT to one")
        known = own_values(page.notebook)
        for parameter in changed:
            if parameter not in known:
                raise nearest(f"parameter of {name}", parameter, known)
        plans.check_parameters(name, changed)
        values = (smoke(name, known) if profile == "smoke" else {}) | changed
        if "device" in known and os.environ.get(devices.VARIABLE):
            values = {"device": devices.kind("auto")} | values
        pages.append(Page(name, values, Path(output).absolute() if output else None))
    return pages


def smoke(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """Parameters with which a study's notebook runs within seconds, from the study's plan."""
    grid = dict(plans.grids(name, "smoke")[0])
    if isinstance(grid.get("arm"), str):
        grid["arm"] = [grid["arm"]]
    if isinstance(grid.get("seed"), list):
        grid["seed"] = len(grid["seed"])
    named = {{"arm": "arms", "seed": "seeds"}.get(key, key): value for key, value in grid.items()}
    return {key: value[0] if isinstance(value, list) and key != "arms" else value
            for key, value in named.items() if key in known}


def parse_setting(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` as name and value, which `yamls.value` reads."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name:
        raise UsageError(f"--set wants NAME=VALUE, got {text!r}; for example --set seeds=3")
    found = yamls.value(value, f"--set {name}")
    if isinstance(found, str) and found and (name.endswith("_path") or os.sep in found):
        path = Path(found).expanduser()  # of where the command runs; a kernel has another folder
        found = str(path.absolute()) if path.exists() else found
    return name, found


class Running:
    """The processes that execute notebooks now. Once they have been ended, none starts any more."""

    def __init__(self):
        self.processes: set[subprocess.Popen] = set()
        self.cells: dict[str, int] = {}  # executed so far, by page
        self.ended = False
        self._lock = threading.Lock()

    def start(self, command: list[str], environment: dict[str, str], errors: Path):
        with self._lock, open(errors, "w") as stderr:
            if self.ended:
                raise SeqlibError("interrupted")
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=stderr, start_new_session=True)
            self.processes.add(process)
        return process

    def end(self) -> None:
        with self._lock:
            self.ended = True
            for process in list(self.processes):
                _end(process)


def run(pages: list[Page], workers: int = 1, timeout: float = 3600,
        quiet: bool = False, force: bool = False) -> list[Page]:
    """Execute the stale ones of `pages`, with `force` all. Where they are the book's, the page of
    all verdicts is one of them, and the front page's table is written.

    Returns what was executed. Raises SeqlibError that names every page that failed, after all have
    been tried."""
    done, failures, running = [], [], Running()
    threads = max(1, cores() // max(1, workers))
    of_book = not any(page.folder for page in pages)
    stale = [page for page in with_others(pages) if force or not page.fresh()]
    with (ThreadPoolExecutor(max(1, workers)) as executor,
          tqdm(total=sum(len(_code_cells(page.notebook)) for page in stale), desc="pages",
               unit="cell", disable=quiet or not stale) as bar):
        futures = {executor.submit(execute, page, threads, timeout, running, force): page
                   for page in stale}
        waiting = set(futures)
        try:
            while waiting:
                ended, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                # by this thread alone: another one that a signal finds drawing keeps tqdm's lock,
                # and closing the bar waits for it for ever
                bar.update(sum(running.cells.get(page.name, 0) for page in stale) - bar.n)
                for future in ended:
                    try:
                        future.result()
                        done.append(futures[future])
                    except SeqlibError as error:
                        failures.append(str(error))
        except BaseException:  # Ctrl-C, or a signal
            executor.shutdown(wait=False, cancel_futures=True)
            running.end()
            raise
    answer = ROOT / "book" / "answer.md"
    if of_book and (done or not answer.exists()):
        write_atomically(answer, ledger.answer_table().encode())
    if failures:
        raise SeqlibError("\n".join(failures))
    return done


def with_others(pages: list[Page]) -> list[Page]:
    """Pages, and where they are the book's those of no study."""
    return pages if any(page.folder for page in pages) else [*pages, *map(Page, OTHERS)]


def execute(page: Page, threads: int, timeout: float, running: Running, force: bool) -> None:
    """Run one notebook in a process of its own; move it into place when every cell has succeeded.
    Two runs never work on one page of the book at once."""
    page.output.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(page.output.with_name(f".{page.name}.lock"))
    with contextlib.nullcontext() if page.folder else lock:
        if force or not page.fresh():  # another run may have made it meanwhile
            _execute(page, threads, timeout, running)


def _execute(page: Page, threads: int, timeout: float, running: Running) -> None:
    inputs, parent = page.inputs(), scratch() / "pages"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{page.name}-{os.getpid()}-", dir=parent))
    work, errors = folder / f"{page.name}.ipynb", folder / "errors.txt"
    limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "TQDM_DISABLE": "1",
                   "PYDEVD_DISABLE_FILE_VALIDATION": "1", **dict.fromkeys(limits, str(threads)),
                   "PYTHONSTARTUP": "", "IPYTHONDIR": str(folder / "ipython")}  # none of the user's
    given = {"input_path": str(page.notebook), "output_path": str(work),
             "parameters": page.values, "cwd": str(ROOT)}
    command = [sys.executable, "-c", PAPERMILL, json.dumps(given)]
    process, late = running.start(command, environment, errors), False
    until = time.monotonic() + timeout
    try:
        while process.poll() is None and not late:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(2.0, max(0.0, until - time.monotonic())))
            running.cells[page.name] = _cells_done(work) or running.cells.get(page.name, 0)
            late = process.poll() is None and time.monotonic() >= until
    finally:
        _end(process)
        running.processes.discard(process)
    if running.ended:
        shutil.rmtree(folder, ignore_errors=True)
        raise SeqlibError("interrupted")
    kept = f"\nthe previous page is unchanged; the notebook as far as it came is {work}"
    if late:
        raise SeqlibError(f"page {page.name}: no result after {timeout:g} s, stopped"
                          f"{_failing_cell(work)}{kept}; raise --timeout, or train less")
    problem = _problem(work, process.returncode)
    if problem:
        cell = _failing_cell(work)
        last = [line for line in errors.read_text().splitlines() if line.strip()][-1:]
        reason = "\n" + last[0] if last and last[0] not in cell else ""
        raise SeqlibError(f"page {page.name}: {problem}{cell}{reason}{kept}")
    notebook = nbformat.read(work, 4)
    if not page.folder:
        notebook = as_page(notebook)
        notebook.metadata["seqlib"] = {"inputs": digest(inputs)}
        write_atomically(page.made_of, json.dumps(inputs, ensure_ascii=False).encode())
    write_atomically(page.output, nbformat.writes(notebook).encode())
    shutil.rmtree(folder, ignore_errors=True)


def as_page(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook as the book shows it: the values that papermill put in folded away,
    links to claims lead to their page, and every figure a cell of its own, which the book numbers
    and gives its caption and anchor."""
    cells = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/html" in data:
                data["text/html"] = data["text/html"].replace(
                    f"{LEDGER}.ipynb#", f"../{LEDGER}.html#")
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata.tags.append("hide-input")
        cells += _parted(cell) if cell.cell_type == "code" else [cell]
    notebook.cells = cells
    return notebook


def _parted(cell: NotebookNode) -> list[NotebookNode]:
    """A code cell, followed by a cell without code for each further part of its outputs: a figure
    is one part, outputs between figures are one."""
    parts: list[tuple[str, list[NotebookNode]]] = [("", [])]
    captions, links = {}, {}
    for output in cell.outputs:
        marks = output.get("metadata", {})
        mine = marks.get("seqlib", {})
        if "caption" in mine:
            captions[mine["caption"]] = output.data["text/markdown"]
        elif "data" in mine:
            links[mine["data"]] = output.data["text/html"]
        elif name := marks.get("image/svg+xml", {}).get("name"):
            parts.append((name, [output]))
        elif parts[-1][0]:
            parts.append(("", [output]))
        else:
            parts[-1][1].append(output)
    parts = [part for part in parts if part[1]] or [("", [])]
    cells = []
    for i, (name, outputs) in enumerate(parts):
        own = cell if i == 0 else nbformat.v4.new_code_cell(
            id=f"{cell.id}-{i}", execution_count=cell.execution_count,
            metadata={"tags": ["remove-input"]})
        own.outputs = outputs
        if name:
            figure = {"name": name, "caption": f"{captions.get(name, '')}\n\n{links.get(name, '')}"}
            alt = outputs[0].metadata["image/svg+xml"]["alt"]
            own.metadata["mystnb"] = {"image": {"alt": alt}, "figure": figure}
        cells.append(own)
    return cells


def _end(process: subprocess.Popen) -> None:
    """End papermill and its kernel, which has a process group of its own, whatever state they are
    in."""
    kill_children(process.pid)
    process.kill()
    process.wait()


def _problem(work: Path, code: int) -> str | None:
    """What went wrong: papermill marks the cells of a dead kernel as completed, so trust the exit
    code and the outputs."""
    if code != 0:
        return f"papermill ended with exit code {code}"
    cells = _code_cells(work)
    if any(output.output_type == "error" for cell in cells for output in cell.outputs):
        return "a cell raised an error"
    return None if all(cell.execution_count for cell in cells) else "a cell was not executed"


def _code_cells(work: Path) -> list[NotebookNode]:
    return [cell for cell in nbformat.read(work, 4).cells
            if cell.cell_type == "code" and cell.source.strip()]


def _cells_done(work: Path) -> int:
    """How many cells papermill has executed; it writes the notebook after each."""
    try:
        cells = json.loads(work.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):  # not there yet, or being written
        return 0
    found = [cell["metadata"].get("papermill", {}) for cell in cells if cell["cell_type"] == "code"
             and "injected-parameters" not in cell["metadata"].get("tags", [])]
    return sum(marks.get("status") == "completed" for marks in found)


def _failing_cell(work: Path) -> str:
    """The source of the cell that failed or was running, to print."""
    if not work.exists():
        return "; the notebook did not start"
    try:
        cells = [cell for cell in _code_cells(work)  # numbered as in the notebook itself
                 if "injected-parameters" not in cell.metadata.get("tags", [])]
    except (json.JSONDecodeError, nbformat.reader.NotJSONError):
        return ""
    raised = [(cell, output) for cell in cells for output in cell.outputs
              if output.output_type == "error"]
    started = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    if not raised and not started:
        return ""
    # a dead or stopped kernel leaves no error: it was in the cell that started last
    cell = raised[0][0] if raised else started[-1]
    error = f"\n{raised[0][1].ename}: {raised[0][1].evalue}" if raised else ""
    return f" in code cell {cells.index(cell) + 1}:\n{cell.source}{error}"
