import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from statsmodels.tsa.ar_model import AutoReg

from seqlib import data, plan, study
from seqlib.errors import SeqlibError
from seqlib.models.forecast import AttentionForecaster, RecurrentForecaster
from seqlib.models.stacked import forward
from seqlib.store import ROOT, Store
from seqlib.studies.airline import protocol
from seqlib.studies.airline.arms import ARMS, PUBLISHED, Arm, attention_bias
from seqlib.studies.airline.baselines import Baseline
from seqlib.studies.airline.reference import train_loop
from seqlib.studies.airline.specs import AirlineSpec
from seqlib.studies.airline.train import ORDER, draw_masks, predict, stream, train_stack
from seqlib.sweep import sweep

STUDY = study.get("airline")
run = STUDY.train
CLASSICAL = [name for name, arm in ARMS.items() if isinstance(arm, Baseline)]
SETTINGS = {"epochs": 4, "batch": 16, "lr": 1e-3, "weight_decay": 1e-5}


@pytest.fixture(scope="module")
def y():
    return protocol.load_series().to_numpy()


@pytest.fixture(scope="module")
def windows(y):
    return protocol.make_windows(y, protocol.splits("published")[0], "level")


def test_the_series_is_the_published_one(y):
    assert len(y) == 144 and y.sum() == 40363 and (y[0], y[-1], y.max()) == (112, 432, 622)


def test_parameter_counts_to_the_unit():
    counts = STUDY.parameters()
    expected = {"lstm": 50497, "gru": 37889, "rope": 33665, "sinusoidal": 33665, "learned": 33917}
    assert {arm: counts[arm]["trainable"] for arm in PUBLISHED} == expected
    assert all(c["trainable"] == c["total"] for c in counts.values())
    for arm in ("lstm-matched", "gru-matched"):
        assert abs(counts[arm]["trainable"] / 33665 - 1) < 0.01


def test_the_published_width_is_the_multiple_of_four_that_best_matches_the_rotary_count():
    """122 would match better; the page says so."""
    models = {h: AttentionForecaster("learned", hidden=h) for h in range(110, 129)}
    off = {h: sum(p.numel() for p in model.parameters()) - 33665 for h, model in models.items()}
    nearest = sorted(off, key=lambda h: abs(off[h]))
    assert ARMS["learned"].hidden == 124 == next(h for h in nearest if h % 4 == 0)
    assert nearest[0] == 122 and (off[122], off[124]) == (-6, 252)


def test_windows_and_splits(y, windows):
    assert [len(windows.target[p]) for p in ("train", "validation", "test")] == [103, 14, 15]
    x = np.stack([y[t - 12 : t] for t in range(12, 115)])
    np.testing.assert_allclose(windows.x["train"] * x.std() + x.mean(), x)
    np.testing.assert_allclose(windows.passengers(windows.target["test"], "test"), y[129:])
    assert windows.x["train"].mean() == pytest.approx(0, abs=1e-12)
    assert windows.x["train"].std() == pytest.approx(1)


@pytest.mark.parametrize("form", ["level", "logdiff", "logdiff2"])
def test_a_representation_undoes_itself_and_sees_no_future(y, form):
    split = protocol.splits("published")[0]
    w = protocol.make_windows(y, split, form)
    for part in ("validation", "test"):
        np.testing.assert_allclose(w.passengers(w.target[part], part), y[w.months[part]])
    changed = y.copy()
    changed[130:] *= 3
    again = protocol.make_windows(changed, split, form)
    np.testing.assert_array_equal(again.x["train"], w.x["train"])
    np.testing.assert_array_equal(again.x["test"][:2], w.x["test"][:2])  # targets 129 and 130


def test_rolling_folds_cover_each_year_once():
    folds = protocol.splits("rolling")
    assert [f.name for f in folds] == ["1955", "1956", "1957", "1958", "1959", "1960"]
    assert all(f.validation_end - f.train_end == f.test_end - f.validation_end == 12 for f in folds)
    assert all(a.test_end == b.validation_end for a, b in zip(folds, folds[1:]))
    assert folds[-1].test_end == 144


