"""The attention search: thirteen configurations at one size, and the fair version of it."""

from functools import partial

from seqlib.studies.attention_search import run, texts
from seqlib.studies.attention_search.arms import ARMS, PUBLISHED
from seqlib.studies.attention_search.specs import SearchParams, SearchSpec, parameter_counts, specs_of
from seqlib.study import Study


def data(specs: list[SearchSpec]) -> list[str]:
    large = any(spec.vocabulary == PUBLISHED.V for spec in specs)
    return sorted({spec.text for spec in specs}) + ([texts.smollm_tokenizer().name] if large else [])


STUDY = Study("attention_search", SearchSpec, SearchParams, specs_of, lambda specs: [[spec] for spec in specs],
              lambda specs: [run.run(spec) for spec in specs], lambda spec: run.MODULES, data,
              {arm: partial(parameter_counts, arm) for arm in ARMS})
