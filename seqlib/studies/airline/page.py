"""What the airline page says, computed from records: tables, figures with captions, sentences with numbers."""

import numpy as np
import pandas as pd

from seqlib import claims, show, stats
from seqlib.data import locate
from seqlib.studies.airline import figures, protocol
from seqlib.studies.airline.arms import ARMS, ATTENTION, PUBLISHED, RECURRENT
from seqlib.study import get
from seqlib.summaries import curve_frame, interval, own_verdicts, quantiles, summary

NAMES = {"holt-winters": "Holt-Winters", "sarima": "SARIMA"}


def split_frame(records, engine: str = "stacked", kind: str = "published") -> pd.DataFrame:
    frame = claims.frame(records)
    return frame[(frame.engine == engine) & (frame.protocol == kind)]


def baseline_lines(records, metric: str = "test_mae", kind: str = "published") -> dict[str, float]:
    """Error of each baseline."""
    classical = split_frame(records, "classical", kind)
    return dict(zip(classical.arm, classical[metric]))


def results(records, arms=PUBLISHED) -> pd.DataFrame:
    """One row an arm, lowest test MAE first: errors in thousands of passengers, gap, seconds."""
    frame = split_frame(records)
    rows, order = [], frame[frame.arm.isin(arms)].groupby("arm").test_mae.mean().sort_values().index
    for arm in order:
        own = frame[frame.arm == arm]
        rows.append({"arm": arm, "seeds": len(own), "valid. MAE": own.validation_mae.mean(),
                     "test MAE [95% CI]": interval(own.test_mae), "test MSE [95% CI]": interval(own.test_mse, 0),
                     "MAPE %": own.test_mape_percent.mean(), "MASE": own.test_mase.mean(),
                     "gap": own.generalisation_gap.mean(), "s / seed": own.seconds.mean()})
    return pd.DataFrame(rows)


def baselines(records) -> pd.DataFrame:
    classical = split_frame(records, "classical")
    columns = {"arm": "baseline", "validation_mae": "validation MAE", "test_mae": "test MAE", "test_mse": "test MSE",
               "test_mape_percent": "MAPE %", "test_mase": "MASE"}
    return classical[list(columns)].rename(columns=columns).sort_values("test MAE")


def stacked(records, arms) -> list:
    """Records of `arms` on the published split, trained all seeds at once."""
    return [r for r in records if r.spec["engine"] == "stacked" and r.spec["protocol"] == "published"
            and r.spec["arm"] in arms]


def show_losses(records, where: str) -> None:
    chosen, frame = stacked(records, PUBLISHED), split_frame(records)
    ratio = (frame[frame.arm.isin(PUBLISHED)].groupby("arm").val_loss.mean()
             / frame[frame.arm.isin(PUBLISHED)].groupby("arm").train_loss.mean())
    data = pd.concat([quantiles(curve_frame(chosen, name, first=1)).assign(curve=name)
                      for name in ("train_loss", "val_loss")]).rename(columns={"x": "epoch"})
    show.figure(lambda: figures.losses(chosen), name=f"airline-losses-{where}", data=data,
                alt="Training and validation loss by epoch for five arms, median over seeds with a 95% band.",
                caption=f"After the last epoch the validation loss is {ratio.min():.1f} times ({ratio.idxmin()}) to "
                        f"{ratio.max():.1f} times ({ratio.idxmax()}) the training loss. Line: median; band: 95% of seeds.")


def show_errors(records, arms, where: str, caption: str) -> None:
    frame = split_frame(records)
    frame = frame[frame.arm.isin(arms)]
    lines = baseline_lines(records)
    show.figure(lambda: figures.errors(frame, lines), name=f"airline-errors-{where}",
                data=frame[["arm", "seed", "test_mae", "test_mse"]], caption=caption,
                alt="Test error by arm: one dot a seed, mean with 95% interval, baselines as dashed vertical lines.")


def published_caption(records) -> str:
    frame, lines = split_frame(records), baseline_lines(records)
    best = summary(frame[frame.arm.isin(PUBLISHED)], "test_mae").iloc[0]
    beaten_by = sorted((n for n, v in lines.items() if v < best.low), key=lines.get)
    return (f"On the published protocol {best.arm} is best with a test MAE of {best['mean']:.1f} "
            f"[{best.low:.1f}, {best.high:.1f}], and {len(beaten_by)} of {len(lines)} classical baselines are better "
            f"still: {', '.join(f'{n} ({lines[n]:.1f})' for n in beaten_by)}.")


