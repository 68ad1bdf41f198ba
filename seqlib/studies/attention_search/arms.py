"""The arms of the attention search: the thirteen published configurations, the same with parameters
matched, and the fair search: a factorial design of one block, and some ranks.

Every width is given at the published shape (512 channels, 8 heads) and scaled to others: latent
ranks with the channels, widths of a head with the channels of a head.
"""

import functools
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import combinations

import torch

from seqlib.models.latent import LatentAttention, RotaryAttention
from seqlib.models.mixture import MixtureLM
from seqlib.study import count_parameters


@dataclass(frozen=True)
class Attention:
    """Widths of `LatentAttention`; ranks None mean none."""

    q_rank: int | None
    kv_rank: int | None
    nope: int
    rope: int
    v: int
    bias: bool = False
    factor: float = 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes that a comparison shares: vocabulary, channels, layers, heads, width of an expert,
    experts, experts a token."""

    V: int
    D: int
    L: int
    H: int
    F: int
    E: int
    k: int


PUBLISHED = Shape(V=49_152, D=512, L=8, H=8, F=2048, E=8, k=2)
SMALL = Shape(V=1024, D=64, L=4, H=4, F=256, E=8, k=2)


@dataclass(frozen=True)
class Arm:
    """What an arm is.

    place: its place in the stream of random numbers of the protocol `published`, of no other arm.
    attention: widths at the published shape; None for the plain block of the baseline.
    matched: whether the experts' width brings the arm to the parameters of the baseline.
    longer: whether it is evaluated on contexts longer than those of its training as well.
    """

    place: int
    attention: Attention | None
    matched: bool = False
    longer: bool = False


def _fair(place: int, levels: str = "", kv_rank: int = 64, nope: int = 32, rope: int = 32) -> Arm:
    """An arm of the fair search. Every head has half its width of key of its own; the rotary key,
    which all heads share, has as much, or twice with R. Latents have an eighth of the channels."""
    attention = Attention(
        q_rank=64 if "Q" in levels else None,
        kv_rank=kv_rank if "L" in levels else None,
        nope=nope,
        rope=2 * rope if "R" in levels else rope,
        v=64,
        bias="B" in levels,
        factor=2.0 if "P" in levels else 1.0,
    )
    return Arm(place, attention, matched=True, longer=True)


_thirteen = {
    "baseline": Arm(0, None),
    "lora_small": Arm(1, Attention(32, 64, 0, 64, 64)),
    "lora_medium": Arm(2, Attention(64, 128, 0, 64, 64)),
    "lora_large": Arm(3, Attention(128, 256, 0, 64, 64)),
    "lora_xl": Arm(4, Attention(256, 512, 0, 64, 64)),
    "enhanced_small": Arm(5, Attention(32, 64, 0, 32, 48, bias=True, factor=1.5)),
    "enhanced_medium": Arm(6, Attention(64, 128, 0, 64, 96, bias=True, factor=2.0)),
    "enhanced_large": Arm(7, Attention(128, 256, 0, 128, 192, bias=True, factor=2.5)),
    "enhanced_xl": Arm(8, Attention(256, 512, 0, 128, 192, bias=True, factor=3.0)),
    "rope_only": Arm(9, Attention(None, 64, 0, 64, 96, factor=2.0)),
    "rope_small": Arm(10, Attention(None, 64, 0, 32, 48, factor=1.5)),
    "rope_large": Arm(11, Attention(None, 64, 0, 128, 192, factor=2.5)),
    "bias_only": Arm(12, Attention(None, 64, 0, 64, 64, bias=True)),
}
THIRTEEN = tuple(_thirteen)

FACTORS = {
    "L": "latent keys and values",
    "Q": "latent queries",
    "R": "rotary part twice as wide",
    "P": "interpolated positions",
    "B": "bias",
}
# The half of the 2^5 design whose words have an even length: effects and pairs of factors are free
# of each other. Each arm with the factors that it has at their second level.
FACTORIAL = {
    f"fair-{''.join(levels)}".rstrip("-"): "".join(levels)
    for n in (0, 2, 4) for levels in combinations(FACTORS, n)
}
_ranks = {
    "fair-kv16": _fair(41, "L", kv_rank=32),
    "fair-kv8": _fair(42, "L", kv_rank=64),
    "fair-kv4": _fair(43, "L", kv_rank=128),
    "fair-kv2": _fair(44, "L", kv_rank=256),
    # No key of a head's own, as in the published configurations.
    "fair-onekey": _fair(45, nope=0, rope=64),
}

ARMS: dict[str, Arm] = {
    **_thirteen,
    **{f"{name}-matched": replace(arm, place=12 + arm.place, matched=True)
       for name, arm in _thirteen.items() if arm.attention},
    **{name: _fair(25 + i, levels) for i, (name, levels) in enumerate(FACTORIAL.items())},
    **_ranks,
}


def attention_of(arm: str, shape: Shape) -> Attention | None:
    """Widths at `shape`; None for the plain block of the baseline. Raises ValueError where a width
    would not be whole, a rotary width odd, or the channels do not make the heads."""
    if shape.D % shape.H:
        raise ValueError(f"{shape.D} channels do not divide into {shape.H} heads")
    at = ARMS[arm].attention
    scale = Fraction(shape.D, PUBLISHED.D)
    head = Fraction(shape.D // shape.H, PUBLISHED.D // PUBLISHED.H)
    if at is None:
        _whole(arm, "rope", 64 * head)
        return None
    return replace(
        at,
        q_rank=at.q_rank and _whole(arm, "q_rank", at.q_rank * scale),
        kv_rank=at.kv_rank and _whole(arm, "kv_rank", at.kv_rank * scale),
        nope=at.nope and _whole(arm, "nope", at.nope * head),
        rope=_whole(arm, "rope", at.rope * head),
        v=_whole(arm, "v", at.v * head),
    )


def _whole(arm: str, name: str, width: Fraction) -> int:
    """A width as a whole number, and an even one where channels turn in pairs."""
    if width.denominator != 1:
        raise ValueError(f"{name} of {arm} would be {width} at these channels and heads; "
                         "choose some that divide")
    if name == "rope" and width % 2:
        raise ValueError(f"rotary width {width} of {arm} is odd, and channels turn in pairs; "
                         "choose other channels or heads")
    return int(width)


def widths_of(arm: str, shape: Shape) -> tuple[int, ...]:
    """Expert width of every block."""
    if not ARMS[arm].matched:
        return (shape.F,) * shape.L
    at = attention_of(arm, shape)
    try:
        return _matched_widths(at, shape)
    except ValueError as error:
        raise ValueError(f"{arm}: {error}") from None


@functools.cache  # a plan asks for it once a run
def _matched_widths(at: Attention, shape: Shape) -> tuple[int, ...]:
    """Expert width of every block that brings a model to the parameters of the plain block at
    `shape`, to half of what one more channel of all experts of one block adds. The first blocks get
    what does not divide. Raises ValueError where the attention alone has more than the whole."""
    target = size(None, shape, (shape.F,) * shape.L)
    rest = size(at, shape, (1,) * shape.L)
    one = 2 * shape.E * shape.D  # parameters of one more channel of all experts of one block
    channels = shape.L + round((target - rest) / one)
    if channels < shape.L:
        raise ValueError(f"its attention leaves no parameters for experts; raise d_ff ({shape.F})")
    return tuple(channels // shape.L + (i < channels % shape.L) for i in range(shape.L))


def outline(at: Attention | None, shape: Shape, widths: tuple[int, ...]) -> MixtureLM:
    """A model without weights (on the meta device), to count by and to fill."""
    def attention():
        if at is None:
            return RotaryAttention(shape.D, shape.H)
        return LatentAttention(shape.D, shape.H, **asdict(at))

    with torch.device("meta"):
        return MixtureLM(shape.V, shape.D, attention, widths, shape.E, shape.k)


def size(at: Attention | None, shape: Shape, widths: tuple[int, ...]) -> int:
    """Parameters of a model."""
    return sum(p.numel() for p in outline(at, shape, widths).parameters())


def make(arm: str, shape: Shape, seed: int = 0) -> MixtureLM:
    """A model with the weights of a seed, on the processor. Raises ValueError as the two above
    do."""
    model = outline(attention_of(arm, shape), shape, widths_of(arm, shape))
    model = model.to_empty(device="cpu")
    model.initialise(seed)
    return model


def parameter_counts(arm: str) -> dict[str, int]:
    """Trainable and total parameters: of a matched arm at the small shape, else the published."""
    shape = SMALL if ARMS[arm].matched else PUBLISHED
    return count_parameters(
        lambda: outline(attention_of(arm, shape), shape, widths_of(arm, shape)))
