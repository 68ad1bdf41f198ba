"""All seeds of an airline arm at once against the plain loop, one seed after another."""

from seqlib.bench import Case
from seqlib.studies.airline import protocol
from seqlib.studies.airline.arms import ARMS, PUBLISHED
from seqlib.studies.airline.reference import train_loop
from seqlib.studies.airline.run import count
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.sweep import run_group


def airline() -> list[Case]:
    """Seconds per seed for the published 150 epochs: K = 30 stacked against the plain loop."""
    y, split, epochs = protocol.load_series().to_numpy(), protocol.splits("published")[0], 50
    found = []
    for name in PUBLISHED:
        arm, windows = ARMS[name], protocol.make_windows(y, split, "level")
        specs = [AirlineSpec(arm=name, seed=seed, epochs=epochs) for seed in range(30)]
        share = epochs / 150
        # Forward and twice that backward, 2 flop per weight and month, of the published module: all
        # months through all layers. Ours computes what the head reads: utilisation may pass 1.
        flop = 3 * 2 * count(name)["trainable"] * len(windows.x["train"]) * protocol.WINDOW * 150
        found.append(Case(
            f"airline-{name}", lambda specs=specs: run_group(specs),
            lambda arm=arm, windows=windows: train_loop(
                arm.build, windows, 0, epochs=epochs, batch=16, lr=1e-3, weight_decay=1e-5),
            30 * share, share, flop))
    return found
