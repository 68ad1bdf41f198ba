import os
import signal

import pytest
import torch
from safetensors.torch import save_file

from seqlib import training
from seqlib.errors import SeqlibError
from seqlib.record import Spec


def where(spec):
    return os.getpid(), os.environ["OMP_NUM_THREADS"]


def die(spec):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_has_a_process_of_its_own_with_its_threads():
    process, threads = training.in_own_process(where, Spec(study="airline", arm="lstm"), 1)
    assert process != os.getpid() and threads == "1"


def test_a_process_that_dies_names_the_run_in_one_line():
    with pytest.raises(SeqlibError, match="airline/lstm seed 3 died.*lower its batch") as caught:
        training.in_own_process(die, Spec(study="airline", arm="lstm", seed=3), 1)
    assert "\n" not in str(caught.value)


def test_a_sound_checkpoint_is_taken_up_and_a_damaged_one_is_deleted(tmp_path):
    path = tmp_path / "x.safetensors"
    assert training.checkpoint(path) is None
    save_file({"a": torch.arange(3)}, path)
    assert torch.equal(training.checkpoint(path)["a"], torch.arange(3))
    path.write_bytes(path.read_bytes()[:-4])
    assert training.checkpoint(path) is None and not path.exists()