def test_error_metrics_by_hand():
    y = np.arange(1.0, 31.0) ** 1.5
    months = np.array([26, 27])
    got = protocol.error_metrics(y, y[months] + np.array([3.0, -1.0]), months, 24, "test")
    scale = np.mean([abs(y[t] - y[t - 12]) for t in range(12, 24)])
    assert got["test_mse"] == 5.0 and got["test_mae"] == 2.0
    assert got["test_rmse"] == pytest.approx(5**0.5)
    assert got["test_mase"] == pytest.approx(2 / scale)
    assert got["test_mape_percent"] == pytest.approx(50 * (3 / y[26] + 1 / y[27]))


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_baseline_uses_nothing_from_the_target_on(y, name):
    split = protocol.splits("published")[0]
    before = ARMS[name].forecast(y, split)
    changed = y.copy()
    changed[135:] = 50.0
    after = ARMS[name].forecast(changed, split)
    np.testing.assert_allclose(after[115:136], before[115:136], rtol=1e-8)
    assert np.isfinite(before[115:]).all()


def test_simple_baselines_by_their_formulas(y):
    split = protocol.splits("published")[0]
    assert ARMS["seasonal-ratio"].forecast(y, split)[140] == pytest.approx(y[128] * y[139] / y[127])
    assert ARMS["naive"].forecast(y, split)[140] == y[139]
    growth = np.log(y[12:115] / y[:103])
    drift = y[128] * np.exp(growth.mean())
    assert ARMS["seasonal-drift"].forecast(y, split)[140] == pytest.approx(drift)
    fitted = AutoReg(growth, 1).fit().params
    next_growth = fitted[0] + fitted[1] * np.log(y[139] / y[127])
    forecast = ARMS["seasonal-ar1"].forecast(y, split)[140]
    assert forecast == pytest.approx(y[128] * np.exp(next_growth))
    assert ARMS["seasonal-naive"].forecast(y, split)[140] == y[128]


def test_holt_winters_by_its_recursion(y):
    """Level, trend and season updated by hand from the fitted weights and states."""
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    split = protocol.splits("published")[0]
    p = ExponentialSmoothing(y[:115], trend="add", seasonal="mul", seasonal_periods=12).fit().params
    a, b, g = (p[k] for k in ("smoothing_level", "smoothing_trend", "smoothing_seasonal"))
    level, trend, season = p["initial_level"], p["initial_trend"], list(p["initial_seasons"])
    out = []
    for t, value in enumerate(y):
        out.append((level + trend) * season[t])
        old = level
        level = a * value / season[t] + (1 - a) * (level + trend)
        trend_old, trend = trend, b * (level - old) + (1 - b) * trend
        season.append(g * value / (old + trend_old) + (1 - g) * season[t])
    np.testing.assert_allclose(ARMS["holt-winters"].forecast(y, split), out, rtol=1e-6)


@pytest.mark.parametrize("arm", ["lstm", "gru", "rope", "learned", "sinusoidal"])
def test_a_seed_in_a_stack_equals_the_seed_alone(windows, arm):
    """Dropout, order and initial weights included: to rounding in double precision."""
    stack = train_stack(ARMS[arm].build, windows, [0, 3, 5], **SETTINGS, dtype=torch.float64)[1]
    for i, seed in enumerate([0, 3, 5]):
        alone = train_stack(ARMS[arm].build, windows, [seed], **SETTINGS, dtype=torch.float64)[1]
        for name, p in alone.params.items():
            torch.testing.assert_close(stack.params[name][i], p[0], rtol=1e-8, atol=1e-10)
        together, own = (np.array(s.curves["train_loss"]) for s in (stack, alone))
        np.testing.assert_allclose(together[:, i], own[:, 0], rtol=1e-9)


