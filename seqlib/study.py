"""The kit that a study is made with: its settings and one function that trains a run; the rest is done here.

    @study(AddingSpec, arms=ARMS, build=build)
    def run(spec, model, run): ...

`Run` owns the clock, peak memory, random streams, checkpoints, the place of the weights, and the check that every figure is
finite; a `Record` comes of what the function returns. Studies are the packages in `seqlib/studies`.
"""

import hashlib
import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqlib import accepted, code
from seqlib.errors import SeqlibError, nearest
from seqlib.record import Record, Spec, digest
from seqlib.store import scratch

if TYPE_CHECKING:
    import torch

    from seqlib.training import Checkpoint

REGISTERED: dict[str, "Study"] = {}
FOLDER = Path(str(files("seqlib"))) / "studies"


def names() -> list[str]:
    """All studies, in the order of the book (their `ORDER`, then by name)."""
    found = [module.name for module in pkgutil.iter_modules([str(FOLDER)]) if (FOLDER / module.name / "plan.yaml").exists()]
    order = ["airline", "shakespeare", "attention_search", "ernie", "gpt2"]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def folder(name: str) -> Path:
    """Where a study's code, plan and claims lie. Raises UsageError on an unknown study."""
    if name not in names():
        raise nearest("study", name, names())
    return FOLDER / name


def get(name: str) -> "Study":
    """A study by name. Raises UsageError where there is none."""
    if name not in REGISTERED:
        folder(name)
        importlib.import_module(f"seqlib.studies.{name}")
    if name not in REGISTERED:
        raise SeqlibError(f"seqlib/studies/{name} has no function under @study; see book/extend.md")
    return REGISTERED[name]


def study(spec: type[Spec], *, arms: Mapping[str, Any], build: Callable[[Any], Any] | None = None,
          group: Callable[[list], list[list]] | None = None, data: Callable[[list], Iterable[str]] = lambda specs: (),
          count: Callable[[str], dict[str, int]] | None = None, label: Callable[[dict], str] = lambda spec: spec["arm"],
          prepare: Callable[[Any], None] | None = None, alone: Callable[[Any], int] = lambda spec: 0) -> Callable:
    """Make a study of the function below it; the study bears its package's name.

    spec: settings of a run. arms: every arm by name, as data (a frozen dataclass, a tuple, a class): it is part of the
    identity of the arm's runs. build: a model from a spec, drawn from torch's global generator, which the seed has set; the
    function is then called with (spec, model, run), else with (spec, run). group: puts specs together that train as one; the
    function is then called with (specs, run) and returns a list of results. data: names of the data sets of some specs.
    count: trainable and total parameters of an arm, default those of what `build` makes. label: a finer name than the arm's.
    prepare: called with a spec before its process starts. alone: threads of a process of its own for a spec, 0 for none.

    The function returns metrics {name: number}, or metrics and curves {name: list}.
    """
    def register(function: Callable) -> Callable:
        name = function.__module__.split(".")[2]
        roots = tuple((f.__module__, f.__qualname__) for f in (function, build) if f is not None)
        REGISTERED[name] = Study(name, spec, function, arms, build, group, data, count, label, prepare, alone, roots)
        return function

    return register


@dataclass(frozen=True)
class Study:
    """A registered study; see `study` for the fields."""

    name: str
    spec: type[Spec]
    function: Callable
    arms: Mapping[str, Any]
    build: Callable | None
    group: Callable[[list], list[list]] | None
    data: Callable[[list], Iterable[str]]
    count: Callable[[str], dict[str, int]] | None
    label: Callable[[dict], str]
    prepare: Callable | None
    alone: Callable[[Any], int]
    roots: tuple[tuple[str, str], ...]

    def groups(self, specs: list[Spec]) -> list[list[Spec]]:
        """Specs that train as one."""
        return self.group(specs) if self.group else [[spec] for spec in specs]

    def train(self, specs: list[Spec]) -> list[Record]:
        """Train one group; its records in the order of the specs. Raises SeqlibError when a figure is not finite."""
        if self.prepare:
            self.prepare(specs[0])
        threads = self.alone(specs[0])
        if not threads:
            return _train(self.name, specs)
        from seqlib.training import in_own_process  # torch is slow to import, and most commands need none

        what = f"{self.name}/{specs[0].arm} seed {specs[0].seed}"
        return in_own_process(_train, self.name, specs, threads=threads, what=what)

    def parameters(self, arms: Iterable[str] = ()) -> dict[str, dict[str, int]]:
        """Trainable and total parameters by arm, of all arms where none is named."""
        return {arm: self.count(arm) if self.count else count_parameters(lambda arm=arm: self.build(self.spec(arm=arm)))
                for arm in arms or self.arms}

    def fingerprint(self, arm: str) -> str:
        """sha256 of the code that trains an arm, and of what the arm is."""
        return code.fingerprint(self, arm)

    def current(self, record: Record) -> bool:
        """Whether today's code would make this record: it did, or it was shown to (`seqlib verify --accept`)."""
        arm = record.spec["arm"]
        known = accepted.equivalents(self.name, arm, record.provenance["code_hash"])
        return self.fingerprint(arm) in known


