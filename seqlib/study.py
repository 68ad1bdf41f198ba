"""The kit that a study is made with: its settings, and one function that trains a run.

    @study(AddingSpec, arms=ARMS, build=build)
    def run(spec, model, run): ...

The rest is done here. `Run` has the clock, random streams, checkpoints, the place of the weights,
and the check that every figure is finite; a `Record` comes of what the function returns. Studies
are the packages in `seqlib/studies`.
"""

import hashlib
import importlib
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

from seqlib import accepted, code, devices, logs
from seqlib.errors import SeqlibError, UsageError, first_line, nearest
from seqlib.record import Record, Spec, digest
from seqlib.store import scratch, studies_in

if TYPE_CHECKING:
    import torch

    from seqlib.training import Checkpoint

REGISTERED: dict[str, "Study"] = {}
FOLDER = Path(str(files("seqlib"))) / "studies"
FIRST = ("airline", "shakespeare", "attention_search", "ernie", "gpt2")  # as in the book


def names() -> list[str]:
    """All studies: those of the book in its order, then the others by name."""
    found = studies_in(FOLDER)
    return sorted(found, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def folder(name: str) -> Path:
    """Where a study's code, plan and claims lie. Raises UsageError on an unknown study."""
    if name not in names():
        raise nearest("study", name, names())
    return FOLDER / name


def get(name: str) -> "Study":
    """A study by name. Raises UsageError where there is none, SeqlibError where it is broken."""
    if name not in REGISTERED:
        folder(name)
        try:
            importlib.import_module(f"seqlib.studies.{name}")
        except SeqlibError:
            raise
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise SeqlibError(f"seqlib/studies/{name} cannot be imported: {first_line(error)} "
                              f"({at.filename}, line {at.lineno})") from error
    if name not in REGISTERED:
        raise SeqlibError(f"seqlib/studies/{name} has no function under @study; see book/extend.md")
    return REGISTERED[name]


def study(spec: type[Spec], *, arms: dict[str, Any], **options: Any) -> Callable:
    """Make a study of the function below it; the study bears its package's name.

    spec, arms, options: see `Study`. With `build` the function is called with (spec, model, run),
    with `group` with (specs, run), and returns a list of results; else with (spec, run). A result
    is metrics {name: number}, or metrics and curves {name: list}. Raises UsageError on a function
    outside of `seqlib/studies`, and on a spec of another study."""
    def register(function: Callable) -> Callable:
        module, named = function.__module__, spec.model_fields["study"].default
        if not module.startswith("seqlib.studies."):
            raise UsageError(f"@study: {module} is no package in seqlib/studies; `seqlib new NAME` "
                             "makes one")
        name = module.split(".")[2]
        if named != name:
            raise UsageError(f"{spec.__name__}.study is {named!r}, and its package {name!r}")
        given = (function, options.get("build"), options.get("group"))
        reached = [f for f in given if f is not None]
        roots = tuple((f.__module__, f.__qualname__) for f in reached)
        REGISTERED[name] = Study(name, spec, function, arms, roots, **options)
        return function

    return register


@dataclass(frozen=True)
class Study:
    """A registered study.

    spec: settings of a run. arms: every arm by name, as data (a frozen dataclass, a tuple, a
    class): it is part of the identity of the arm's runs. roots: where the search for the code
    that a run reaches begins.

    build: a model from a spec, drawn from torch's global generator, which the seed has set.
    group: puts specs together that train as one. data: names of the data sets of some specs.
    count: trainable and total parameters of an arm, by default those of what `build` makes.
    label: a finer name than the arm's. prepare: called with a spec before its process starts.
    alone: threads of a separate process for a spec, 0 for none. in_torch: whether it trains in
    torch, and no other framework."""

    name: str
    spec: type[Spec]
    function: Callable
    arms: dict[str, Any]
    roots: tuple[tuple[str, str], ...]
    build: Callable[[Any], Any] | None = None
    group: Callable[[list], list[list]] | None = None
    data: Callable[[list], Iterable[str]] = lambda specs: ()
    count: Callable[[str], dict[str, int]] | None = None
    label: Callable[[dict], str] = lambda spec: spec["arm"]
    prepare: Callable[[Any], None] | None = None
    alone: Callable[[Any], int] = lambda spec: 0
    in_torch: bool = True

    def groups(self, specs: list[Spec]) -> list[list[Spec]]:
        """Specs that train as one."""
        return self.group(specs) if self.group else [[spec] for spec in specs]

    def train(self, specs: list[Spec]) -> list[Record]:
        """Train one group; its records in the order of the specs.

        Raises SeqlibError when a run fails, and when its process dies."""
        records = self.outcomes(specs)
        for one in records:
            if isinstance(one, Failure):
                raise SeqlibError(one.error)
        return records

    def outcomes(self, specs: list[Spec]) -> list["Record | Failure"]:
        """As `train`, but of a run of which a figure is not finite its failure, so that those
        beside it are kept."""
        if self.prepare:
            self.prepare(specs[0])
        threads = self.alone(specs[0])
        if not threads:
            return _train(self.name, specs)
        from seqlib.training import in_own_process  # torch is slow to import

        return in_own_process(_train, self.name, specs, self.sent(specs), threads=threads,
                              what=title(specs[0]))

    def sent(self, specs: list[Spec]) -> dict[str, Any]:
        """The arms of some runs, for another process, which knows those of the study's files
        alone. Raises UsageError on one that only this process can have."""
        arms = {spec.arm: self.arms[spec.arm] for spec in specs}
        for name, arm in arms.items():
            if type(arm).__module__ == "__main__":
                raise UsageError(f"arm {name}: another process cannot see the class "
                                 f"{type(arm).__name__} of this notebook or script; define it in a "
                                 "module" + ("" if self.alone(specs[0]) else ", or train with "
                                             "workers=1"))
        return arms

    def parameters(self, arms: Iterable[str] = ()) -> dict[str, dict[str, int]]:
        """Trainable and total parameters by arm, of all arms where none is named."""
        def count(arm: str) -> dict[str, int]:
            return count_parameters(lambda: self.build(self.spec(arm=arm)))

        return {arm: (self.count or count)(arm) for arm in arms or self.arms}

    def fingerprint(self, arm: str) -> str:
        """sha256 of the code that trains an arm, and of what the arm is."""
        return code.fingerprint(self, arm)

    def current(self, record: Record) -> bool:
        """Whether today's code would make this record: it did, or `seqlib verify --accept` showed
        that it would."""
        arm = record.spec["arm"]
        known = accepted.equivalents(self.name, arm, record.provenance.get("code_hash", ""))
        return self.fingerprint(arm) in known


@dataclass(frozen=True)
class Failure:
    """A run that gave no record, and why; `cause` is the error that stopped it, where one did."""

    spec: Spec
    error: str
    cause: Exception | None = None


@logs.logged
def _train(name: str, specs: list[Spec], arms: Mapping[str, Any] | None = None) -> list:
    """Train one group in this process; a Record or a Failure for each spec.

    arms: what some arms are in the process that asks. Raises SeqlibError on a result that makes no
    record."""
    import torch

    from seqlib.provenance import peak_rss_mb, provenance

    kind = get(name)
    kind.arms.update(arms or {})
    run = Run(kind, specs)
    began, clock = time.time(), time.perf_counter()
    on_card = [run.device] if kind.in_torch and run.spec.device == "cuda" else []
    for card in on_card:
        torch.cuda.reset_peak_memory_stats(card)
    try:
        with torch.random.fork_rng(devices=on_card):
            if kind.group:
                results = kind.function(specs, run)
            elif kind.build:
                torch.manual_seed(run.spec.seed)
                model = kind.build(run.spec)  # on the processor: the same weights for any device
                results = [kind.function(run.spec, model.to(run.device), run)]
            else:
                results = [kind.function(run.spec, run)]
    except FloatingPointError as error:
        run.forget()  # or every further try would end at once
        return [Failure(spec, f"{title(spec)}: {error}{_remedy(spec)}") for spec in specs]
    wall = time.perf_counter() - clock
    run.forget()
    facts = {"data_sha256": "", **devices.facts(run.spec.device), **run.facts}
    if kind.group:
        facts["seeds_at_once"] = len(specs)
    source = provenance(kind.fingerprint(specs[0].arm), started_unix=round(began),
                        wall_seconds=round(wall, 3), resumed=run.resumed, **facts)
    # a resumed run has seen its last part alone, so that it has no time
    took = {} if run.resumed else {"seconds": wall / len(specs)}
    for card in on_card:
        took["peak_cuda_mb"] = torch.cuda.max_memory_allocated(card) / 2**20
    made = []
    for spec, result in zip(specs, results, strict=True):
        try:
            metrics, curves = result if isinstance(result, tuple) else (result, {})
            metrics = {**took, "peak_rss_mb": peak_rss_mb(), **metrics}
            record = Record.of(spec, metrics, {**run.curves, **curves}, source)
        except (TypeError, ValueError) as error:
            wanted = "metrics {name: number}, or them and curves {name: list}"
            raise SeqlibError(f"{title(spec)}: wants {wanted}, got {short(result)}") from error
        lost = _not_finite(record)
        made.append(Failure(spec, f"{title(spec)}: {lost} is not finite, so no record was written"
                                  f"{_remedy(spec)}") if lost else record)
    return made


def title(spec: Spec) -> str:
    """A run as errors name it."""
    return f"{spec.study}/{spec.arm} seed {spec.seed}"


def _remedy(spec: Spec) -> str:
    """What to do about a figure that is not finite."""
    return f"; lower the learning rate ({spec.lr})" if hasattr(spec, "lr") else ""


def _not_finite(record: Record) -> str:
    """The first metric or training loss that is not finite; empty where all are."""
    lost = [name for name, value in record.metrics.items() if value is None]
    lost += [name for name, values in record.curves.items()
             if name.startswith("train_loss") and None in values]
    return lost[0] if lost else ""


@dataclass
class Run:
    """One run under way, or a group that trains as one.

    `curves` are added to those that the study returns, `facts` to the provenance: `data_sha256`
    and `data` name the text or series that was trained on."""

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

    @property
    def device(self) -> "torch.device":
        """Where the run trains: its model, which `build` has made, is there already. Raises
        UsageError where this machine has no such device."""
        return devices.place(self.spec.device)

    def rng(self, *streams: str | int) -> "torch.Generator":
        """A generator that depends on the seed and the stream ("train", step) alone."""
        import torch

        text = repr((self.spec.seed, *streams)).encode()
        start = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
        return torch.Generator().manual_seed(start)

    def checkpoint(self, part: str = "") -> "Checkpoint":
        """Where a resumable training keeps its state: bound to the settings and to the code."""
        from seqlib.training import Checkpoint

        keys = [spec.key for spec in self.specs]
        bound = digest([part, self.study.fingerprint(self.spec.arm), keys])
        file = f"{self.study.name}-{bound[:32]}.safetensors"
        self._checkpoints.append(Checkpoint(scratch() / "checkpoints" / file))
        return self._checkpoints[-1]

    def resume(self, checkpoint: "Checkpoint") -> dict[str, "torch.Tensor"] | None:
        """The tensors of a sound checkpoint, None where there is none; the record will say that
        the run was resumed."""
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

    def steps(self, total: int, model: "torch.nn.Module",
              optimizer: "torch.optim.Optimizer") -> Iterator[int]:
        """Numbers of the steps to train, those after a checkpoint where there is one.

        Writes a checkpoint every `every` steps: weights, buffers, the optimizer's state, the curve
        and torch's global generators, from which dropout draws."""
        import torch

        from seqlib.training import pack, unpack

        checkpoint = self.checkpoint(f"steps {len(self._checkpoints)}")
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        losses, first = self.curves.setdefault("train_loss", []), 0
        saved, on_card = self.resume(checkpoint), self.spec.device == "cuda"
        if saved is not None:
            torch.set_rng_state(saved.pop("generator"))
            if on_card:
                torch.cuda.set_rng_state(saved.pop("generator_of_the_card"))
            curves, numbers = unpack(saved, tensors, optimizer)
            losses[:], first = curves["train_loss"], int(numbers["step"])
        for step in range(first, total):
            yield step
            losses.append(self._loss)
            if (step + 1) % self.every == 0 and step + 1 < total:
                state = pack(tensors, optimizer, {"train_loss": losses}, step=step + 1)
                if on_card:
                    state["generator_of_the_card"] = torch.cuda.get_rng_state()
                checkpoint.save({**state, "generator": torch.get_rng_state()})

    def step(self, optimizer: "torch.optim.Optimizer", loss: "torch.Tensor") -> None:
        """One step of gradient descent; the loss goes into the curve.

        Raises FloatingPointError when it is not finite."""
        self._loss = float(loss.detach())
        if not math.isfinite(self._loss):
            number = len(self.curves["train_loss"]) + 1
            raise FloatingPointError(f"training loss is {self._loss} at step {number}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def weights(spec: Spec) -> Path:
    """Path, without ending, of the weights that a run leaves in scratch."""
    return scratch() / "weights" / f"{spec.study}-{spec.key}"


def count_parameters(build: Callable[[], "torch.nn.Module"]) -> dict[str, int]:
    """Trainable and total parameters of a model; torch's global generator is left as it was."""
    sizes = [(p.numel(), p.requires_grad) for p in initial(build, 0).parameters()]
    return {"trainable": sum(n for n, trains in sizes if trains), "total": sum(n for n, _ in sizes)}


def initial(build: Callable[[], Any], seed: int) -> Any:
    """A model that depends on the seed alone; torch's global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
