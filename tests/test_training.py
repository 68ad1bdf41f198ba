import os
import signal

import pytest
import torch

from seqlib import training
from seqlib.errors import SeqlibError


def where():
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_has_a_process_of_its_own_with_its_threads():
    process, threads = training.in_own_process(where, threads=1, what="a run")
    assert process != os.getpid() and threads == "1"


def test_a_process_that_dies_names_the_run_in_one_line():
    with pytest.raises(SeqlibError, match="airline/lstm seed 3 died.*lower its batch") as caught:
        training.in_own_process(die, threads=1, what="airline/lstm seed 3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [
    lambda raw: raw[:-4], lambda raw: raw[:40], lambda raw: b"",
    lambda raw: raw[:-300] + bytes(64) + raw[-236:]], ids=["cut", "header", "empty", "altered"])
def test_a_sound_checkpoint_is_used_and_a_damaged_one_is_deleted(tmp_path, damage):
    kept = training.Checkpoint(tmp_path / "x.safetensors")
    assert kept.load() is None
    kept.save({"a": torch.arange(200.0), "b": torch.tensor(3)})
    loaded = kept.load()
    assert torch.equal(loaded["a"], torch.arange(200.0)) and loaded["b"] == 3
    kept.path.write_bytes(damage(kept.path.read_bytes()))
    assert kept.load() is None and not kept.path.exists()


def test_an_optimizer_with_its_rate_is_packed_and_unpacked_to_the_bit(tmp_path):
    def start():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        return model, optimizer

    def step(model, optimizer, seed):
        optimizer.zero_grad()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        model(x).square().sum().backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9

    model, optimizer = start()
    for seed in range(3):
        step(model, optimizer, seed)
    kept = training.Checkpoint(tmp_path / "x.safetensors")
    named = dict(model.named_parameters())
    kept.save(training.pack(named, optimizer, {"loss": [1.5, 2.5]}, step=3))
    step(model, optimizer, 3)
    again, other = start()
    curves, numbers = training.unpack(kept.load(), dict(again.named_parameters()), other)
    step(again, other, 3)
    assert curves == {"loss": [1.5, 2.5]} and numbers == {"step": 3}
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
