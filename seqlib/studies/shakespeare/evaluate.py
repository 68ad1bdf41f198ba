"""What a trained character model can do, measured on every validation character once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqlib import devices
from seqlib.studies.shakespeare.corpus import Corpus, gather

EVALUATED = 4096  # characters a forward pass
GIVEN = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # characters of context
GRAM = 5  # characters whose frequency in the training text is counted
FREQUENCIES = (0, 1, 10, 100, 1000)  # lower ends of the bins of that frequency


@dataclass(frozen=True)
class Scores:
    """One entry a target: loss in nats, whether the likeliest character was right, characters of
    context it had."""

    loss: np.ndarray
    correct: np.ndarray
    given: np.ndarray

    @property
    def nats(self) -> float:
        return float(self.loss.mean())


@torch.no_grad()
def score(model: nn.Module, tokens: Tensor, context: int) -> Scores:
    """Every token but the first, once, in order, in windows of `context` that do not overlap (the
    last may be shorter)."""
    n, losses, correct, device = len(tokens) - 1, [], [], devices.of(model)
    whole = n // context * context
    starts = torch.arange(0, whole, context).split(max(1, EVALUATED // context))
    windows = [(part, context) for part in starts]
    if n > whole:
        windows.append((torch.tensor([whole]), n - whole))
    for first, T in windows:
        x, y = (part.to(device) for part in gather(tokens, first, T))
        logits = model(x).flatten(0, 1)
        losses.append(F.cross_entropy(logits, y.flatten(), reduction="none").cpu().double())
        correct.append((logits.argmax(-1) == y.flatten()).cpu())
    return Scores(torch.cat(losses).numpy(), torch.cat(correct).numpy(), np.arange(n) % context + 1)


def validation(corpus: Corpus) -> Tensor:
    """The validation text behind the last training character: its first is predicted as well."""
    return torch.cat((corpus.train[-1:], corpus.validation))


@torch.no_grad()
def loss_given(model: nn.Module, tokens: Tensor, k: int, longest: int,
               targets: int = 2048) -> float:
    """Loss on the same targets whatever k: the model sees the k characters before each, no more."""
    ends = torch.linspace(longest, len(tokens) - 1, targets).long()  # positions of the targets
    total, device = 0.0, devices.of(model)
    for part in ends.split(max(1, EVALUATED // k)):
        x, y = (part.to(device) for part in gather(tokens, part - k, k))
        total += float(F.cross_entropy(model(x)[:, -1], y[:, -1], reduction="sum"))
    return total / targets


def context_frequency(corpus: Corpus, gram: int = GRAM) -> np.ndarray:
    """How often (n,) the training text has the `gram` characters before each of validation."""
    def codes(tokens):
        whole = tokens.numpy().astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(whole, gram)
        return windows @ corpus.V ** np.arange(gram)

    known, counts = np.unique(codes(corpus.train), return_counts=True)
    wanted = codes(torch.cat((corpus.train[-gram:], corpus.validation)))[:-1]
    at = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    return np.where(known[at] == wanted, counts[at], 0)


def by_group(values: np.ndarray, group: np.ndarray, n: int) -> list[float]:
    """Mean of `values` in each of the groups 0 .. n - 1; NaN where a group is empty."""
    with np.errstate(invalid="ignore"):
        return (np.bincount(group, values, n) / np.bincount(group, minlength=n)).tolist()


def breakdown(scores: Scores, counts: np.ndarray, context: int) -> dict[str, list[float]]:
    """Loss and accuracy by position in the window, and by how often the characters before a target
    stand in the training text (`counts`, one a target)."""
    bins, n = np.digitize(counts, FREQUENCIES) - 1, len(FREQUENCIES)
    position = scores.given - 1
    return {"loss_by_position": by_group(scores.loss, position, context),
            "accuracy_by_position": by_group(scores.correct, position, context),
            "loss_by_frequency": by_group(scores.loss, bins, n),
            "accuracy_by_frequency": by_group(scores.correct, bins, n),
            "count_by_frequency": np.bincount(bins, minlength=n).tolist()}


@torch.no_grad()
def attention_by_distance(model: nn.Module, tokens: Tensor, context: int) -> np.ndarray | None:
    """Mean weight (context,) that the last quarter of the queries gives to keys 0, 1, 2, ...
    characters back, over 32 windows and all layers and heads; None where there is no attention."""
    keep: dict[str, Tensor] = {}
    first = torch.linspace(0, len(tokens) - context - 1, 32).long()
    model(gather(tokens, first, context)[0].to(devices.of(model)), keep)
    if "weights" not in keep:
        return None
    weights, total = keep["weights"].cpu().double().mean((0, 1)), np.zeros(context)  # (T, T)
    queries = range(context - max(1, context // 4), context)
    for i in queries:
        total[: i + 1] += weights[i, : i + 1].flip(0).numpy()
    return total / len(queries)


@torch.no_grad()
def generate(model: nn.Module, prompt: Tensor, length: int, temperature: float, seed: int,
             context: int, copies: int = 1) -> Tensor:
    """Tokens (copies, length) drawn behind a prompt (T,), decoding with a cache.

    When the cache reaches `context` tokens it is rebuilt from the last half of them: attention was
    never trained on more. Temperature 0 takes the likeliest character.
    """
    generator, device = torch.Generator().manual_seed(seed), devices.of(model)
    text = prompt[-context:].expand(copies, -1).to(device)
    (logits, cache), held = model.decode(text), text.shape[1]
    for _ in range(length):
        if temperature == 0:
            drawn = logits[:, -1].argmax(-1, keepdim=True)
        else:
            probabilities = (logits[:, -1] / temperature).softmax(-1).cpu()
            drawn = torch.multinomial(probabilities, 1, generator=generator).to(device)
        text = torch.cat((text, drawn), 1)
        if held < context:
            (logits, cache), held = model.decode(drawn, cache), held + 1
        else:
            held = max(1, context // 2)
            logits, cache = model.decode(text[:, -held:])
    return text[:, -length:].cpu()


def known_words(text: str, vocabulary: set[str]) -> float:
    """Share of the words of `text` (its last may be cut off) that stand in `vocabulary`; 0 for a
    text without words."""
    words = text.split()[:-1]
    return sum(word in vocabulary for word in words) / len(words) if words else 0.0
