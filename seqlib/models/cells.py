"""Gate arithmetic of K LSTM or GRU layers at once, one pass over memory a time step (numba).

The equations are those of `nn.LSTM` and `nn.GRU`, without approximation. Matrix products and
nonlinearities stay with torch, between the passes: see `seqlib.models.stacked`.

Each kernel works on time step t of arrays (K, T, B, ...): K seeds at once, T time, B batch, C
channels. `gates` holds i, f, g, o of an LSTM (K, T, B, 4C) or r, z, n of a GRU (K, T, B, 3C), both
before and after nonlinearities. `cells`, and a GRU's `states`, have T + 1 steps: the first is zero.
"""

import numba

_jit = numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")


@_jit
def lstm_gather(gates, recurrent, bias, t):
    """gates[:, t] += recurrent (K, B, 4C) + bias (K, 4C). g is doubled, so that one sigmoid serves
    all four gates: tanh(x) = 2 sigmoid(2x) - 1, which `lstm_mix` takes."""
    K, _, B, C4 = gates.shape
    C = C4 // 4
    for k in range(K):
        for b in range(B):
            for j in range(C4):
                gates[k, t, b, j] += recurrent[k, b, j] + bias[k, j]
            for j in range(2 * C, 3 * C):
                gates[k, t, b, j] += gates[k, t, b, j]


@_jit
def lstm_mix(gates, cells, t):
    """cells[:, t + 1] = f c + i g, with g = tanh from the sigmoid of the double, written back."""
    K, _, B, C4 = gates.shape
    C = C4 // 4
    for k in range(K):
        for b in range(B):
            for j in range(C):
                g = 2 * gates[k, t, b, 2 * C + j] - 1
                gates[k, t, b, 2 * C + j] = g
                cells[k, t + 1, b, j] = (gates[k, t, b, C + j] * cells[k, t, b, j]
                                         + gates[k, t, b, j] * g)


@_jit
def lstm_out(gates, squashed, states, t):
    """states[:, t] = o tanh(c), with tanh(c) in `squashed` (K, T, B, C)."""
    K, _, B, C = states.shape
    for k in range(K):
        for b in range(B):
            for j in range(C):
                states[k, t, b, j] = gates[k, t, b, 3 * C + j] * squashed[k, t, b, j]


@_jit
def lstm_back(gates, cells, squashed, grad, carried, grad_c, delta, t):
    """Fill delta[:, t] (K, B, 4C), the gradient at the gates before their nonlinearity. It comes
    through the output, `grad` (K, T, B, C), through h[t + 1], `carried` (K, B, C), and through
    c[t + 1], `grad_c` (K, B, C), which is updated. `squashed` is tanh of the cells."""
    K, _, B, C4 = gates.shape
    C = C4 // 4
    for k in range(K):
        for b in range(B):
            # Short loops: LLVM vectorises one only if it can check that its arrays do not overlap.
            for j in range(C):
                s = squashed[k, t, b, j]
                grad_c[k, b, j] += ((grad[k, t, b, j] + carried[k, b, j])
                                    * gates[k, t, b, 3 * C + j] * (1 - s * s))
            for j in range(C):
                o = gates[k, t, b, 3 * C + j]
                grad_h = grad[k, t, b, j] + carried[k, b, j]
                delta[k, t, b, 3 * C + j] = grad_h * squashed[k, t, b, j] * o * (1 - o)
            for j in range(C):
                i = gates[k, t, b, j]
                delta[k, t, b, j] = grad_c[k, b, j] * gates[k, t, b, 2 * C + j] * i * (1 - i)
            for j in range(C):
                g = gates[k, t, b, 2 * C + j]
                delta[k, t, b, 2 * C + j] = grad_c[k, b, j] * gates[k, t, b, j] * (1 - g * g)
            for j in range(C):
                f = gates[k, t, b, C + j]
                delta[k, t, b, C + j] = grad_c[k, b, j] * cells[k, t, b, j] * f * (1 - f)
            for j in range(C):
                grad_c[k, b, j] *= gates[k, t, b, C + j]


@_jit
def gru_gather(gates, recurrent, t):
    """gates[:, t] += recurrent (K, B, 3C) for the reset and update gates."""
    K, _, B, C3 = gates.shape
    for k in range(K):
        for b in range(B):
            for j in range(2 * C3 // 3):
                gates[k, t, b, j] += recurrent[k, b, j]


@_jit
def gru_reset(gates, recurrent, candidates, t):
    """Candidate n before its tanh: input part + r (W_hn h + b_hn), kept in `candidates`."""
    K, _, B, C3 = gates.shape
    C = C3 // 3
    for k in range(K):
        for b in range(B):
            for j in range(C):
                candidates[k, t, b, j] = recurrent[k, b, 2 * C + j]
                gates[k, t, b, 2 * C + j] += gates[k, t, b, j] * recurrent[k, b, 2 * C + j]


@_jit
def gru_mix(gates, states, t):
    """states[:, t + 1] = (1 - z) n + z h, written as n + z (h - n)."""
    K, _, B, C3 = gates.shape
    C = C3 // 3
    for k in range(K):
        for b in range(B):
            for j in range(C):
                n = gates[k, t, b, 2 * C + j]
                states[k, t + 1, b, j] = n + gates[k, t, b, C + j] * (states[k, t, b, j] - n)


@_jit
def gru_back(gates, states, candidates, grad, carried, delta_x, delta_h, t):
    """Fill delta_x[:, t] and delta_h[:, t] (K, B, 3C): gradients at the input products and at the
    recurrent products, which differ because r multiplies only the recurrent part of n. `carried`
    (K, B, C) comes back through the products of h[t + 1]; on return it holds the part of the
    gradient at h[t] that goes through z alone."""
    K, _, B, C3 = gates.shape
    C = C3 // 3
    for k in range(K):
        for b in range(B):
            for j in range(C):
                carried[k, b, j] += grad[k, t, b, j]  # the whole gradient at h[t + 1]
            for j in range(C):
                z, n = gates[k, t, b, C + j], gates[k, t, b, 2 * C + j]
                delta_x[k, t, b, 2 * C + j] = carried[k, b, j] * (1 - z) * (1 - n * n)
            for j in range(C):
                r = gates[k, t, b, j]
                delta_n = delta_x[k, t, b, 2 * C + j]
                delta_x[k, t, b, j] = delta_n * candidates[k, t, b, j] * r * (1 - r)
            for j in range(C):
                z, n = gates[k, t, b, C + j], gates[k, t, b, 2 * C + j]
                delta_x[k, t, b, C + j] = carried[k, b, j] * (states[k, t, b, j] - n) * z * (1 - z)
            for j in range(2 * C):
                delta_h[k, t, b, j] = delta_x[k, t, b, j]
            for j in range(C):
                delta_h[k, t, b, 2 * C + j] = delta_x[k, t, b, 2 * C + j] * gates[k, t, b, j]
            for j in range(C):
                carried[k, b, j] *= gates[k, t, b, C + j]
