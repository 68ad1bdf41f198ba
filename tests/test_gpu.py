"""On a machine with a CUDA card: each study trains on it as on the processor. `make test-gpu` runs
these, and a run of all tests skips them where there is none."""

import pytest
import torch

import seqlib
from seqlib import devices, plan, study
from seqlib.store import Store
from tests.test_devices import SHORT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA card")
LOSS = {"airline": "val_loss", "shakespeare": "val_loss_nats", "attention_search": "val_loss_nats",
        "gpt2": "val_loss_nats"}


@pytest.mark.parametrize("name", LOSS)
def test_a_study_trains_on_a_card_as_on_the_processor(name):
    grid = {**SHORT[name], "seed": 1}
    here, there = (seqlib.train(name, "smoke", device=kind, **grid).set_index("arm")
                   for kind in ("cpu", "cuda"))
    networks = there[there.device == "cuda"]
    assert len(networks)
    for arm, run in networks.iterrows():  # a few steps, whose dropout is drawn otherwise
        assert run[LOSS[name]] == pytest.approx(here.loc[arm, LOSS[name]], rel=0.02), arm
        record = Store.live().by_key(name, run.key)
        assert record.metrics["peak_cuda_mb"] > 0
        assert record.provenance["device_name"] == torch.cuda.get_device_name(devices.card("cuda"))


def test_bfloat16_trains_as_float32_does():
    runs = seqlib.train("attention_search", "smoke", device="cuda", seed=1,
                        precision=["float32", "bfloat16"], **SHORT["attention_search"])
    losses = runs.pivot(index="arm", columns="precision", values="val_loss_nats")
    assert losses.bfloat16.to_numpy() == pytest.approx(losses.float32.to_numpy(), rel=0.02)


def test_a_run_on_a_card_repeats_to_the_bit():
    [spec] = plan.overridden("shakespeare", "smoke", {"device": "cuda", "arm": "transformer"})
    first, second = (study.get("shakespeare").train([spec])[0] for _ in range(2))
    assert first.curves["val_loss"] == second.curves["val_loss"]


def test_ernie_trains_on_a_card():
    paddle = pytest.importorskip("paddle")
    if not paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle knows processors alone")
    runs = seqlib.train("ernie", "smoke", device="cuda", seed=1)
    assert (runs.peak_cuda_mb > 0).all()
