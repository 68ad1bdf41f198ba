"""The arms of the attention search: the thirteen published configurations, the same at one size with parameters matched, and
the factorial design of the fair search. `build(arm, shape)` makes a model.

Widths of the thirteen are given at the published shape (512 channels, 8 heads) and scaled to others: latent ranks with the
channels, widths of a head with the channels of a head.
"""

import functools
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import combinations

import torch

from seqlib.models.latent import LatentAttention, RotaryAttention
from seqlib.models.mixture import MixtureLM


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
    """Sizes that a comparison shares: vocabulary, channels, layers, heads, width of an expert, experts, experts a token."""

    V: int
    D: int
    L: int
    H: int
    F: int
    E: int
    k: int


PUBLISHED = Shape(V=49_152, D=512, L=8, H=8, F=2048, E=8, k=2)
SMALL = Shape(V=1024, D=64, L=4, H=4, F=256, E=8, k=2)

LATENT = {
    "lora_small": Attention(32, 64, 0, 64, 64),
    "lora_medium": Attention(64, 128, 0, 64, 64),
    "lora_large": Attention(128, 256, 0, 64, 64),
    "lora_xl": Attention(256, 512, 0, 64, 64),
    "enhanced_small": Attention(32, 64, 0, 32, 48, bias=True, factor=1.5),
    "enhanced_medium": Attention(64, 128, 0, 64, 96, bias=True, factor=2.0),
    "enhanced_large": Attention(128, 256, 0, 128, 192, bias=True, factor=2.5),
    "enhanced_xl": Attention(256, 512, 0, 128, 192, bias=True, factor=3.0),
    "rope_only": Attention(None, 64, 0, 64, 96, factor=2.0),
    "rope_small": Attention(None, 64, 0, 32, 48, factor=1.5),
    "rope_large": Attention(None, 64, 0, 128, 192, factor=2.5),
    "bias_only": Attention(None, 64, 0, 64, 64, bias=True),
}
THIRTEEN = ("baseline", *LATENT)
MATCHED = tuple(f"{name}-matched" for name in LATENT)

FACTORS = {"L": "latent keys and values", "Q": "latent queries", "R": "rotary part twice as wide",
           "P": "interpolated positions", "B": "bias"}
RANK, Q_RANK, INTERPOLATED = Fraction(1, 8), Fraction(1, 8), 2.0  # of the channels; what P divides positions by
# The half of the 2^5 design whose words have an even length: effects and pairs of factors are free of each other.
FACTORIAL = tuple("-".join(("fair", "".join(chosen))) if chosen else "fair"
                  for n in (0, 2, 4) for chosen in combinations(FACTORS, n))
RANKS = {f"fair-kv{share.denominator}": share for share in (Fraction(1, 16), Fraction(1, 8), Fraction(1, 4), Fraction(1, 2))}
ONE_KEY = "fair-onekey"  # no key of a head's own, as in the published configurations
FAIR = (*FACTORIAL, *RANKS, ONE_KEY)
ARMS = (*THIRTEEN, *MATCHED, *FAIR)


def levels(arm: str) -> set[str]:
    """The factors that an arm of the factorial design has at their second level."""
    return set(arm.partition("-")[2]) if arm in FACTORIAL else {"L"} if arm in RANKS else set()


def attention_of(arm: str, shape: Shape) -> Attention | None:
    """Widths at `shape`; None for the plain block of the baseline. Raises ValueError where a width would not be whole, a rotary
    width odd, or the channels do not make the heads."""
    if shape.D % shape.H:
        raise ValueError(f"{shape.D} channels do not divide into {shape.H} heads")
    head = shape.D // shape.H
    if arm in FAIR:
        return checked(arm, _fair(arm, shape.D, head))
    base = arm.removesuffix("-matched")
    if base == "baseline":
        return checked(arm, Attention(None, None, 0, head, head)) and None
    at = LATENT[base]
    return checked(arm, replace(at, q_rank=at.q_rank and Fraction(at.q_rank * shape.D, PUBLISHED.D),
                                kv_rank=Fraction(at.kv_rank * shape.D, PUBLISHED.D), rope=Fraction(at.rope * head, 64),
                                v=Fraction(at.v * head, 64)))


def _fair(arm: str, D: int, head: int) -> Attention:
    """Every head has half its width of key of its own; the rotary key, which all heads share, has as much, or twice with R."""
    has, half = levels(arm), Fraction(head, 2)
    nope, rope = (0, 2 * half) if arm == ONE_KEY else (half, 2 * half if "R" in has else half)
    return Attention(Q_RANK * D if "Q" in has else None, RANKS.get(arm, RANK) * D if "L" in has else None, nope, rope,
                     head, "B" in has, INTERPOLATED if "P" in has else 1.0)


def checked(arm: str, at: Attention) -> Attention:
    for name, value in asdict(at).items():
        if isinstance(value, Fraction) and (value.denominator != 1 or value < (0 if name == "nope" else 1)):
            raise ValueError(f"{name} of {arm} would be {value} at these channels and heads; choose some that divide")
    if at.rope % 2:
        raise ValueError(f"rotary width {at.rope} of {arm} is odd, and channels turn in pairs; choose other channels or heads")
    return Attention(**{k: int(v) if isinstance(v, Fraction) else v for k, v in asdict(at).items()})


def build(arm: str, shape: Shape, seed: int = 0, device: str = "cpu") -> MixtureLM:
    """A model with the weights of a seed. Raises ValueError as `attention_of` and `matched_widths` do."""
    model = outline(attention_of(arm, shape), shape, widths_of(arm, shape)).to_empty(device=device)
    model.initialise(seed)
    return model


def widths_of(arm: str, shape: Shape) -> tuple[int, ...]:
    """Expert width of every block."""
    return matched_widths(arm, shape) if arm in MATCHED or arm in FAIR else (shape.F,) * shape.L


def outline(at: Attention | None, shape: Shape, widths: tuple[int, ...]) -> MixtureLM:
    """A model without weights (on the meta device), to count by and to fill."""
    def attention():
        return RotaryAttention(shape.D, shape.H) if at is None else LatentAttention(shape.D, shape.H, **asdict(at))

    with torch.device("meta"):
        return MixtureLM(shape.V, shape.D, attention, widths, shape.E, shape.k)


def size(at: Attention | None, shape: Shape, widths: tuple[int, ...]) -> int:
    return sum(p.numel() for p in outline(at, shape, widths).parameters())


@functools.cache  # a plan asks for it once a run
def matched_widths(arm: str, shape: Shape) -> tuple[int, ...]:
    """Expert width of every block that brings an arm to the parameters of the plain block at `shape`, to half of what one more
    channel of all experts of one block adds. The first blocks get what does not divide. Raises ValueError where the attention
    alone has more parameters than the whole."""
    target = size(None, shape, (shape.F,) * shape.L)
    rest = size(attention_of(arm, shape), shape, (1,) * shape.L)
    one = 2 * shape.E * shape.D  # parameters of one more channel of all experts of one block
    channels = shape.L + round((target - rest) / one)
    if channels < shape.L:
        raise ValueError(f"{arm}: its attention leaves no parameters for experts; raise d_ff ({shape.F})")
    return tuple(channels // shape.L + (i < channels % shape.L) for i in range(shape.L))
