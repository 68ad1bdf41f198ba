"""The GPT-2 study: LoRA against full fine-tuning of a causal language model."""

import math
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from seqlib import data as sources
from seqlib import plays
from seqlib.errors import UsageError, first_line, first_problem
from seqlib.record import Record
from seqlib.studies.gpt2.specs import ARMS, TuneSpec, label
from seqlib.study import study


def data(specs: list[TuneSpec]) -> list[str]:
    """Data sets of some runs; bases and books of the user's are located by the runs themselves."""
    named = {spec.base for spec in specs} | ({plays.ALL} if any(s.text == "shakespeare" for s in specs) else set())
    return sorted((named | {sources.DESCRIPTIONS}) & set(sources.DATA))


def tune(specs: list[TuneSpec]) -> list[Record]:
    from seqlib.studies.gpt2 import check, run  # peft and transformers are slow to import

    for spec in specs:
        check.inputs(spec)
    return [run.run(spec) for spec in specs]


@contextmanager
def sensible(base: str, book_path: str, alpha: float):
    """Plan runs in here: raises UsageError where they cannot be, or a base or a book cannot be looked at."""
    if not math.isfinite(alpha):
        raise UsageError(f"alpha is {alpha}; name a number")
    try:
        for path in (base, book_path):
            Path(path).expanduser().exists()
        yield
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    except (OSError, RuntimeError) as error:  # no such user, a name too long, a dead link
        raise UsageError(f"base {base[:80]!r} or book_path {book_path[:80]!r} cannot be read ({first_line(error)[:120]}); "
                         "name a folder or a file that can") from error


def count(arm: str) -> dict[str, int]:
    from seqlib.studies.gpt2.arms import parameter_counts

    return parameter_counts(arm)


study(TuneSpec, arms=dict.fromkeys(ARMS), data=data, count=count, label=label)(tune)
