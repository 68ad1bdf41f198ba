"""The character models that are compared. Sizes are fixed; `build(arm, V, context)` makes one."""

from torch import nn

from seqlib.models.recurrent import RecurrentLM
from seqlib.models.transformer import TransformerLM

ARMS = ("lstm", "additive", "transformer", "transformer-rope", "transformer-fast", "gru", "additive-unmasked")


def build(arm: str, V: int, context: int) -> nn.Module:
    """A model of the text study for V characters and sequences up to `context`; weights from torch's global generator.

    The feed-forward widths bring `transformer` and `transformer-rope` to the parameters of `additive` (568,257 at V 65,
    context 128) within 0.1%, and `transformer-fast` to the time of a step of `lstm`.
    """
    if arm == "transformer":
        return TransformerLM(V, context, C=128, L=3, H=4, F_=440)
    if arm == "transformer-rope":
        return TransformerLM(V, context, C=128, L=3, H=4, F_=461, positions="rotary")
    if arm == "transformer-fast":
        return TransformerLM(V, context, C=128, L=2, H=4, F_=240)
    cell = nn.GRU if arm == "gru" else nn.LSTM
    return RecurrentLM(V, cell, attention={"additive": "causal", "additive-unmasked": "unmasked"}.get(arm))