def repaired_caption(records) -> str:
    frame = split_frame(records)
    means = frame.groupby("arm").test_mae.mean()
    gains = ", ".join(f"{a} {means[a]:.0f} to {means[f'{a}-logdiff']:.0f}" for a in PUBLISHED)
    return (f"Test MAE with the input logged and seasonally differenced: {gains}. Equal dropout moves rope from "
            f"{means['rope']:.1f} to {means['rope-dropout']:.1f}, matched parameters lstm from {means['lstm']:.1f} to "
            f"{means['lstm-matched']:.1f}.")


def show_bars(records) -> None:
    frame = claims.frame(records)
    frame = frame[(frame.protocol == "published") & frame.arm.isin(PUBLISHED)]
    seconds = frame.groupby(["arm", "engine"]).seconds.agg(["mean", "count"]).reset_index()
    counts = {arm: get("airline").arms[arm]()["trainable"] for arm in PUBLISHED}
    wide = seconds.pivot(index="arm", columns="engine", values="mean")
    speed = (wide["loop"] / wide["stacked"]) if "loop" in wide else None
    told = f"all seeds at once take {1 / speed.max():.0%} to {1 / speed.min():.0%} of a plain loop's time a seed" if (
        speed is not None) else "the plain loop has not been timed here"
    show.figure(lambda: figures.bars(counts, seconds), name="airline-cost", data=seconds,
                alt="Bars of trainable parameters and of seconds a seed for five arms.",
                caption=f"The LSTM has {counts['lstm'] / counts['rope']:.2f} times the weights of the rotary arm; {told}.")


def show_profiles(records) -> None:
    frame, chosen = split_frame(records).groupby("arm").attention_mass_last3.mean(), stacked(records, ATTENTION)
    data = quantiles(curve_frame(chosen, "attention_profile"))
    oldest = data[data.x == 0].set_index("arm")["median"]
    told = "; ".join(f"{a} {oldest[a]:.2f} and {frame[a]:.2f}" for a in ATTENTION)
    show.figure(lambda: figures.profiles(chosen, ATTENTION), name="airline-attention", data=data,
                alt="Attention weight of the last query on each of the twelve months, three encodings.",
                caption=f"Weight on the same month a year before (t-12), and on the last three months together: {told}. "
                        f"Uniform attention would give 0.08 and 0.25.")


def show_forecasts(records, arms: tuple[str, ...], caption: str) -> None:
    chosen = stacked(records, arms)
    classical = {r.spec["arm"]: r.curves["forecast_test"] for r in records
                 if r.spec["engine"] == "classical" and r.spec["protocol"] == "published"}
    data = quantiles(curve_frame(chosen, "forecast_test")).rename(columns={"x": "test_month"})
    show.figure(lambda: figures.forecasts(chosen, arms, {"sarima": classical["sarima"]}), name="airline-forecasts",
                alt="Forecasts over the fifteen test months, one panel an arm, with the truth and SARIMA.",
                caption=caption, data=data)


def forecast_caption(records, arms=PUBLISHED) -> str:
    series, bias = protocol.load_series().to_numpy()[protocol.splits("published")[0].validation_end :], {}
    for r in stacked(records, arms):
        bias.setdefault(r.spec["arm"], []).append(np.mean(np.array(r.curves["forecast_test"]) - series))
    told = ", ".join(f"{arm} {np.mean(v):+.0f}" for arm, v in bias.items())
    return f"Mean error over the test months, in thousands of passengers (below zero: forecast too low): {told}."


def show_rolling(records) -> None:
    frame = claims.frame(records)
    frame = frame[frame.protocol == "rolling"]
    arms = {"lstm": "-", "learned": "-", "lstm-logdiff-wd0.1": "--", "learned-logdiff-wd0.1": "--"}
    means = frame.groupby("arm").test_mae.mean()
    networks = means[[a for a in means.index if a in ARMS]]
    show.figure(lambda: figures.rolling(frame, arms, ("holt-winters", "sarima")), name="airline-rolling",
                data=frame[["arm", "seed", "test_mae", *[f"test_mae_{y}" for y in protocol.ROLLING_YEARS]]],
                alt="Test error in each year from 1955 to 1960 for selected arms and two baselines.",
                caption=f"Over six test years the network that is best in hindsight, {networks.idxmin()}, has a mean MAE "
                        f"of {networks.min():.1f}; Holt-Winters {means['holt-winters']:.1f}, SARIMA {means['sarima']:.1f}.")


def rolling_table(records) -> pd.DataFrame:
    frame = claims.frame(records)
    frame = frame[frame.protocol == "rolling"]
    rows = [{"arm": arm, "runs": len(own), "mean MAE [95% CI]": interval(own.test_mae) if len(own) > 1 else
             f"{own.test_mae.iloc[0]:.1f}", **{str(y): own[f"test_mae_{y}"].mean() for y in protocol.ROLLING_YEARS}}
            for arm, own in frame.groupby("arm")]
    return pd.DataFrame(rows).sort_values("mean MAE [95% CI]", key=lambda c: c.str.split().str[0].astype(float))