def _train(name: str, specs: list[Spec]) -> list[Record]:
    """Train one group in this process."""
    import torch

    from seqlib.provenance import peak_rss_mb, provenance

    own = get(name)
    run = Run(own, specs)
    began, clock = time.time(), time.perf_counter()
    try:
        if own.group:
            results = own.function(specs, run)
        elif own.build:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(run.spec.seed)
                results = [own.function(run.spec, own.build(run.spec), run)]
        else:
            results = [own.function(run.spec, run)]
    except FloatingPointError as error:
        hint = f"; lower lr ({specs[0].lr})" if hasattr(specs[0], "lr") else ""
        raise SeqlibError(f"{name}/{specs[0].arm} seed {specs[0].seed}: {error}{hint}") from error
    wall = time.perf_counter() - clock
    run.forget()
    source = provenance(own.fingerprint(specs[0].arm), started_unix=round(began), wall_seconds=round(wall, 3),
                        resumed=run.resumed, **{"data_sha256": "", **run.facts})
    if own.group:
        source["seeds_at_once"] = len(specs)
    records = []
    for spec, result in zip(specs, results):
        metrics, curves = result if isinstance(result, tuple) else (result, {})
        timed = {} if run.resumed else {"seconds": wall / len(specs)}  # a resumed run has seen its last part alone
        metrics = {**timed, "peak_rss_mb": peak_rss_mb(), **metrics}
        record = Record.of(spec, metrics, {**run.curves, **curves}, source)
        check_finite(record)
        records.append(record)
    return records


def check_finite(record: Record) -> None:
    """Raises SeqlibError where a metric or a training loss is not finite."""
    lost = [name for name, value in record.metrics.items() if value is None]
    lost += [name for name, values in record.curves.items() if name.startswith("train_loss") and None in values]
    if lost:
        spec = record.spec
        hint = f" ({spec['lr']})" if "lr" in spec else ""
        raise SeqlibError(f"{spec['study']}/{spec['arm']} seed {spec['seed']}: {lost[0]} is not finite, so no record was written; "
                          f"lower the learning rate{hint}")


@dataclass
class Run:
    """One run under way, or a group that trains as one. `curves` are added to those that the study returns, `facts` to the
    provenance: `data_sha256` and `data` name the text or series that was trained on."""

    study: Study
    specs: list[Spec]
    curves: dict[str, list] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    resumed: bool = False
    every: int = 100  # steps between two checkpoints of `steps`
    _checkpoints: list["Checkpoint"] = field(default_factory=list)
    _loss: float = math.nan

    @property
    def spec(self) -> Spec:
        return self.specs[0]

    def rng(self, *streams: str | int) -> "torch.Generator":
        """A generator of its own for every stream ("train", step) of the seed, whatever was drawn before."""
        import torch

        text = repr((self.spec.seed, *streams)).encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))

    def checkpoint(self, part: str = "") -> "Checkpoint":
        """Where a resumable training keeps its state: bound to the settings and to the code that writes it."""
        from seqlib.training import Checkpoint

        bound = [part, self.study.fingerprint(self.spec.arm), [spec.key for spec in self.specs]]
        kept = Checkpoint(scratch() / "checkpoints" / f"{self.study.name}-{digest(bound)[:32]}.safetensors")
        self._checkpoints.append(kept)
        return kept

    def resume(self, checkpoint: "Checkpoint") -> dict[str, "torch.Tensor"] | None:
        """The tensors of a sound checkpoint, None where there is none; the record will say that the run was resumed."""
        saved = checkpoint.load()
        self.resumed |= saved is not None
        return saved

    def forget(self) -> None:
        """Delete the checkpoints of a finished run."""
        for checkpoint in self._checkpoints:
            checkpoint.delete()

    def weights(self, spec: Spec | None = None) -> Path:
        """Path, without ending, of the trained weights in scratch."""
        return weights(spec or self.spec)

    def steps(self, total: int, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> Iterator[int]:
        """Numbers of the steps to train, those after a checkpoint where there is one; writes one every `every` steps."""
        from seqlib.training import pack, unpack

        checkpoint, parameters = self.checkpoint("steps"), dict(model.named_parameters())
        saved, first = self.resume(checkpoint), 0
        losses = self.curves.setdefault("train_loss", [])
        if saved is not None:
            curves, numbers = unpack(saved, parameters, optimizer)
            losses[:], first = curves["train_loss"], int(numbers["step"])
        for step in range(first, total):
            yield step
            losses.append(self._loss)
            if (step + 1) % self.every == 0 and step + 1 < total:
                checkpoint.save(pack(parameters, optimizer, {"train_loss": losses}, step=step + 1))

    def step(self, optimizer: "torch.optim.Optimizer", loss: "torch.Tensor") -> None:
        """One step of gradient descent; the loss goes into the curve. Raises FloatingPointError when it is not finite."""
        self._loss = float(loss.detach())
        if not math.isfinite(self._loss):
            raise FloatingPointError(f"training loss is {self._loss} at step {len(self.curves['train_loss']) + 1}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def weights(spec: Spec) -> Path:
    """Path, without ending, of the weights that a run leaves in scratch."""
    return scratch() / "weights" / f"{spec.study}-{spec.key}"


def count_parameters(build: Callable[[], "torch.nn.Module"]) -> dict[str, int]:
    """Trainable and total parameters of a model; torch's global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        sizes = [(p.numel(), p.requires_grad) for p in build().parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


def initial(build: Callable[[], Any], seed: int) -> Any:
    """A model whose weights depend on the seed alone; torch's global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
