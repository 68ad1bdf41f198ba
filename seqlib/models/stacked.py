"""The airline forecasters for K seeds at once: a first axis K that products are batched over.

Thirty small models one after another spend their time on the overhead of small operations; one
batched product does the same arithmetic. Two more savings change no result: the weight gradient of
a recurrent layer is one product over all time steps, not T small ones for autograd to sum, and the
attention block has queries and feed-forward for the last step alone, all that the head reads.

`params` are the reference module's weights, stacked by `torch.func.stack_module_state`. `masks` are
dropout masks, zero or 1 / (1 - rate), None in evaluation; `mask_shapes` gives their names and their
shapes after (K, B). Shapes: K seeds, B batch, T months, I inputs, O outputs, C channels, H heads,
D head width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from seqlib.models import cells as cell_kernels
from seqlib.models.forecast import RecurrentForecaster, rotary_angles, rotate_pairs

Params = dict[str, Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (K, N, I), weight (K, O, I), bias (K, O) -> (K, N, O)."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)


class StackedLSTM(torch.autograd.Function):
    """One LSTM layer of K models: x (K, T, B, I), w_ih (K, 4C, I), w_hh (K, 4C, C), bias (K, 4C)
    -> states (K, T, B, C). Gates are i, f, g, o in this sequence, as in `nn.LSTM`."""

    @staticmethod
    def forward(ctx, x, w_ih, w_hh, bias):
        K, T, B, _ = x.shape
        C = w_hh.shape[-1]
        gates = torch.bmm(x.flatten(1, 2), w_ih.mT).view(K, T, B, 4 * C)
        states, squashed = x.new_empty(K, T, B, C), x.new_empty(K, T, B, C)  # h and tanh(c)
        cells = x.new_zeros(K, T + 1, B, C)  # index 0 is before the first step
        recurrent = x.new_zeros(K, B, 4 * C)
        w = w_hh.mT.contiguous()
        gather = (gates.numpy(), recurrent.numpy(), bias.detach().numpy())
        mix = (gates.numpy(), cells.numpy())
        out = (gates.numpy(), squashed.numpy(), states.numpy())
        steps = zip(gates.unbind(1), cells.unbind(1)[1:], squashed.unbind(1))
        for t, (gate, cell, squash) in enumerate(steps):
            if t:
                torch.bmm(states[:, t - 1], w, out=recurrent)
            cell_kernels.lstm_gather(*gather, t)
            gate.sigmoid_()
            cell_kernels.lstm_mix(*mix, t)
            torch.tanh(cell, out=squash)
            cell_kernels.lstm_out(*out, t)
        ctx.save_for_backward(x, w_ih, w_hh, gates, cells, squashed, states)
        return states

    @staticmethod
    def backward(ctx, grad):
        x, w_ih, w_hh, gates, cells, squashed, states = ctx.saved_tensors
        K, T, B, C = states.shape
        delta = torch.empty_like(gates)  # gradient at the gates before their nonlinearity
        carried = x.new_zeros(K, B, C)  # gradient at the state, through the next step's gates
        grad_c = x.new_zeros(K, B, C)  # gradient at the cell, through the next step's cell
        grad = grad.contiguous()
        arrays = [a.numpy() for a in (gates, cells, squashed, grad, carried, grad_c, delta)]
        for t in reversed(range(T)):
            cell_kernels.lstm_back(*arrays, t)
            if t:
                torch.bmm(delta[:, t], w_hh, out=carried)
        flat = delta.view(K, T * B, 4 * C)
        grad_x = torch.bmm(flat, w_ih).view_as(x) if ctx.needs_input_grad[0] else None
        grad_ih = torch.bmm(flat.mT, x.flatten(1, 2))
        grad_hh = torch.bmm(delta[:, 1:].flatten(1, 2).mT, states[:, :-1].flatten(1, 2))
        return grad_x, grad_ih, grad_hh, flat.sum(1)


class StackedGRU(torch.autograd.Function):
    """One GRU layer of K models: x (K, T, B, I), w_ih (K, 3C, I), w_hh (K, 3C, C), biases (K, 3C)
    -> states (K, T, B, C). Gates are r, z, n in this sequence, as in `nn.GRU`."""

    @staticmethod
    def forward(ctx, x, w_ih, w_hh, b_ih, b_hh):
        K, T, B, _ = x.shape
        C = w_hh.shape[-1]
        gates = linear(x.flatten(1, 2), w_ih, b_ih).view(K, T, B, 3 * C)
        states = x.new_zeros(K, T + 1, B, C)
        candidates = x.new_empty(K, T, B, C)  # W_hn h + b_hn, before the reset gate
        w, b = w_hh.mT, b_hh.unsqueeze(1)
        for t in range(T):
            recurrent = torch.baddbmm(b, states[:, t], w).numpy()
            cell_kernels.gru_gather(gates.numpy(), recurrent, t)
            gates[:, t, :, : 2 * C].sigmoid_()
            cell_kernels.gru_reset(gates.numpy(), recurrent, candidates.numpy(), t)
            gates[:, t, :, 2 * C :].tanh_()
            cell_kernels.gru_mix(gates.numpy(), states.numpy(), t)
        ctx.save_for_backward(x, w_ih, w_hh, gates, states, candidates)
        return states[:, 1:]

    @staticmethod
    def backward(ctx, grad):
        x, w_ih, w_hh, gates, states, candidates = ctx.saved_tensors
        K, T, B, C = candidates.shape
        delta_x = torch.empty_like(gates)  # gradient at the gates' input products
        delta_h = torch.empty_like(gates)  # gradient at their recurrent products
        carried = x.new_zeros(K, B, C)  # gradient at the state, through the next step
        grad = grad.contiguous()
        arrays = [a.numpy() for a in (gates, states, candidates, grad, carried, delta_x, delta_h)]
        for t in reversed(range(T)):
            cell_kernels.gru_back(*arrays, t)
            if t:
                carried += torch.bmm(delta_h[:, t], w_hh)
        flat_x, flat_h = delta_x.view(K, T * B, 3 * C), delta_h.view(K, T * B, 3 * C)
        grad_x = torch.bmm(flat_x, w_ih).view_as(x) if ctx.needs_input_grad[0] else None
        grad_ih = torch.bmm(flat_x.mT, x.flatten(1, 2))
        grad_hh = torch.bmm(flat_h.mT, states[:, :-1].flatten(1, 2))
        return grad_x, grad_ih, grad_hh, flat_x.sum(1), flat_h.sum(1)


def plain_lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """`StackedLSTM` in plain operations, for any device."""
    gates = linear(x.flatten(1, 2), w_ih, b_ih + b_hh).unflatten(1, x.shape[1:3])  # (K, T, B, 4C)
    h = c = x.new_zeros(*gates.shape[:1], x.shape[2], w_hh.shape[-1])
    states = []
    for own in gates.unbind(1):
        i, f, g, o = (own + h @ w_hh.mT).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
    return torch.stack(states, 1)


def plain_gru(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """`StackedGRU` in plain operations, for any device."""
    gates = linear(x.flatten(1, 2), w_ih, b_ih).unflatten(1, x.shape[1:3])  # (K, T, B, 3C)
    h = x.new_zeros(len(x), x.shape[2], w_hh.shape[-1])
    states = []
    for own in gates.unbind(1):
        r, z, n = own.chunk(3, -1)
        r_h, z_h, n_h = linear(h, w_hh, b_hh).chunk(3, -1)
        n = (n + (r + r_h).sigmoid() * n_h).tanh()
        h = n + (z + z_h).sigmoid() * (h - n)
        states.append(h)
    return torch.stack(states, 1)


def recurrent_forward(model, params: Params, x: Tensor, masks: Params | None) -> Tensor:
    """`forward` of a `RecurrentForecaster`."""
    h = x.mT.unsqueeze(-1).contiguous()  # (K, T, B, 1)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for layer in range(model.rnn.num_layers):
        w_ih, w_hh, b_ih, b_hh = (params[f"rnn.{name}_l{layer}"] for name in names)
        if layer and masks is not None:
            h = h * masks["between"].transpose(1, 2)  # drawn as (K, B, T, C)
        if h.device.type != "cpu":
            layer_of = plain_lstm if model.kind == "lstm" else plain_gru
            h = layer_of(h, w_ih, w_hh, b_ih, b_hh)
        elif model.kind == "lstm":
            h = StackedLSTM.apply(h, w_ih, w_hh, b_ih + b_hh)
        else:
            h = StackedGRU.apply(h, w_ih, w_hh, b_ih, b_hh)
    return linear(h[:, -1], params["head.weight"], params["head.bias"]).squeeze(-1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (K, ..., C), weight and bias (K, C) -> (K, ..., C)."""
    shape = (x.shape[0],) + (1,) * (x.dim() - 2) + (x.shape[-1],)
    return torch.addcmul(bias.view(shape), F.layer_norm(x, x.shape[-1:]), weight.view(shape))


