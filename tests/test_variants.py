"""Arms of one's own, added where they are tried: a name and records of their own."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import seqlib
from seqlib import study
from seqlib.errors import UsageError
from seqlib.store import Store
from seqlib.studies.airline.arms import ARMS as AIRLINE
from seqlib.studies.gpt2.arms import ARMS as GPT2
from seqlib.studies.gpt2.arms import Arm
from seqlib.studies.shakespeare.arms import ARMS as SHAKESPEARE

SMALL = 4 * 8 * (1 + 8 + 2) + 4 * 8 * (8 + 8 + 2) + 9  # weights of two LSTM layers of 8 and a head


@pytest.mark.parametrize("workers", [1, 2])
def test_other_settings_of_an_airline_arm(monkeypatch, workers):
    monkeypatch.setitem(AIRLINE, "lstm-8", replace(AIRLINE["lstm"], hidden=8))
    live = seqlib.train("airline", arm=["lstm", "lstm-8"], seed=2, epochs=1, workers=workers)
    assert live.groupby("arm").parameters.first().to_dict() == {"lstm": 50497, "lstm-8": SMALL}
    assert seqlib.compare(live, "test_mae", "lstm-8", "lstm").n == 2
    assert not any(Store.archive().by_key("airline", key) for key in live.key)


def test_a_changed_arm_is_not_taken_for_the_one_that_was_trained(monkeypatch):
    before = seqlib.train("airline", arm="lstm", epochs=1, seed=1)
    monkeypatch.setitem(AIRLINE, "lstm", replace(AIRLINE["lstm"], hidden=8))
    after = seqlib.train("airline", arm="lstm", epochs=1, seed=1)
    assert (before.parameters.item(), after.parameters.item()) == (50497, SMALL)


class Pairs(nn.Embedding):
    """A model of one's own: what each character is followed by."""

    def forward(self, tokens, keep=None):
        return super().forward(tokens)

    def decode(self, tokens, cache=None):
        return self(tokens), cache

    def flop_per_token(self, T):
        return 0


@dataclass(frozen=True)
class Bigrams:
    """Its entry: how it is built."""

    def build(self, V, context):
        return Pairs(V, V)


def test_a_model_of_ones_own_in_the_shakespeare_study(monkeypatch):
    monkeypatch.setitem(SHAKESPEARE, "pairs", Bigrams())
    small = {"corpus": "auto", "context": 16, "batch": 4, "epochs": 1, "epoch_steps": 2, "seed": 1}
    live = seqlib.train("shakespeare", arm="pairs", **small)
    assert live.arm.tolist() == ["pairs"] and live.val_loss_nats.item() > 3


def test_layers_of_ones_own_for_an_adapter_of_gpt2_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setitem(GPT2, "lora-down", Arm(adapter={"target_modules": ["down_proj"]}))
    settings = {"base": "tiny-random", "text": "lorem", "context": 16, "batch": 2, "steps": 2}
    kind = replace(study.get("gpt2"), alone=lambda spec: 1)
    specs = [kind.spec(arm="lora-down", lr=1e-3, **settings)]
    [record] = kind.train(specs)
    assert record.metrics["trainable"] == 2 * 8 * (32 + 64)
    assert record.provenance["code_hash"] == kind.fingerprint("lora-down")


def test_an_arm_that_no_other_process_can_see_is_refused_before_anything_trains(monkeypatch):
    mine = type("Mine", (), {"__module__": "__main__", "weight_decay": 0.0})()
    monkeypatch.setitem(AIRLINE, "mine", mine)
    with pytest.raises(UsageError, match="arm mine: another process cannot see the class Mine"):
        seqlib.train("airline", arm="mine", seed=1, epochs=1, workers=2)


def test_what_is_kept_between_calls_can_be_trained_with_after_inference():
    """Tensors that are made while gradients are off for good cannot be saved for a backward
    pass."""
    from seqlib.models.latent import rotation
    from seqlib.studies.shakespeare import corpus

    rotation.cache_clear()
    corpus.load.cache_clear()
    with torch.inference_mode():
        cos, _ = rotation(5, 8, 3, 1.5, torch.float32, torch.device("cpu"))
        text = corpus.load(corpus.choose())
    assert not cos.is_inference() and not text.train.is_inference()
