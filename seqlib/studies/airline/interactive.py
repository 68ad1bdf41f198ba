"""The page's interactive cell: change the last month of the window and see every live network's forecast."""

import matplotlib
import numpy as np
import torch
from IPython.display import display
from matplotlib import pyplot as plt
from safetensors.torch import load_file

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


def draw(records, month: int, shift: float) -> None:
    """One dot a network, the true value as a line."""
    forecasts, series = forecast(records, month, shift), protocol.load_series()
    figure, ax = plt.subplots(figsize=(8, 0.8 + 0.45 * max(1, len(forecasts))))
    for y, (arm, values) in enumerate(forecasts.items()):
        ax.scatter(values, np.full(len(values), y), color=COLOURS[arm.split("-")[0]], alpha=0.6, s=16)
    ax.axvline(series.iloc[START + month], color=matplotlib.rcParams["text.color"], lw=1, ls="--")
    ax.set(yticks=range(len(forecasts)), yticklabels=list(forecasts), xlabel="forecast, thousands of passengers",
           title=f"{series.index[START + month]} (dashed: true value), month before shifted by {shift:+.0f}")
    ax.invert_yaxis()
    plt.show()


def what_if(records):
    """Sliders for the test month and the shift of the month before it."""
    import ipywidgets as widgets

    month = widgets.IntSlider(0, 0, protocol.splits("published")[0].test_end - START - 1, description="test month")
    shift = widgets.FloatSlider(0, min=-100, max=100, step=5, description="shift")
    plot = widgets.interactive_output(lambda month, shift: draw(records, month, shift), {"month": month, "shift": shift})
    display(widgets.VBox([month, shift, plot]))