def attention_forward(model, params: Params, x: Tensor, masks: Params | None,
                      keep: dict | None = None) -> Tensor:
    """`forward` of an `AttentionForecaster`; keep["weights"]: the last query's (K, B, H, T)."""
    def layer(x, name):
        return linear(x, params[f"{name}.weight"], params[f"{name}.bias"])

    def drop(x, name):
        return x * masks[name] if masks is not None and name in masks else x

    K, B, T = x.shape
    H, C = model.heads, params["project.bias"].shape[-1]
    D = C // H
    name = "attention.in_proj." if model.position == "rope" else "attention.in_proj_"
    w_in, b_in = params[name + "weight"], params[name + "bias"]
    h = layer(x.reshape(K, B * T, 1), "project").view(K, B, T, C)
    if model.position == "learned":
        h = h + params["table"][:, None]
    elif model.table is not None:
        h = h + model.table.to(h)
    last = h[:, :, -1]  # (K, B, C)
    normed = layer_norm(h, params["norm1.weight"], params["norm1.bias"])
    q = linear(normed[:, :, -1], w_in[:, :C], b_in[:, :C]).view(K, B, H, 1, D)
    kv = linear(normed.view(K, B * T, C), w_in[:, C:], b_in[:, C:]).view(K, B, T, 2, H, D)
    k, v = kv.permute(3, 0, 1, 4, 2, 5)  # each (K, B, H, T, D)
    if model.position == "rope":
        cos, sin = rotary_angles(T, D)
        q, k = rotate_pairs(q, cos[-1:], sin[-1:]), rotate_pairs(k, cos, sin)
    scores = (q * k).sum(-1) / math.sqrt(D)  # (K, B, H, T): one query, so a product and a sum
    if model.bias is not None:
        scores = scores + model.bias.to(scores.device)
    weights = scores.softmax(-1)
    if keep is not None:
        keep["weights"] = weights.detach()
    mixed = (drop(weights, "weights").unsqueeze(-1) * v).sum(-2).reshape(K, B, C)
    last = last + drop(layer(mixed, "attention.out_proj"), "mixed")
    normed = layer_norm(last, params["norm2.weight"], params["norm2.bias"])
    hidden = drop(F.gelu(layer(normed, "up")), "hidden")
    out = drop(layer(hidden, "down"), "out")
    return layer(last + out, "head").squeeze(-1)


def forward(model, params: Params, x: Tensor, masks: Params | None = None) -> Tensor:
    """Windows x (K, B, T) -> forecasts (K, B), with a forecaster `model` for its settings alone."""
    run = recurrent_forward if isinstance(model, RecurrentForecaster) else attention_forward
    return run(model, params, x, masks)


def mask_shapes(model, window: int) -> dict[str, tuple[float, tuple[int, ...]]]:
    """Dropout masks of one window: name -> (rate, shape). Attention masks the last step alone."""
    if isinstance(model, RecurrentForecaster):
        shapes = {"between": (model.dropout, (window, model.rnn.hidden_size))}
    else:
        C = model.head.in_features
        shapes = {"weights": (model.attention_dropout, (model.heads, window)),
                  "mixed": (model.attention_dropout, (C,)),
                  "hidden": (model.dropout, (model.up.out_features,)),
                  "out": (model.dropout, (C,))}
    return {name: (rate, shape) for name, (rate, shape) in shapes.items() if rate > 0}
