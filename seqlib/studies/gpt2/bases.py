"""Base models: GPT-2, its stand-in, a tiny random one for tests, any causal language model of a
folder or the hub.

Weights load from safetensors alone and remote code is never run, whatever a base asks for.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from seqlib import data, smollm
from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.studies.gpt2.specs import BASES, TINY, TuneSpec, content

HUB_NAMES = {smollm.GPT2: smollm.GPT2_ON_HUB}
ANOTHER = (f"choose {', '.join(BASES[:2])}, a folder with a saved model, or a causal model of the "
           "hub")
UNLOADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError,
              SafetensorError)


@dataclass(frozen=True)
class Base:
    """A base model: `folder` is None for the tiny one, `sha256` that of its weights."""

    name: str
    folder: Path | None
    sha256: str


def locate(name: str) -> Base:
    """A base by the name of a data set, by folder, or by its name on the hub. Raises SeqlibError
    where there is none."""
    if name == TINY:
        return Base(name, None, hashlib.sha256(repr(_tiny_config()).encode()).hexdigest())
    if name in BASES:
        found = data.locate(name)
        return Base(name, Path(found.path).parent, found.sha256)
    given = Path(name).expanduser()
    folder = given if given.is_dir() else _from_hub(name)
    if (folder / "adapter_config.json").exists():
        raise UsageError(f"base {name!r}: {folder} holds an adapter, which is no base; name the "
                         "model that it belongs to")
    for wanted in ("*.safetensors", "config.json"):
        if not list(folder.glob(wanted)):
            raise UsageError(f"base {name!r}: {folder} has no {wanted}; save the model there, or "
                             f"{ANOTHER}")
    return Base(name, folder, content(str(folder), "base"))


def _from_hub(name: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=smollm.WEIGHTS,
                                      local_files_only=not data.hub()))
    except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
        cause, why = error, "does not exist on the hub"
    except errors.LocalEntryNotFoundError as error:
        cause, why = error, "the hub cannot be reached to look for it"
    except Exception as error:  # whatever else the hub's client raises: the way out is the same
        raise SeqlibError(f"base {name!r}: the hub did not give it ({first_line(error)}); {ANOTHER}"
                          ) from error
    raise UsageError(f"base {name!r} is no folder, and {why}; {ANOTHER}") from cause


@functools.lru_cache(maxsize=4)
def tokenizer(base: Base) -> PreTrainedTokenizerFast:
    """The base's tokenizer, which cuts nothing off. Raises SeqlibError where there is none."""
    if base.folder is None:
        alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        plain = Tokenizer(models.BPE(alphabet, []))
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        plain.decoder = decoders.ByteLevel()
        return PreTrainedTokenizerFast(tokenizer_object=plain)
    try:
        found = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False, use_fast=True)
        found.backend_tokenizer.no_truncation()
        found.backend_tokenizer.no_padding()
        return found
    except Exception as error:  # of many kinds, as many as there are tokenizers
        raise SeqlibError(f"base {base.name!r} has no tokenizer that can be loaded "
                          f"({first_line(error)}); save one beside its weights with "
                          "save_pretrained") from error


def model(base: Base) -> PreTrainedModel:
    """The base in float32 with attention by `scaled_dot_product_attention` and no cache of keys
    while it trains. Raises SeqlibError when it is no causal language model or is damaged."""
    if base.folder is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = AutoModelForCausalLM.from_config(_tiny_config())
    else:
        made, _ = _load(base)
    made.config.use_cache = False
    return made


def _load(base: Base) -> tuple[PreTrainedModel, dict]:
    """A model and what transformers reports of the loading."""
    try:
        return AutoModelForCausalLM.from_pretrained(
            base.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True)
    except UNLOADABLE as error:
        raise SeqlibError(f"base {base.name!r} cannot be loaded as a causal language model "
                          f"({first_line(error)}); {ANOTHER}") from error


def outline() -> PreTrainedModel:
    """GPT-2's architecture without weights, to count by."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(GPT2Config())


def check(spec: TuneSpec) -> None:
    """Raises UsageError where a user's book or base has changed since the run was planned, or the
    base is unsound."""
    for name, path, planned in (("book_path", spec.book_path, spec.book_sha256),
                                ("base", spec.base, spec.base_sha256)):
        if planned and content(path, name) != planned:
            raise UsageError(f"{name}: {path} has changed since this run was planned; start it "
                             "again")
    if spec.base not in BASES:
        sound(spec.base, spec.base_sha256)


@functools.lru_cache(maxsize=4)
def sound(name: str, sha256: str) -> None:
    """Raises SeqlibError, or UsageError, where a base cannot be loaded, lacks weights, is not
    causal, or its tokenizer has more words than it. `sha256` is that of its weights."""
    base = locate(name)
    with smollm.errors_alone():  # what transformers would warn of is an error here
        model, report = _load(base)
    if report["missing_keys"]:
        raise UsageError(f"base {name!r}: its weights lack {min(report['missing_keys'])}, which "
                         "config.json asks for; save the whole model with save_pretrained")
    embedding = model.eval().get_input_embeddings()
    words, rows = len(tokenizer(base)), embedding.num_embeddings
    if words > rows:
        raise UsageError(f"base {name!r}: its tokenizer has {words} words, the model {rows}; save "
                         "the two that belong together")
    states = embedding(torch.arange(8)[None] % rows).detach().requires_grad_()
    earlier = model(inputs_embeds=states).logits[:, :-1]
    [slope] = torch.autograd.grad(earlier.square().sum(), states)
    if slope[:, -1].any():
        raise UsageError(f"base {name!r} is not causal: a later token changes what it says of "
                         f"earlier ones; {ANOTHER}")


def check_context(made: PreTrainedModel, context: int) -> None:
    """Raises UsageError where a base has fewer positions than a window."""
    most = getattr(made.config, "max_position_embeddings", None)
    if most and context > most:
        raise UsageError(f"context: {context} is more than the {most} positions of the base; lower "
                         "it")


def _tiny_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None)
