"""A training step of ERNIE 3.0 medium in Paddle, set up as this study does it against Paddle as it starts by itself.

Each in a process of its own, because what is set up is read when Paddle's libraries load.
"""

import os
import subprocess
import sys

import numpy as np

from seqlib.bench import Case
from seqlib.errors import SeqlibError
from seqlib.studies.ernie.framework import need
from seqlib.sweep import cores

B, T = 8, 128
SET_UP = ("MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
WARM_UP, STEPS = 1, 3


def step_seconds(plain: bool) -> float:
    """Median seconds of a step, of a process that imports Paddle as this study does, or `plain`."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_UP}
    if not plain:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(cores()))  # as every run of the study has it
    done = subprocess.run([sys.executable, "-m", "seqlib.studies.ernie.bench", "plain" if plain else "ours"], env=environment,
                          capture_output=True, text=True)
    if done.returncode:
        raise SeqlibError(f"bench ernie-step: {(done.stderr.strip().splitlines() or ['the process died'])[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


def measure(plain: bool) -> float:
    """In this process: seconds of a step."""
    import time

    if plain:
        import paddle
        from paddlenlp import transformers as library
    else:
        from seqlib.studies.ernie.framework import nlp
        from seqlib.studies.ernie.framework import paddle as load

        paddle, library = load(), nlp("transformers")
    from seqlib.studies.ernie.bases import config
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
    need()
    return [Case("ernie-step", lambda: step_seconds(False), lambda: step_seconds(True), tells_seconds=True)]


if __name__ == "__main__":
    print(measure(sys.argv[1] == "plain"))
