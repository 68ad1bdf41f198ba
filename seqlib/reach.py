"""How far a verdict reaches: over units other than seeds, up to which value of a bound of ours, and
over all settings that the archive holds. None of this changes a verdict."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from seqlib import claims, frames, stats
from seqlib import study as studies
from seqlib.claims import PUBLISHED, Claim, Column, Pairs
from seqlib.errors import UsageError
from seqlib.places import cached_by
from seqlib.record import Record
from seqlib.rules import Verdict, differences, names_of
from seqlib.store import Store

Columns = dict[str, Column | float | str]
DRAWS = 2000
UNIVERSE = ["claim", "pairs", "experiment", "settings", "metric", "seeds", "effect_percent",
            "holds", "p"]


@cached_by(frames.made_of)
def verdicts(name: str) -> list[Verdict]:
    """The verdicts of a study with `populations` and `tipping` filled in."""
    rows, known = [replace(row) for row in claims.study_verdicts(name)], claims.read(name).claims
    for row in (row for row in rows if row.ours):
        claim, runs = known[row.id], frames.archive(name)
        row.tipping = tipping(claim, runs) if claim.bound else {}
        row.populations = over_units(claim, runs) if claim.population else {}
        row.reason = "; ".join(filter(None, [row.reason, *_alone(row)]))
    return rows


def _alone(row: Verdict) -> Iterator[str]:
    """What an interval over seeds excludes and one over seeds and units does not."""
    for units, found in row.populations.items():
        open_ = [f"{pair} [{low:,.4g}, {high:,.4g}]" for pair, (low, high) in found["ci"].items()
                 if low <= 0 <= high and not row.ci[pair][0] <= 0 <= row.ci[pair][1]]
        if open_:
            yield f"certain over seeds, and not over {units} as well: {', '.join(open_)}"


def behind(names: Iterable[str], columns: Columns) -> list[str]:
    """The columns that some are computed from, themselves among them, in the order of `columns`."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        found.add(name)
        if not isinstance(columns[name], Column):
            left += [part for part in claims.names_in(columns[name]) if part in columns]
    return [name for name in columns if name in found]


def over_units(claim: Claim, runs: pd.DataFrame) -> dict[str, dict]:
    """For the units of a claim's population: their number `n`; `ci`, the 95% interval of each pair
    where seeds and units are both drawn anew, each by itself (Owen 2007, Ann. Appl. Stat. 1); and
    `holds`, in how many units the pair has the claimed direction in the mean over seeds."""
    (*_, columns), pairs = claims.compared(claim), claim.test.pairs
    columns = {name: columns[name] for name in behind(names_of(pairs), columns)}
    figures = {name: _by_unit(name, column, claim, runs) for name, column in columns.items()
               if isinstance(column, Column)}
    seeds = sorted(set.intersection(*(set(frame.index) for frame in figures.values())))
    m = max(frame.shape[1] for frame in figures.values())
    if len(seeds) < 2:
        return {}
    rng, n = np.random.default_rng(0), len(seeds)
    drawn, weights = (rng.multinomial(k, np.full(k, 1 / k), DRAWS) / k for k in (n, m))

    def with_weights(weights: np.ndarray) -> dict[str, np.ndarray]:
        """Differences of each pair (seeds, draws), with weights (draws, units) of the units."""
        frame = claims.add_formulas(pd.DataFrame({
            name: (np.broadcast_to(own.loc[seeds].to_numpy(float), (n, m)) @ weights.T).ravel()
            for name, own in figures.items()}), columns)
        return {" - ".join(pair): d.reshape(n, -1)
                for pair, d in differences(frame, pairs).items()}

    ci = {pair: np.quantile((drawn.T * d).sum(0), (0.025, 0.975)).tolist()
          for pair, d in with_weights(weights).items()}
    holds = {pair: int((d.mean(0) < 0).sum()) for pair, d in with_weights(np.eye(m)).items()}
    return {claim.population.units: {"n": m, "ci": ci, "holds": holds}}


def _by_unit(name: str, column: Column, claim: Claim, runs: pd.DataFrame) -> pd.DataFrame:
    """A column's figure of each unit (a column) and seed (a row); one alone where it has none."""
    population = claim.population
    if population.experiment:
        column = column.model_copy(update={"experiment": population.experiment})
    rows = claims.choose(name, column, runs).set_index("seed")
    of_units = population.figures.get(column.metric, [column.metric])
    if isinstance(of_units, list):
        return rows[of_units]
    records = {seed: Store.archive().by_key(row.study, row.key) for seed, row in rows.iterrows()}
    return pd.DataFrame({seed: _along(record, of_units) for seed, record in records.items()}).T


def _along(record: Record, expression: str) -> np.ndarray:
    """An expression over a record's metrics and curves."""
    figures = {**record.metrics, **record.curves}
    frame = pd.DataFrame({name: figures[name] for name in claims.names_in(expression)})
    return frame.eval(expression).to_numpy(float)


