"""All seeds of an airline arm at once against the plain loop, one seed after another."""

from seqlib.bench import Case
from seqlib.studies.airline import protocol
from seqlib.studies.airline.arms import ARMS, PUBLISHED
from seqlib.studies.airline.reference import train_loop
from seqlib.studies.airline.run import count
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import run_group


def case(name: str, K: int, epochs: int = 50) -> Case:
    """Seconds per seed of an arm for the published 150 epochs: K at once against the plain loop."""
    y, split = protocol.load_series().to_numpy(), protocol.splits("published")[0]
    arm, windows = ARMS[name], protocol.make_windows(y, split, "level")
    specs = [AirlineSpec(arm=name, seed=seed, epochs=epochs) for seed in range(K)]
    # Forward and twice that backward, 2 flop per weight and month, of the published module: all
    # months through all layers. Ours computes what the head reads: utilisation may pass 1.
    flop = 3 * 2 * count(name)["trainable"] * len(windows.x["train"]) * protocol.WINDOW * 150
    return Case(f"airline-{name}", lambda: run_group(specs), lambda: train_loop(
        arm.build, windows, 0, epochs=epochs, batch=16, lr=1e-3, weight_decay=1e-5),
        K * epochs / 150, epochs / 150, flop)


def airline() -> list[Case]:
    """The published arms, 30 seeds at once."""
    return [case(name, 30) for name in PUBLISHED]
