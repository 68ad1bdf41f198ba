"""The page's interactive cell: change the last month of the window and see every live network's forecast."""

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from safetensors.torch import load_file

from seqlib import show
from seqlib.models.stacked import forward
from seqlib.studies.airline import protocol
from seqlib.studies.airline.arms import ARMS
from seqlib.studies.airline.figures import COLOURS
from seqlib.studies.airline.run import weights_path
from seqlib.studies.airline.specs import AirlineSpec

START = protocol.splits("published")[0].validation_end


def forecast(records, month: int, shift: float) -> dict[str, np.ndarray]:
    """Forecasts (K,) by arm, in thousands of passengers, for test month `month` with the month before it shifted by
    `shift` thousand. Uses the fitted weights that a live run left; arms without weights are left out."""
    y, target = protocol.load_series().to_numpy().copy(), START + month
    split, clean = protocol.splits("published")[0], y.copy()
    y[target - 1] += shift
    specs = [AirlineSpec(**r.spec) for r in records if r.spec["engine"] == "stacked" and r.spec["protocol"] == "published"]
    out = {}
    for arm in dict.fromkeys(spec.arm for spec in specs):
        own = [load_file(weights_path(s)) for s in specs if s.arm == arm and weights_path(s).exists()]
        if not own:
            continue
        form = ARMS[arm].representation
        scale = protocol.make_windows(clean, split, form)
        window = (protocol.represent(y, form)[target - protocol.WINDOW : target] - scale.mean) / scale.std
        params = {name: torch.stack([weights[name] for weights in own]) for name in own[0]}
        x = torch.tensor(window, dtype=torch.float32).expand(len(own), 1, -1)
        with torch.no_grad():
            z = forward(ARMS[arm].build(), params, x).numpy()[:, 0]
        out[arm] = protocol.restore(z * scale.std + scale.mean, y, np.array([target]), form)
    return out


def draw(records, month: int, shift: float) -> Figure:
    """One dot a network, the true value as a line."""
    forecasts, series = forecast(records, month, shift), protocol.load_series()
    figure, ax = plt.subplots(figsize=(9, 1.0 + 0.45 * max(1, len(forecasts))))
    for y, (arm, values) in enumerate(forecasts.items()):
        ax.scatter(values, np.full(len(values), y), color=COLOURS[arm.split("-")[0]], alpha=0.6, s=16)
    ax.axvline(series.iloc[START + month], color=show.ink(), lw=1, ls="--")
    ax.set(yticks=range(len(forecasts)), yticklabels=list(forecasts), xlabel="forecast, thousands of passengers",
           title=f"{series.index[START + month]} (dashed: true value), month before shifted by {shift:+.0f}")
    ax.invert_yaxis()
    return figure


def what_if(records, month: int = 6, shift: float = 50.0) -> None:
    """A picture of one case, and in JupyterLab sliders for the test month and the shift of the month before it."""
    import ipywidgets as widgets

    before, after = forecast(records, month, 0.0), forecast(records, month, shift)
    moved = {arm: float(np.mean(after[arm] - before[arm])) for arm in after}
    data = pd.DataFrame([(arm, i, v) for arm, values in after.items() for i, v in enumerate(values)],
                        columns=["arm", "network", "forecast"])
    told = ", ".join(f"{arm} by {v:+.0f}" for arm, v in moved.items())
    show.figure(lambda: draw(records, month, shift), name="airline-what-if", data=data,
                alt="Forecasts of every live network for one test month after the month before it was raised.",
                caption=f"Raising the month before by {shift:.0f} thousand moves the mean forecast of {told}.")
    sliders = {
        "month": widgets.IntSlider(month, 0, protocol.splits("published")[0].test_end - START - 1, description="test month"),
        "shift": widgets.FloatSlider(shift, min=-100, max=100, step=5, description="shift")}
    show.interactive(sliders, lambda month, shift: show.pictures(lambda: draw(records, month, shift), "Forecasts."))
