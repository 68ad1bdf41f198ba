"""Main effects of the factorial design, from records: what a factor changes, whatever the others are."""

from itertools import combinations

import numpy as np
import pandas as pd

from seqlib import stats
from seqlib.studies.attention_search.arms import FACTORIAL, FACTORS, levels


def by_rate(frame: pd.DataFrame, metric: str = "val_loss_nats") -> pd.DataFrame:
    """Mean of `metric`, a row an arm, a column a learning rate, over the seeds that all rates have."""
    shared = set.intersection(*(set(own.seed) for _, own in frame.groupby("lr")))
    return frame[frame.seed.isin(shared)].groupby(["arm", "lr"])[metric].mean().unstack("lr")


def contrasts(frame: pd.DataFrame, metric: str = "val_loss_nats") -> pd.DataFrame:
    """A row a seed, a column an effect: mean of `metric` over the arms that have a factor less that over those without. A pair
    of factors, `A x B`, is half of how much A's effect changes with B. Seeds without all arms are left out."""
    wide = frame[frame.arm.isin(FACTORIAL)].pivot(index="seed", columns="arm", values=metric)
    wide = wide.reindex(columns=list(FACTORIAL)).dropna()
    sign = {f: np.array([1 if f in levels(arm) else -1 for arm in FACTORIAL]) for f in FACTORS}
    columns = {f: sign[f] for f in FACTORS} | {f"{a} x {b}": sign[a] * sign[b] for a, b in combinations(FACTORS, 2)}
    return pd.DataFrame({name: wide.to_numpy() @ s / (len(FACTORIAL) / 2) for name, s in columns.items()}, index=wide.index)


def effects(frame: pd.DataFrame, metric: str = "val_loss_nats") -> pd.DataFrame:
    """A row an effect: mean, 95% interval over seeds, p by sign flips, adjusted by Holm over the factors and, apart from them,
    over the pairs."""
    table = contrasts(frame, metric)
    rows = [(name, len(own), own.mean(), *stats.bca_interval(own), stats.sign_flip_p(own)) for name, own in table.items()]
    told = pd.DataFrame(rows, columns=["effect", "seeds", "mean", "low", "high", "p"])
    return told.assign(p_holm=stats.holm(list(told.p[: len(FACTORS)])) + stats.holm(list(told.p[len(FACTORS) :])))