def chosen_arm(records) -> tuple[str, pd.DataFrame]:
    """The arm with the lowest mean validation MAE, and its runs. Test months play no part."""
    frame = split_frame(records)
    arm = frame.groupby("arm").validation_mae.mean().idxmin()
    return arm, frame[frame.arm == arm]


def against_baselines(records) -> str:
    """Does an arm chosen on validation beat Holt-Winters on test MAE?"""
    arm, own = chosen_arm(records)
    lines, tried = baseline_lines(records), split_frame(records).arm.nunique()
    validation = baseline_lines(records, "validation_mae")
    text = [f"Of {tried} arms, **{arm}** has the lowest validation MAE ({own.validation_mae.mean():.1f}; Holt-Winters "
            f"{validation['holt-winters']:.1f}, SARIMA {validation['sarima']:.1f}). Its test MAE is {interval(own.test_mae)}."]
    seeds = stats.bca_interval(own.test_mae)
    for name in NAMES:
        text.append(f"{NAMES[name]} has {lines[name]:.1f}: {side(*seeds, lines[name])} over seeds, and "
                    f"{months_apart(records, arm, name, 'published')}.")
    if len([r for r in records if r.spec["protocol"] == "rolling" and r.spec["arm"] == arm]):
        told = "; ".join(f"against {NAMES[name]}, {months_apart(records, arm, name, 'rolling')}" for name in NAMES)
        text.append(f"Over the six rolling years (two of which share months with the validation that chose the arm): {told}.")
    return " ".join(text)


def side(low: float, high: float, value: float) -> str:
    """Where an interval of errors lies, seen from `value`."""
    return "better" if high < value else "worse" if low > value else "no different"


def month_difference(records, arm: str, baseline: str, kind: str) -> tuple[int, float, float, float]:
    """Months, and the difference in absolute error (mean over seeds) with its interval over the months: a few test months
    are a small sample, however many seeds there are."""
    y = protocol.load_series().to_numpy()
    truth = np.concatenate([y[split.validation_end : split.test_end] for split in protocol.splits(kind)])

    def errors(name, engine):
        own = [r.curves["forecast_test"] for r in records
               if (r.spec["arm"], r.spec["engine"], r.spec["protocol"]) == (name, engine, kind)]
        return np.abs(np.array(own) - truth).mean(0)

    difference = errors(arm, "stacked") - errors(baseline, "classical")
    return len(truth), float(difference.mean()), *stats.bca_interval(difference)


def months_apart(records, arm: str, baseline: str, kind: str) -> str:
    months, mean, low, high = month_difference(records, arm, baseline, kind)
    return f"over {months} months a difference of {mean:+.1f} [{low:+.1f}, {high:+.1f}], {side(low, high, 0.0)}"


def reach(means: pd.Series, family, suffix: str = "") -> str:
    values = [means[f"{arm}{suffix}"] for arm in family]
    return f"{min(values):.0f} to {max(values):.0f}"


def headline(records, verdicts: dict[str, claims.Verdict]) -> str:
    """The answer in one line, for the front page."""
    means, lines = split_frame(records).groupby("arm").test_mae.mean(), baseline_lines(records)
    return (f"Attention over recurrence: {verdicts['A04'].verdict}. Test MAE {reach(means, ATTENTION)} against "
            f"{reach(means, RECURRENT)} thousand as published, {reach(means, ATTENTION, '-logdiff')} against "
            f"{reach(means, RECURRENT, '-logdiff')} on seasonal log differences; SARIMA has {lines['sarima']:.1f}.")


def answer(records) -> str:
    """The page's first lines: the answer, and how sure."""
    row, lines = own_verdicts("airline")["A04"], baseline_lines(records)
    means = split_frame(records).groupby("arm").test_mae.mean()
    repaired = row.repairs["log seasonal difference as input"]["verdict"]
    arm, own = chosen_arm(records)
    told = "; ".join(f"{side(*stats.bca_interval(own.test_mae), lines[name])} than {NAMES[name]} ({lines[name]:.1f}) over "
                     f"seeds, {side(*month_difference(records, arm, name, 'published')[2:], 0.0)} over the test months"
                     for name in NAMES)
    return (f"**Attention against recurrence: {row.verdict}.** On the published protocol, over {row.seeds} paired seeds, the "
            f"attention arms have a test MAE of {reach(means, ATTENTION)} thousand passengers and the recurrent arms "
            f"{reach(means, RECURRENT)}. With the seasonal log difference as input it is "
            f"{reach(means, ATTENTION, '-logdiff')} against {reach(means, RECURRENT, '-logdiff')}, and the same claim is "
            f"{repaired}. The arm that validation chooses, {arm}, has {interval(own.test_mae)}: {told}.")


