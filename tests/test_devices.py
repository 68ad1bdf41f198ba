"""Every study trains on another device than the processor.

Without a card, torch's device `meta` stands for one: its tensors have no content, and an operation
that gets one of them beside one of the processor fails, as it would on a card. `elsewhere` lets
numbers be read from them, all of them 1, so that whole runs go through.
"""

import contextlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.fx.experimental import _config as fx_config

import seqlib
from seqlib import devices, plan
from seqlib.errors import UsageError
from seqlib.models import stacked
from seqlib.models.experts import Experts
from seqlib.models.forecast import RecurrentForecaster
from seqlib.studies.attention_search import texts
from seqlib.studies.gpt2 import tune
from seqlib.studies.shakespeare import evaluate

HERE, META = torch.device("cpu"), torch.device("meta")
SHORT = {
    "airline": {"epochs": 1, "arm": ["lstm", "gru", "rope", "sinusoidal", "learned",
                                     "rope-recent", "sarima"]},
    "shakespeare": {"epochs": 1, "epoch_steps": 1, "context": 8, "batch": 2,
                    "arm": ["lstm", "additive", "transformer", "transformer-rope", "gru"]},
    "attention_search": {"steps": 2, "context": 16, "batch": 2, "layers": 2,
                         "arm": ["baseline", "lora_small", "enhanced_small", "rope_only",
                                 "fair-LQ", "fair-RP"]},
    "gpt2": {"steps": 2, "context": 16, "batch": 2, "base": "tiny-random", "text": "lorem",
             "arm": ["full", "lora", "lora-all", "dora"], "lr": 1e-3,
             "stage": "grid"},  # nothing is saved
}