def tipping(claim: Claim, runs: pd.DataFrame) -> dict[str, list[float]]:
    """For each pair in which a bound of ours stands, the values of the bound that its test does not
    reject as equality: the verdict is another one beyond them."""
    value, pairs = float(claim.bound.value), claim.test.pairs

    def at(bound: float) -> dict[tuple[str, str], np.ndarray]:
        wide = claims.compute(claims.with_bound(claim, bound), runs)[0][names_of(pairs)].dropna()
        return differences(wide, pairs)

    then, found = at(value + 1), {}
    for pair, d in at(value).items():
        slope = then[pair] - d  # the difference is linear in the bound
        if len(d) >= stats.MINIMUM and slope.any():
            middle = value - d.mean() / slope.mean()
            ends = [_root(lambda bound, end=end, d=d, slope=slope:
                          stats.mean_interval(d + (bound - value) * slope)[end], middle)
                    for end in (0, 1)]
            found[" - ".join(pair)] = sorted(ends)
    return found


def _root(function: Callable[[float], float], middle: float) -> float:
    """Where a monotone function is zero; infinite where that is nowhere near `middle`."""
    reach = 1e3 * max(abs(middle), 1)
    try:
        return float(brentq(function, middle - reach, middle + reach))
    except ValueError:  # of one sign at both ends
        return float("inf")


def universes(name: str) -> pd.DataFrame:
    """Every ranking of a study's claims in all the settings that the archive has it in with two
    seeds or more: a row a claim, set of pairs (as published, or with a repair), experiment,
    settings that vary within it, and metric of the document's `alternatives`. `effect_percent` is
    the relative difference of the weakest pair, less the test's slack, `holds` whether all have the
    claimed direction, `p` the largest of the pairs, NaN below six seeds."""
    document, runs = claims.read(name), frames.archive(name)
    fields = [name for name in studies.get(name).spec.model_fields if name not in ("arm", "seed")]
    varied = runs[fields].astype(str).groupby([runs.experiment, runs.arm]).nunique() > 1
    found = [{"claim": id_, **universe} for id_, claim in document.claims.items() if len(runs)
             and claim.test and claim.test.method == "order" for way in _ways(claim)
             for universe in _settings(*way, claim.test.slack, document.alternatives,
                                       runs=runs, varied=varied)]
    return pd.DataFrame(found, columns=UNIVERSE).drop_duplicates()


def _ways(claim: Claim) -> Iterator[tuple[str, Pairs, Columns]]:
    """The published pairs and those of each repair, by name, each with its columns."""
    _, repairs, columns = claims.compared(claim)
    for way, pairs in {PUBLISHED: claim.test.pairs, **repairs}.items():
        if pairs:
            yield way, pairs, {name: columns[name] for name in behind(names_of(pairs), columns)}


def _settings(way: str, pairs: Pairs, columns: Columns, slack: float,
              alternatives: dict[str, list[str]], runs: pd.DataFrame,
              varied: pd.DataFrame) -> Iterator[dict]:
    chosen = [column for column in columns.values() if isinstance(column, Column)]
    metrics = {c.metric for c in chosen if isinstance(c.metric, str)}
    own = {(str(c.experiment), str(c.where)) for c in chosen}
    choices = [("as declared", None, {})]
    if len(own) == 1:  # columns of different runs cannot be moved together
        arms = {arm for c in chosen for arm in (c.over or [c.arm])}
        of_arms = runs[runs.arm.isin(arms)].groupby("experiment", sort=False)
        choices = [(experiment, experiment, where) for experiment, rows in of_arms
                   if rows.arm.nunique() == len(arms)
                   for where in _different(rows, varied.loc[experiment].loc[[*arms]].any())]
    for shown, experiment, where in choices:
        for metric in [None, *(alternatives.get(next(iter(metrics)), []) if len(metrics) == 1
                               else [])]:
            changed = {name: _moved(column, experiment, where, metric)
                       for name, column in columns.items()}
            there = runs if experiment is None else runs[runs.experiment == experiment]
            wide = _complete(changed, pairs, there)
            if len(wide) >= 2:
                # percent of the second, where that is not zero
                found = differences(wide, pairs, slack)
                effects = [100 * d.mean() / (abs(wide[b].mean()) or 1)
                           for (_, b), d in found.items()]
                enough = len(wide) >= stats.MINIMUM
                yield {"pairs": way, "experiment": shown, "seeds": len(wide),
                       "settings": ", ".join(f"{field} {value}" for field, value in where.items()),
                       "metric": metric or ", ".join(sorted(metrics)),
                       "effect_percent": max(effects), "holds": max(effects) < 0,
                       "p": max(map(stats.sign_flip_p, found.values())) if enough else np.nan}


def _different(rows: pd.DataFrame, varied: pd.Series) -> list[dict]:
    """The settings of some runs, by the fields that vary within an arm."""
    fields = list(varied.index[varied])
    return rows[fields].drop_duplicates().to_dict("records") if fields else [{}]


def _moved(column: Column | float | str, experiment: str | None, where: dict,
           metric: str | None) -> Column | float | str:
    """A column in another experiment, with other settings or another metric."""
    if not isinstance(column, Column):
        return column
    changes = {"metric": metric} if metric else {}
    if experiment:
        changes |= {"experiment": experiment, "where": where}
    return column.model_copy(update=changes)


def _complete(columns: Columns, pairs: Pairs, runs: pd.DataFrame) -> pd.DataFrame:
    """What is compared, with the seeds that have all of it; empty where there is no such metric."""
    try:
        return claims.compute(columns, runs)[0][names_of(pairs)].dropna()
    except UsageError:
        return pd.DataFrame()
