"""The character models that are compared, as data: which model an arm is, and how large."""

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM


@dataclass(frozen=True)
class Recurrent:
    """One LSTM or GRU of C channels, alone or with additive attention over its states."""

    cell: type[nn.RNNBase] = nn.LSTM
    attention: Literal["causal", "unmasked"] | None = None
    embedding: int = 128
    C: int = 256
    recall: bool = True  # whether the recall task takes it

    def of_width(self, C: int) -> "Recurrent":
        """The same kind of model for the recall task."""
        return replace(self, embedding=C, C=C)

    def build(self, V: int, context: int) -> nn.Module:
        """A model for V characters, its weights from torch's global generator."""
        return RecurrentLM(V, self.cell, embedding=self.embedding, C=self.C,
                           attention=self.attention)


@dataclass(frozen=True)
class Transformer:
    """L pre-norm blocks of C channels, H heads and a feed-forward of F_."""

    F_: int
    L: int = 3
    H: int = 4
    C: int = 128
    positions: Literal["learned", "rotary"] = "learned"
    recall: bool = True

    def of_width(self, C: int) -> "Transformer":
        """For the recall task two blocks of one head: one joins a value with the key before it,
        one looks the key up."""
        return replace(self, C=C, L=2, H=1, F_=2 * C)

    def build(self, V: int, context: int) -> nn.Module:
        """A model for V characters and sequences up to `context`, weights as above."""
        return TransformerLM(V, context, C=self.C, L=self.L, H=self.H, F_=self.F_,
                             positions=self.positions)


# The feed-forward widths bring `transformer` and `transformer-rope` to the size of `additive`
# (568,257 parameters at V 65, context 128) within 0.1%, and `transformer-fast` to the time of a
# step of `lstm`.
ARMS: dict[str, Recurrent | Transformer] = {
    "lstm": Recurrent(),
    "additive": Recurrent(attention="causal"),
    "transformer": Transformer(F_=440),
    "transformer-rope": Transformer(F_=461, positions="rotary"),
    "transformer-fast": Transformer(F_=240, L=2, recall=False),
    "gru": Recurrent(cell=nn.GRU),
    "additive-unmasked": Recurrent(attention="unmasked", recall=False),
}
