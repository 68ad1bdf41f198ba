"""The arms of the airline study: as published, repairs, interventions on attention, baselines."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from seqlib.models.forecast import AttentionForecaster, RecurrentForecaster
from seqlib.studies.airline import baselines

RECURRENT, ATTENTION = ("lstm", "gru"), ("rope", "sinusoidal", "learned")
PUBLISHED = RECURRENT + ATTENTION


@dataclass(frozen=True)
class Arm:
    """`kind` is a cell or a position encoding; `hidden` the recurrent width or the feed-forward
    width; `weight_decay` what its specs have unless they give another."""

    kind: str
    hidden: int
    representation: str = "level"
    attention_dropout: float = 0.1
    weight_decay: float = 1e-5
    intervention: str = ""

    def build(self) -> nn.Module:
        """A freshly initialised module, drawn from torch's global generator."""
        if self.kind in RECURRENT:
            return RecurrentForecaster(self.kind, self.hidden)
        return AttentionForecaster(
            self.kind, hidden=self.hidden, attention_dropout=self.attention_dropout,
            bias=attention_bias(self.intervention))


def attention_bias(intervention: str, window: int = 12) -> torch.Tensor | None:
    """(T,) added to the last query's scores: `recent S` takes S nats for each month back (ALiBi,
    arXiv 2108.12409, section 3), `not-recent N` forbids the last N months."""
    if not intervention:
        return None
    kind, dose = intervention.split()
    back = torch.arange(window - 1, -1, -1.0)
    return {"recent": -float(dose) * back,
            "not-recent": torch.where(back < float(dose), float("-inf"), 0.0)}[kind]


# a feed-forward width of 124 makes up for the learned table's 768 weights, to the rotary count
_published = {"lstm": Arm("lstm", 64), "gru": Arm("gru", 64),
              "rope": Arm("rope", 128, attention_dropout=0.0),
              "sinusoidal": Arm("sinusoidal", 128), "learned": Arm("learned", 124)}

ARMS: dict[str, Arm | baselines.Baseline] = {
    **_published,
    **{f"{name}-logdiff": replace(arm, representation="logdiff")
       for name, arm in _published.items()},
    **{f"{name}-logdiff2": replace(arm, representation="logdiff2")
       for name, arm in _published.items()},
    **{f"{name}-logdiff-wd{decay}": replace(arm, representation="logdiff", weight_decay=decay)
       for decay in (0.01, 0.1) for name, arm in _published.items()},
    "rope-dropout": replace(_published["rope"], attention_dropout=0.1),
    "sinusoidal-nodropout": replace(_published["sinusoidal"], attention_dropout=0.0),
    "learned-nodropout": replace(_published["learned"], attention_dropout=0.0),
    "lstm-matched": Arm("lstm", 52),
    "gru-matched": Arm("gru", 60),
    "rope-recent": replace(_published["rope"], intervention="recent 0.5"),
    "learned-not-recent": replace(_published["learned"], intervention="not-recent 3"),
    **{f"rope-recent-{slope}": replace(_published["rope"], intervention=f"recent {slope}")
       for slope in (0.125, 0.25, 1, 2)},
    **{f"learned-not-recent-{months}": replace(_published["learned"],
                                               intervention=f"not-recent {months}")
       for months in (1, 2, 6)},
    **{baseline.__name__.replace("_", "-"): baselines.Baseline(baseline)
       for baseline in baselines.FORECASTS},
}