@pytest.fixture
def elsewhere(monkeypatch):
    """Runs on the device `mps` take place on `meta`."""
    def read(owner, name, value):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda self, *args, **more: (
            value(self) if self.device == META else original(self, *args, **more)))

    def unfused(optimizer):
        original = optimizer.__init__
        monkeypatch.setattr(optimizer, "__init__", lambda self, *args, fused=None, **more:
                            original(self, *args, **more))

    tensor, bincount, allclose = torch.Tensor, torch.bincount, torch.allclose
    monkeypatch.setattr(torch, "allclose", lambda a, b, **more: (
        a.device == META or allclose(a, b, **more)))
    monkeypatch.setattr(devices, "place", lambda kind: META if kind == "mps" else HERE)
    read(tensor, "cpu", lambda t: torch.ones_like(t, device=HERE))
    for name, value in ("item", 1.0), ("__float__", 1.0), ("__int__", 1), ("__bool__", True):
        read(tensor, name, lambda t, value=value: value)
    monkeypatch.setattr(fx_config, "meta_nonzero_assume_all_nonzero", True, raising=False)
    # experts get as many tokens each
    monkeypatch.setattr(torch, "bincount", lambda x, minlength=0: (
        x.new_full((minlength,), x.numel() // minlength) if x.device == META
        else bincount(x, minlength=minlength)))
    forward = Experts.forward

    def with_counts(self, x):
        each = x[..., 0].numel() * self.k // self.E
        with monkeypatch.context() as patch:
            read_list = tensor.tolist
            patch.setattr(tensor, "tolist", lambda t: (
                [each] * t.numel() if t.device == META else read_list(t)))
            return forward(self, x)

    monkeypatch.setattr(Experts, "forward", with_counts)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    monkeypatch.setattr(torch, "autocast", lambda *args, **more: contextlib.nullcontext())
    unfused(torch.optim.Adam)
    unfused(torch.optim.AdamW)
    monkeypatch.setattr(tune, "Accelerator", lambda cpu: SimpleNamespace(
        device=HERE if cpu else META, process_index=0, num_processes=1,
        prepare=lambda *parts: parts, reduce=lambda x, how: x,
        backward=lambda loss: loss.backward()))


@pytest.fixture
def little_text(monkeypatch):
    """Evaluations on little text, since operations on `meta` are slow."""
    monkeypatch.setattr(texts, "VALIDATION", 64)
    generate, loss_given = evaluate.generate, evaluate.loss_given
    monkeypatch.setattr(evaluate, "generate", lambda model, prompt, length, *more, **named:
                        generate(model, prompt, 2, *more, **named))
    monkeypatch.setattr(evaluate, "loss_given", lambda *args: loss_given(*args, targets=32))
    monkeypatch.setattr(evaluate, "validation", lambda corpus: corpus.validation[:100])
    monkeypatch.setattr(evaluate, "context_frequency", lambda corpus: np.zeros(99, int))


@pytest.mark.parametrize("name", SHORT)
def test_every_kind_of_arm_trains_on_another_device(name, elsewhere, little_text):
    runs = seqlib.train(name, "smoke", device="mps", seed=1, **SHORT[name])
    assert len(runs) == len(SHORT[name]["arm"])
    assert set(runs.device) - {"cpu"} == {"mps"}  # baselines are computed on the processor


def test_the_recall_task_and_the_plain_loop_train_there_too(elsewhere):
    runs = seqlib.train("shakespeare", "recall", device="mps", seed=1, epochs=1, epoch_steps=2,
                        context=16, width=32, arm=["gru", "additive", "transformer-rope"])
    assert len(runs) == 3
    runs = seqlib.train("airline", device="mps", seed=1, arm="rope", engine="loop", epochs=1)
    assert runs.device.tolist() == ["mps"]


def test_a_tensor_on_the_wrong_device_fails(elsewhere, little_text, monkeypatch):
    from seqlib.studies.shakespeare import train

    monkeypatch.setattr(train.devices, "of", lambda model: HERE)
    with pytest.raises(Exception, match="device"):
        seqlib.train("shakespeare", "smoke", device="mps", seed=1, arm="lstm")


def test_bfloat16_trains_as_float32_does(little_text):
    """Its first loss is the same to bfloat16's rounding; later ones too, as autocast keeps no copy
    of the weights from one step to the next."""
    settings = {**SHORT["attention_search"], "steps": 12, "batch": 4, "lr": 3e-3, "seed": 1}
    runs = seqlib.train("attention_search", "smoke", precision=["float32", "bfloat16"], **settings)
    losses = seqlib.curves("attention_search", "train_loss", runs=runs)
    losses = losses.merge(runs[["key", "precision"]], on="key")
    whole, half = (losses[losses.precision == name].set_index(["arm", "x"]).value
                   for name in ("float32", "bfloat16"))
    fallen = whole.xs(0, level="x") - whole.xs(11, level="x")
    apart = (half - whole).abs()
    assert apart.xs(0, level="x").max() < 0.01
    assert (apart.xs(11, level="x") < 0.15 * fallen).all()
    assert (half != whole).any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_plain_layers_equal_the_kernels(cell):
    torch.manual_seed(0)
    model = RecurrentForecaster(cell, hidden=5, dropout=0).double()
    copies = [RecurrentForecaster(cell, hidden=5, dropout=0).double() for _ in range(3)]
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [torch.stack([getattr(m.rnn, f"{name}_l1") for m in copies]).detach()
               for name in names]
    x = torch.randn(3, 7, 4, 5, dtype=torch.float64)
    outcomes = []
    for layer in (getattr(stacked, f"plain_{cell}"),
                  {"lstm": lambda x, i, h, a, b: stacked.StackedLSTM.apply(x, i, h, a + b),
                   "gru": stacked.StackedGRU.apply}[cell]):
        own = [part.clone().requires_grad_() for part in (x, *weights)]
        states = layer(*own)
        states.square().sum().backward()
        outcomes.append([states, *(part.grad for part in own)])
    for plain, kernel in zip(*outcomes):
        torch.testing.assert_close(plain, kernel)
    assert model.kind == cell


def test_a_device_that_is_not_there_is_one_line():
    for name, kind in ("airline", "mps"), ("gpt2", "cuda"), ("shakespeare", "cuda"):
        if kind == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(UsageError, match="name another device"):
            seqlib.train(name, "smoke", device=kind, seed=1)
    with pytest.raises(UsageError, match="choose auto, cpu, cuda"):
        seqlib.train("airline", device="gpu")


def test_a_base_is_not_pretrained_for_a_device_that_is_not_there(monkeypatch):
    pytest.importorskip("paddle")
    from seqlib.studies.ernie import bases

    monkeypatch.setattr(bases, "is_made", lambda spec: pytest.fail("the device comes first"))
    with pytest.raises(UsageError, match="paddlepaddle-gpu"):
        seqlib.train("ernie", device="cuda", seed=1)


def test_the_environment_names_the_device_of_live_runs_alone(monkeypatch):
    monkeypatch.setenv("SEQLIB_DEVICE", "cuda:2")
    assert {spec.device for spec in plan.specs("gpt2", "fair")} == {"cpu"}
    assert {spec.device for spec in plan.overridden("gpt2", "live", {})} == {"cuda"}
    assert {spec.device for spec in plan.overridden("gpt2", "live", {"device": "cpu"})} == {"cpu"}
    assert devices.card("cuda") == 2 and devices.card("cpu") is None
    monkeypatch.setenv("SEQLIB_DEVICE", "tpu")
    with pytest.raises(UsageError, match="SEQLIB_DEVICE is 'tpu'"):
        plan.overridden("gpt2", "live", {})


def test_a_card_with_a_number_is_this_process_s(monkeypatch):
    monkeypatch.setenv("SEQLIB_DEVICE", "")
    spec = plan.overridden("airline", "live", {"device": "cuda:1"})[0]
    assert (spec.device, devices.card("cuda")) == ("cuda", 1)
    other = plan.overridden("airline", "live", {"device": "cuda"})[0]
    assert spec.key == other.key  # a card is no setting of a run


def test_runs_of_two_devices_have_two_keys_and_are_not_compared():
    specs = [plan.overridden("airline", "live", {"device": kind, "arm": "lstm"})[0]
             for kind in ("cpu", "cuda")]
    assert specs[0].key != specs[1].key
    assert "device" not in specs[0].model_dump(mode="json")  # keys from before devices hold
    runs = pd.DataFrame({"label": ["a"] * 6 + ["b"] * 6, "seed": [*range(6)] * 2,
                         "loss": range(12), "device": "cpu"})
    assert seqlib.compare(runs, "loss", "a", "b").n == 6
    runs.loc[runs.label == "b", "device"] = "cuda"
    with pytest.raises(UsageError, match="on different devices .cpu and cuda."):
        seqlib.compare(runs, "loss", "a", "b")
