"""Main effects of the factorial design: what a factor changes, whatever the others are."""

from itertools import combinations

import numpy as np
import pandas as pd

from seqlib import stats
from seqlib.studies.attention_search.arms import FACTORIAL, FACTORS


def contrasts(runs: pd.DataFrame, metric: str = "val_loss_nats") -> pd.DataFrame:
    """A row a seed, a column an effect: mean of `metric` over the arms that have a factor less that
    over those without. A pair of factors, `A x B`, is half of how much A's effect changes with B.
    Seeds without all sixteen arms are left out."""
    wide = runs[runs.arm.isin(FACTORIAL)].pivot(index="seed", columns="arm", values=metric)
    wide = wide.reindex(columns=list(FACTORIAL)).dropna()
    sign = {f: np.array([1 if f in has else -1 for has in FACTORIAL.values()]) for f in FACTORS}
    sign |= {f"{a} x {b}": sign[a] * sign[b] for a, b in combinations(FACTORS, 2)}
    half = len(FACTORIAL) / 2
    effects = {name: wide.to_numpy() @ signs / half for name, signs in sign.items()}
    return pd.DataFrame(effects, index=wide.index)


def effects(runs: pd.DataFrame, metric: str = "val_loss_nats") -> pd.DataFrame:
    """A row an effect: seeds, mean, 95% interval over seeds, p by sign flips, and p_holm, adjusted
    over the factors and, apart from them, over the pairs. Empty without a seed of all arms."""
    table = contrasts(runs, metric)
    rows = [(name, len(own), own.mean(), *stats.mean_interval(own), stats.sign_flip_p(own))
            for name, own in table.items() if len(own)]
    found = pd.DataFrame(rows, columns=["effect", "seeds", "mean", "low", "high", "p"])
    main = found.effect.isin(FACTORS)
    adjusted = stats.holm(list(found.p[main])) + stats.holm(list(found.p[~main]))
    return found.assign(p_holm=adjusted)
