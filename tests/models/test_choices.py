"""Models refuse what they do not know; another model under that name would be a wrong result."""

import pytest

from seqlib import study
from seqlib.errors import UsageError
from seqlib.models.forecast import AttentionForecaster, RecurrentForecaster
from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM


@pytest.mark.parametrize("build", [
    lambda: RecurrentLM(5, attention="causl"),
    lambda: TransformerLM(5, 8, 8, 1, 1, 8, positions="rotry"),
    lambda: RecurrentForecaster("lsmt"),
    lambda: AttentionForecaster("ropee"),
], ids=["attention", "positions", "cell", "position"])
def test_a_choice_that_a_model_does_not_know_is_refused(build):
    with pytest.raises(ValueError, match="unknown .*; choose from"):
        build()


@pytest.mark.parametrize("name", study.names())
def test_a_spec_of_an_unknown_arm_cannot_be_made(name):
    with pytest.raises(UsageError, match="unknown arm 'transfomer'"):
        study.get(name).spec(arm="transfomer")