@pytest.mark.parametrize("arm", ["lstm", "gru", "rope", "sinusoidal"])
def test_stacked_training_equals_a_plain_loop_over_the_published_module(windows, arm):
    """Without dropout (whose draws differ), from the same weights in the same order, in double
    precision."""
    settings = {k: v for k, v in SETTINGS.items() if k != "epochs"}

    def build():
        if arm in ("lstm", "gru"):
            return RecurrentForecaster(arm, 16, dropout=0.0)
        return AttentionForecaster(arm, width=16, hidden=24, dropout=0.0, attention_dropout=0.0)

    seed = 7
    stack = train_stack(build, windows, [seed], epochs=3, **settings, dtype=torch.float64)[1]
    torch.manual_seed(seed)
    model = build().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"],
                                 weight_decay=settings["weight_decay"])
    x, target = (torch.tensor(v["train"], dtype=torch.float64) for v in (windows.x, windows.target))
    for epoch in range(3):
        order = torch.from_numpy(stream(seed, ORDER, epoch).permutation(len(x)))
        for part in order.split(settings["batch"]):
            loss = (model(x[part]) - target[part]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(stack.params[name][0], p, rtol=1e-7, atol=1e-9)


def test_arms_of_one_seed_see_the_same_order_and_seeds_do_not(windows, monkeypatch):
    """The batches that reach two different models, for two seeds."""
    seen = {}

    def spy(model, params, x, masks=None):
        if x.requires_grad is False and x.shape[1] in (16, 7):
            seen.setdefault(type(model).__name__, []).append(x.clone())
        return forward(model, params, x, masks)

    monkeypatch.setattr("seqlib.studies.airline.train.forward", spy)
    for arm in ("lstm", "rope"):
        train_stack(ARMS[arm].build, windows, [3, 4], **{**SETTINGS, "epochs": 2})
    lstm, rope = seen["RecurrentForecaster"], seen["AttentionForecaster"]
    assert len(lstm) == len(rope) == 14 and all(torch.equal(a, b) for a, b in zip(lstm, rope))
    assert not torch.equal(lstm[0][0], lstm[0][1]) and not torch.equal(lstm[0], lstm[7])


def test_dropout_masks_have_their_rate_and_scale():
    masks = draw_masks({"a": (0.2, (12, 64))}, [0, 1], 0, 103, torch.float32)["a"]
    assert masks.shape == (2, 103, 12, 64) and not torch.equal(masks[0], masks[1])
    kept = (masks > 0).float().mean().item()
    assert kept == pytest.approx(0.8, abs=0.005)
    assert masks.max().item() == pytest.approx(1 / 0.8, rel=1e-4)


def test_resume_equals_an_uninterrupted_run(windows):
    saved, args = [], (ARMS["gru"].build, windows, [1, 2])
    whole = train_stack(*args, **SETTINGS, every=2,
                        checkpoint=lambda tensors: saved.append(save(tensors)))[1]
    (checkpoint,) = map(load, saved)
    assert int(checkpoint["number.epoch"]) == 2
    resumed = train_stack(*args, **SETTINGS, resume=checkpoint)[1]
    for name in whole.params:
        assert torch.equal(whole.params[name], resumed.params[name])
    np.testing.assert_array_equal(whole.curves["val_loss"], resumed.curves["val_loss"])


def test_the_same_spec_gives_the_same_record_twice(tmp_path):
    specs = [AirlineSpec(arm="rope", seed=s, epochs=3) for s in range(5)]
    first, second = run(specs), run(specs)
    for a, b in zip(first, second):
        assert a.curves == b.curves and a.key == b.key
        kept = a.metrics.keys() - {"seconds", "peak_rss_mb"}
        assert a.metrics.keys() == b.metrics.keys()
        assert {k: a.metrics[k] for k in kept} == {k: b.metrics[k] for k in kept}


def test_attention_metrics_of_a_model_that_attends_evenly(windows):
    class Even(AttentionForecaster):
        def __init__(self):
            super().__init__("learned")
            torch.nn.init.zeros_(self.attention.in_proj_weight)

    from seqlib.studies.airline.run import describe

    model, stack = train_stack(Even, windows, [0], **{**SETTINGS, "epochs": 1, "lr": 1e-12})
    metrics, curves = [{}], [{}]
    describe(model, stack, windows, metrics, curves)
    assert metrics[0]["attention_mass_last3"] == pytest.approx(0.25, abs=1e-3)
    assert metrics[0]["attention_entropy_nats"] == pytest.approx(np.log(12), abs=1e-3)
    assert metrics[0]["attention_centre_month"] == pytest.approx(5.5, abs=1e-2)
    assert sum(curves[0]["attention_profile"]) == pytest.approx(1, abs=1e-6)


def test_the_plain_loop_and_the_stack_agree_in_distribution(windows):
    """Same arm, other dropout draws: mean validation losses after a few epochs lie close
    together."""
    settings, build = {**SETTINGS, "epochs": 20}, ARMS["rope"].build
    stack = train_stack(build, windows, list(range(6)), **settings)[1]
    loops = [train_loop(build, windows, seed, **settings)[1]["val_loss"][-1] for seed in range(6)]
    ours = stack.curves["val_loss"][-1]
    assert abs(np.mean(loops) - ours.mean()) < 4 * np.hypot(np.std(loops), ours.std()) / np.sqrt(6)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_run(monkeypatch):
    monkeypatch.setitem(ARMS, "gru", Exploding("gru", 64))
    wanted = "airline/gru seed 3: .* is not finite.*lower the learning rate"
    with pytest.raises(SeqlibError, match=wanted):
        run([AirlineSpec(arm="gru", seed=3, epochs=1)])


class Exploding(Arm):
    """An arm whose weights are too large for single precision to square its errors."""

    def build(self):
        model = super().build()
        torch.nn.init.constant_(model.head.weight, 1e30)
        return model


def test_a_baseline_has_an_engine_of_its_own():
    assert AirlineSpec(arm="sarima").engine == "classical"
    for arm, engine in (("sarima", "stacked"), ("lstm", "classical")):
        with pytest.raises(ValidationError, match="baselines such as sarima want classical"):
            AirlineSpec(arm=arm, engine=engine)


def test_the_weight_decay_of_a_spec_is_that_of_its_arm_unless_it_is_named():
    assert AirlineSpec(arm="lstm").weight_decay == 1e-5
    assert AirlineSpec(arm="lstm-logdiff-wd0.1").weight_decay == 0.1
    assert AirlineSpec(arm="lstm-logdiff-wd0.1", weight_decay=0.5).weight_decay == 0.5


def test_changed_data_stops_a_sweep_before_it_trains(tmp_path, monkeypatch):
    wrong = tmp_path / "series.csv"
    wrong.write_text(data.AIRLINE.read_text().replace("112", "113", 1))
    monkeypatch.setattr(data, "AIRLINE", wrong)
    with pytest.raises(SeqlibError, match="sha256.*expected"):
        sweep([AirlineSpec(arm="naive", engine="classical")], Store(tmp_path / "store"), quiet=True)
    assert not (tmp_path / "store").exists()


def test_predictions_keep_the_shape_of_the_seeds(windows):
    model, stack = train_stack(ARMS["lstm"].build, windows, [0, 1], **{**SETTINGS, "epochs": 1})
    assert predict(model, stack, windows.x["test"]).shape == (2, 15)


def test_a_dose_moves_attention_and_forbids_as_many_months_as_it_says():
    assert attention_bias("recent 2").tolist() == [-22 + 2 * month for month in range(12)]
    assert torch.isinf(attention_bias("not-recent 6")).tolist() == [False] * 6 + [True] * 6
    assert attention_bias("") is None
    assert ARMS["rope-recent-2"].build().bias.equal(attention_bias("recent 2"))


def test_the_runs_under_the_torch_that_the_document_names_are_of_that_torch():
    made = [Store(ROOT / "results").get(spec) for spec in plan.specs("airline", "loop-torch-2.5.1")]
    versions = {record.provenance["versions"]["torch"] for record in made}
    assert {version.partition("+")[0] for version in versions} == {"2.5.1"}