def describe_data() -> str:
    series, found, split = protocol.load_series(), locate("airline"), protocol.splits("published")[0]
    test, ceiling = series[split.validation_end :], series[: split.train_end].max()
    return (f"{len(series)} monthly totals in thousands, {series.index[0]} to {series.index[-1]}, from {found.source} (sha256 "
            f"`{found.sha256[:16]}…`). The largest training value is {ceiling:.0f}, and {(test > ceiling).sum()} of the "
            f"{len(test)} test months lie above it. The mean of the test months is {test.mean():.0f}, of the training "
            f"months {series[: split.train_end].mean():.0f}.")


def describe_live(records, trained, params) -> str:
    machine, seconds = records[0].provenance["machine"], sum(r.metrics.get("seconds", 0) for r in records)
    return (f"{len(records)} runs ({params.seeds} seeds an arm, {params.epochs} epochs, and the baselines), {len(trained)} of "
            f"them trained now, the others earlier by the same code: {seconds:.0f} s of training on {machine['cpu']}, "
            f"{machine['cores']} cores.")


def interventions(records) -> str:
    """A12 in words."""
    m = split_frame(records).groupby("arm")[["attention_mass_last3", "test_mse"]].mean()
    row = own_verdicts("airline")["A12"]
    return (f"Forcing the rotary arm to look at recent months raises the mass on the last three from "
            f"{m.attention_mass_last3['rope']:.2f} to {m.attention_mass_last3['rope-recent']:.2f}, and its test MSE goes "
            f"from {m.test_mse['rope']:.0f} to {m.test_mse['rope-recent']:.0f}. Forbidding the learned arm those months "
            f"takes {m.attention_mass_last3['learned']:.2f} to {m.attention_mass_last3['learned-not-recent']:.2f}, and its "
            f"MSE from {m.test_mse['learned']:.0f} to {m.test_mse['learned-not-recent']:.0f}. Verdict on A12: "
            f"**{row.verdict}**.")


def meaning(records) -> str:
    """The reading of the verdicts, with the effects it rests on."""
    rows = own_verdicts("airline")
    means = split_frame(records).groupby("arm").test_mae.mean()
    loss = {a: 100 * (1 - means[f"{a}-logdiff"] / means[a]) for a in PUBLISHED}

    def apart(suffix=""):
        return abs(np.mean([means[a + suffix] for a in RECURRENT]) - np.mean([means[a + suffix] for a in ATTENTION]))

    loop = split_frame(records, "loop").groupby("arm").seconds.mean()

    def repairs(row):
        return ", ".join(f"{name}: {repair['verdict']}" for name, repair in row.repairs.items())

    def told(row):
        return ", ".join(f"{k}: {row.ours[k]:.0f} [{row.ci[k][0]:.0f}, {row.ci[k][1]:.0f}]" for k in row.ours)

    return "\n".join([
        f"- **Family.** A04 is {rows['A04'].verdict}. The seasonal log difference lowers the test MAE by "
        f"{min(loss.values()):.0f}% ({min(loss, key=loss.get)}) to {max(loss.values()):.0f}% ({max(loss, key=loss.get)}), and "
        f"the distance between the family means from {apart():.1f} to {apart('-logdiff'):.1f} thousand passengers.",
        f"- **Encodings.** A05 is {rows['A05'].verdict} (differences in test MSE: {told(rows['A05'])}), A07 is "
        f"{rows['A07'].verdict} ({told(rows['A07'])}). With dropout made equal: {repairs(rows['A05'])} for A05, "
        f"{repairs(rows['A07'])} for A07.",
        f"- **Cells.** A06 is {rows['A06'].verdict} ({told(rows['A06'])}; {repairs(rows['A06'])}).",
        f"- **Speed.** A13 is {rows['A13'].verdict}: in a plain loop the LSTM takes {loop['lstm']:.1f} s, the GRU "
        f"{loop['gru']:.1f} s, the attention arms {min(loop[a] for a in ATTENTION):.1f} to "
        f"{max(loop[a] for a in ATTENTION):.1f} s for 150 epochs.",
        f"- **Single runs.** Of the document's figures, A02 is {rows['A02'].verdict}, A03 {rows['A03'].verdict}, A08 "
        f"{rows['A08'].verdict}, A09 {rows['A09'].verdict}, A10 {rows['A10'].verdict}, A11 {rows['A11'].verdict}.",
    ])
