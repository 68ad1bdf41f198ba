"""The attention search: thirteen configurations at one size, and the fair version of it."""

from seqlib.studies.attention_search import run, texts
from seqlib.studies.attention_search.arms import ARMS, PUBLISHED
from seqlib.studies.attention_search.specs import SearchSpec, parameter_counts
from seqlib.study import study


def data(specs: list[SearchSpec]) -> list[str]:
    large = any(spec.vocabulary == PUBLISHED.V for spec in specs)
    return sorted({spec.text for spec in specs}) + ([texts.smollm_tokenizer().name] if large else [])


study(SearchSpec, arms=dict.fromkeys(ARMS), data=data, count=parameter_counts)(run.run)
