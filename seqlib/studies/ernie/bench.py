"""A training step of ERNIE 3.0 medium in Paddle, as this study sets it up and as it starts alone.

Each in a process of its own, because what is set up is read when Paddle's libraries load.
"""

import os
import subprocess
import sys
import time

import numpy as np

from seqlib.bench import Case
from seqlib.errors import SeqlibError
from seqlib.processes import cores
from seqlib.studies.ernie import framework

B, T = 8, 128
SET_UP = ("MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
WARM_UP, STEPS = 1, 3


def step_seconds(plain: bool) -> float:
    """Median seconds of a step, of a process that imports Paddle as this study does, or `plain`."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_UP}
    if not plain:  # as every run of the study has it
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(cores()))
    command = [sys.executable, "-m", "seqlib.studies.ernie.bench", "plain" if plain else "ours"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["the process died"])[-1]
        raise SeqlibError(f"bench ernie-step: {last}")
    return float(done.stdout.strip().splitlines()[-1])


def measure(plain: bool) -> float:
    """In this process: seconds of a step."""
    if plain:
        import paddle
        from paddlenlp import transformers as library
    else:
        paddle, library = framework.paddle(), framework.nlp("transformers")
    from seqlib.studies.ernie.bases import config  # torch, which would load its libraries first
    from seqlib.studies.ernie.specs import RANDOM
    from seqlib.studies.ernie.train import DECAY

    model = library.ErnieForSequenceClassification(library.ErnieConfig(**config(RANDOM)))
    optimizer = paddle.optimizer.AdamW(1e-5, parameters=model.parameters(), weight_decay=DECAY)
    random, times = np.random.default_rng(0), []
    model.train()
    for _ in range(WARM_UP + STEPS):
        x, y = random.integers(5, 1000, (B, T)), random.integers(0, 15, B)
        began = time.perf_counter()
        loss = paddle.nn.functional.cross_entropy(model(paddle.to_tensor(x)), paddle.to_tensor(y))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        float(loss)
        times.append(time.perf_counter() - began)
    return float(np.median(times[WARM_UP:]))


def ernie_step() -> list[Case]:
    framework.need()
    return [Case("ernie-step", lambda: step_seconds(False), lambda: step_seconds(True),
                 tells_seconds=True)]


if __name__ == "__main__":
    print(measure(sys.argv[1] == "plain"))
