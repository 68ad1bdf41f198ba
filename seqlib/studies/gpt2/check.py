"""What has to hold of a user's own base and book before a run trains on them; none of it changes a result."""

import functools

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.studies.gpt2 import bases
from seqlib.studies.gpt2.specs import BASES, content


def inputs(spec) -> None:
    """Raises UsageError where a book or a base in a folder has changed since the run was planned, or the base is unsound."""
    for name, path, planned in (("book_path", spec.book_path, spec.book_sha256), ("base", spec.base, spec.base_sha256)):
        if planned and content(path) != planned:
            raise UsageError(f"{name}: {path} has changed since this run was planned; start it again")
    if spec.base not in BASES:
        sound(spec.base, spec.base_sha256)


@functools.lru_cache(maxsize=4)
def sound(name: str, sha256: str) -> None:
    """Raises SeqlibError, or UsageError, where a base cannot be loaded, lacks weights, is not causal, or its tokenizer has more
    words than it."""
    base, before = bases.locate(name), logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is an error here
    try:
        model, told = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32, use_safetensors=True,
                                                           trust_remote_code=False, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError) as error:
        raise SeqlibError(f"base {name!r} cannot be loaded as a causal language model ({first_line(error)}); "
                          f"{bases.ANOTHER}") from error
    finally:
        logging.set_verbosity(before)
    if told["missing_keys"]:
        raise UsageError(f"base {name!r}: its weights lack {sorted(told['missing_keys'])[0]}, which config.json asks for; save "
                         "the whole model with save_pretrained")
    words, rows = len(bases.tokenizer(base)), model.get_input_embeddings().num_embeddings
    if words > rows:
        raise UsageError(f"base {name!r}: its tokenizer has {words} words, the model {rows}; save the two that belong together")
    states = model.eval().get_input_embeddings()(torch.arange(8)[None] % rows).detach().requires_grad_()
    [slope] = torch.autograd.grad(model(inputs_embeds=states).logits[:, :-1].square().sum(), states)
    if slope[:, -1].any():
        raise UsageError(f"base {name!r} is not causal: a later token changes what it says of earlier ones; {bases.ANOTHER}")
