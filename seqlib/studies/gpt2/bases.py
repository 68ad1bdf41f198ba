"""Base models: GPT-2, its stand-in, a tiny random one for tests, any local or hub causal language model.

Weights load from safetensors alone and remote code is never run, whatever a base asks for.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from seqlib import data, smollm
from seqlib.errors import SeqlibError, UsageError
from seqlib.studies.gpt2.specs import BASES, TINY

ATTENTION = {"gpt2": ("c_attn",), "llama": ("q_proj", "k_proj", "v_proj")}  # projections into attention, by architecture


@dataclass(frozen=True)
class Base:
    """A base model that can be loaded: `folder` is None for the tiny one, `sha256` that of its weights."""

    name: str
    folder: Path | None
    sha256: str


def locate(name: str) -> Base:
    """A base by the name of a data set, by folder, or by its name on the hub. Raises SeqlibError where there is none."""
    if name == TINY:
        return Base(name, None, hashlib.sha256(repr(_tiny_config()).encode()).hexdigest())
    if name in BASES:
        found = data.locate(name)
        return Base(name, Path(found.path).parent, found.sha256)
    folder = Path(name).expanduser() if Path(name).expanduser().is_dir() else _from_hub(name)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").exists():
        raise UsageError(f"base {name!r}: {folder} has no {'*.safetensors' if not weights else 'config.json'}; save the model "
                         "there with save_pretrained, or name another base")
    return Base(name, folder, _hash(tuple(weights), tuple(w.stat().st_mtime_ns for w in weights)))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    way_out = f"choose {', '.join(BASES[:2])}, a folder with a saved model, or a causal model of the hub"
    try:
        return Path(snapshot_download(name, allow_patterns=smollm.WEIGHTS, local_files_only=not data.hub()))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError) as error:
        why = "does not exist on the hub" if data.hub() else "is no folder, and the hub cannot be reached to look for it"
        raise UsageError(f"base {name!r} {why}; {way_out}") from error


@functools.lru_cache(maxsize=8)
def _hash(files: tuple[Path, ...], _changed: tuple[int, ...]) -> str:
    """sha256 over the hashes of all shards."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


@functools.lru_cache(maxsize=4)
def tokenizer(base: Base) -> PreTrainedTokenizerFast:
    if base.folder is None:
        plain = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        plain.pre_tokenizer, plain.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        return PreTrainedTokenizerFast(tokenizer_object=plain)
    return AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False, use_fast=True)


def model(base: Base) -> PreTrainedModel:
    """The base in float32 with attention by `scaled_dot_product_attention` and no cache of keys while it trains."""
    if base.folder is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = AutoModelForCausalLM.from_config(_tiny_config())
    else:
        try:
            made = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32, use_safetensors=True,
                                                        trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise SeqlibError(f"base {base.name!r} cannot be loaded as a causal language model ({reason}); name another"
                              ) from error
    made.config.use_cache = False
    return made


def outline(name: str) -> PreTrainedModel:
    """The architecture without weights, to count by; GPT-2's needs no download."""
    if name == smollm.GPT2:
        config = GPT2Config()
    elif name == TINY:
        config = _tiny_config()
    else:
        config = AutoConfig.from_pretrained(locate(name).folder, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def attention_targets(base: PreTrainedModel) -> list[str]:
    """Names of the projections into attention, which are what the document adapts (`c_attn` in GPT-2)."""
    kind = base.config.model_type
    if kind not in ATTENTION:
        raise UsageError(f"no attention targets are known for models of type {kind!r}; name them with targets")
    return list(ATTENTION[kind])


def _tiny_config() -> LlamaConfig:
    return LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
                       bos_token_id=None, eos_token_id=None)
