"""Layers of peft and transformers exchanged for ones of the same arithmetic in fewer passes through
memory.

Parameters, their names and what is saved stay as they are; on a GPU, and wherever a layer is more
than its plain form, the code of peft and transformers runs.
"""

from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from seqlib.models import fused


class Dropout(nn.Dropout):
    """An adapter's dropout: PyTorch's rate, other draws."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x
        return fused.dropout(x, self.p) if fused.serves(x) and self.p < 1 else F.dropout(x, self.p)


class Adapted(Linear):
    """A frozen linear layer without bias under one plain adapter."""

    def forward(self, x: Tensor, *args, **more) -> Tensor:
        weight, names = self.base_layer.weight, self.active_adapters
        plain = len(names) == 1 and names[0] not in self.lora_variant and not (args or more)
        plain = plain and not (self.merged or self.disable_adapters or weight.requires_grad)
        if not plain or not fused.serves(x, weight):
            return super().forward(x, *args, **more)
        a, b, dropout = (own[names[0]] for own in (self.lora_A, self.lora_B, self.lora_dropout))
        rate = dropout.p if isinstance(dropout, nn.Dropout) and self.training else 0.0
        return fused.adapted_linear(x, weight, a.weight, b.weight, self.scaling[names[0]], rate)


class RMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states: Tensor) -> Tensor:
        if not fused.serves(hidden_states, self.weight):
            return super().forward(hidden_states)
        return fused.rms_norm(hidden_states, self.weight, self.variance_epsilon)


def quicken(model: nn.Module) -> None:
    """Exchange what can be, in place; GPT-2's own dropouts stay as they are."""
    for name, layer in model.named_modules():
        if name.endswith("lora_dropout"):
            for adapter, own in layer.items():
                if isinstance(own, nn.Dropout):
                    layer[adapter] = Dropout(own.p)
        elif type(layer) is Linear and _is_plain(layer.base_layer):
            layer.__class__ = Adapted  # the same object: peft finds, saves and merges it as ever
        elif type(layer) is LlamaRMSNorm:
            layer.__class__ = RMSNorm


def _is_plain(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and layer.bias is None
