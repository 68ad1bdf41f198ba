import json

import numpy as np
import pytest
from pydantic import ValidationError

from seqlib.errors import UsageError
from seqlib.record import Record, digest, tidy
from seqlib.studies.airline.specs import AirlineSpec


def record(**metrics):
    spec = AirlineSpec(arm="lstm", seed=3)
    return Record.of(spec, metrics, {"loss": [0.1, 0.2]}, {"code_hash": "x"})


def test_key_is_the_hash_of_the_canonical_json_and_depends_on_every_field():
    spec = AirlineSpec(arm="lstm", seed=3)
    text = json.dumps(spec.model_dump(), sort_keys=True, separators=(",", ":"))
    import hashlib

    assert spec.key == hashlib.sha256(text.encode()).hexdigest()
    changed = dict(arm="gru", seed=4, protocol="rolling", engine="loop", epochs=2, batch=8, lr=0.1,
                   weight_decay=0.0, device="cuda")
    assert set(changed) | {"study"} == set(AirlineSpec.model_fields)
    keys = {AirlineSpec(**{"arm": "lstm", "seed": 3, name: value}).key
            for name, value in changed.items()}
    assert len(keys | {spec.key}) == len(changed) + 1


@pytest.mark.parametrize("bad", [
    {"arm": "none"}, {"seed": -1}, {"epochs": 0}, {"extra": 1}, {"lr": 0.0}])
def test_spec_refuses_what_is_not_allowed(bad):
    with pytest.raises((ValidationError, UsageError)):
        AirlineSpec(**{"arm": "lstm", "seed": 0, **bad})


def test_record_survives_a_round_trip_and_notices_every_edit():
    original = record(mae=1.5)
    assert original.problem() is None
    again = Record.model_validate_json(original.model_dump_json())
    assert again == original and again.problem() is None
    again.metrics["mae"] = 1.4
    assert "checksum" in again.problem()
    moved = original.model_copy(update={"spec": {**original.spec, "seed": 4}})
    moved.checksum = moved.expected_checksum()
    assert "key" in moved.problem()


def test_numbers_keep_six_digits_and_not_finite_becomes_none():
    kept = tidy({"a": float("nan"), "b": np.array([1.23456789, np.inf]), "c": 3})
    assert kept == {"a": None, "b": [1.23457, None], "c": 3}
    assert digest(kept) == digest(json.loads(json.dumps(kept)))
