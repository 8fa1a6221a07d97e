"""The oracles of Adam and of what came from it: a moving average over the root of another."""

import math

import numpy as np

from tests.oracle_parts import MP, Arithmetic, incoming, outgoing, root, sign


def averages(a, w, g, state, beta1, beta2):
    """The moving averages of the gradient and of its square."""
    past, present = a.average(beta1)
    m = past * state.get("exp_avg", a.full(w, 0.0)) + present * g
    past, present = a.average(beta2)
    v = past * state.get("exp_avg_sq", a.full(w, 0.0)) + present * g * g
    return m, v


def adam(
    w,
    g,
    state,
    t,
    *,
    lr=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    eps_inside_sqrt=False,
    bias_correction=True,
    amsgrad=False,
    **shared,
):
    """Algorithm 1 of arXiv:1412.6980, and AMSGrad, which puts the largest square in the place of v."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    m, v = averages(a, w, g, state, beta1, beta2)
    new = {"exp_avg": m, "exp_avg_sq": v}
    if amsgrad:
        v = np.maximum(v, state.get("max_exp_avg_sq", a.full(w, 0.0)))
        new["max_exp_avg_sq"] = v
    if bias_correction:
        m, v = a.unbias(beta1, t) * m, a.unbias(beta2, t) * v
    return outgoing(a, w, m / root(a, v, eps, eps_inside_sqrt), lr, **shared), new


def adamw(w, g, state, t, *, weight_decay=1e-2, decoupled_weight_decay=True, **settings):
    """Algorithm 2 of arXiv:1711.05101, the decay multiplied by the learning rate."""
    decay = {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled_weight_decay}
    return adam(w, g, state, t, **decay, **settings)


def nadam(
    w,
    g,
    state,
    t,
    *,
    lr=2e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    momentum_decay=4e-3,
    eps_inside_sqrt=False,
    **shared,
):
    """Dozat's algorithm 2 with his schedule ``mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)``."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    m, v = averages(a, w, g, state, beta1, beta2)

    def mu(t):  # from 1, as in print
        warming = 0 if momentum_decay is None else a.host(0.96) ** (t * a.host(momentum_decay)) / 2
        return a.host(beta1) * (1 - warming)

    product = math.prod((mu(i) for i in range(1, t + 2)), start=a.host(1))
    now, ahead = mu(t + 1), mu(t + 2)
    u = a.rounded(ahead / (1 - product * ahead)) * m + a.rounded((1 - now) / (1 - product)) * g
    u = u / root(a, a.unbias(beta2, t) * v, eps, eps_inside_sqrt)
    return outgoing(a, w, u, lr, **shared), {"exp_avg": m, "exp_avg_sq": v}


def adamax(
    w,
    g,
    state,
    t,
    *,
    lr=2e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    eps_inside_max=True,
    **shared,
):
    """Algorithm 2 of arXiv:1412.6980, with epsilon added to |g| or to the maximum."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    past, present = a.average(beta1)
    m = past * state.get("exp_avg", a.full(w, 0.0)) + present * g
    size = abs(g) + a.rounded(eps) if eps_inside_max else abs(g)
    u = np.maximum(a.rounded(beta2) * state.get("exp_inf", a.full(w, 0.0)), size)
    below = u if eps_inside_max else u + a.rounded(eps)
    return outgoing(a, w, a.unbias(beta1, t) * m / below, lr, **shared), {"exp_avg": m, "exp_inf": u}


def radam(
    w,
    g,
    state,
    t,
    *,
    lr=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    threshold=5.0,
    eps_inside_sqrt=False,
    **shared,
):
    """Algorithm 2 of arXiv:1908.03265, with an epsilon and the authors' threshold."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    m, v = averages(a, w, g, state, beta1, beta2)
    new = {"exp_avg": m, "exp_avg_sq": v}
    b2, t = a.host(beta2), t + 1
    rho = 2 / (1 - b2) - 1
    rho_t = rho - 2 * t * b2**t / (1 - b2**t)
    u = a.unbias(beta1, t - 1) * m
    if rho_t > threshold:
        squared = (rho_t - 4) * (rho_t - 2) / rho_t / ((rho - 4) * (rho - 2) / rho)
        r = a.rounded(MP.sqrt(squared) if a.is_exact else math.sqrt(squared))
        u = r * u / root(a, a.unbias(beta2, t - 1) * v, eps, eps_inside_sqrt)
    return outgoing(a, w, u, lr, **shared), new


def adabelief(w, g, state, t, *, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-16, eps_root=1e-16, **shared):
    """Algorithm 2 of arXiv:2010.07468, its epsilons apart."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    past, present = a.average(beta1)
    m = past * state.get("exp_avg", a.full(w, 0.0)) + present * g
    past, present = a.average(beta2)
    distance = g - m
    s = past * state.get("exp_avg_var", a.full(w, 0.0)) + present * distance * distance
    s = s + a.rounded(eps_root)
    u = a.unbias(beta1, t) * m / (a.sqrt(a.unbias(beta2, t) * s) + a.rounded(eps))
    return outgoing(a, w, u, lr, **shared), {"exp_avg": m, "exp_avg_var": s}


def yogi(
    w,
    g,
    state,
    t,
    *,
    lr=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-3,
    bias_correction=True,
    initial_accumulator=1e-6,
    initial_average=0.0,
    **shared,
):
    """Algorithm 2 of Zaheer et al. 2018, with corrections of the averages."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    past, present = a.average(beta1)
    m = past * state.get("exp_avg", a.full(w, initial_average)) + present * g
    v = state.get("exp_avg_sq", a.full(w, initial_accumulator))
    v = v - a.average(beta2)[1] * sign(a, v - g * g) * (g * g)
    new = {"exp_avg": m, "exp_avg_sq": v}
    if bias_correction:
        m, v = a.unbias(beta1, t) * m, a.unbias(beta2, t) * v
    return outgoing(a, w, m / (a.sqrt(v) + a.rounded(eps)), lr, **shared), new


def qhadam(w, g, state, t, *, lr=1e-3, beta1=0.995, beta2=0.999, eps=1e-8, nu1=0.7, nu2=1.0, **shared):
    """Section 4 of arXiv:1810.06801."""
    a = Arithmetic(w.dtype)
    g = incoming(a, w, g, **shared)
    m, v = averages(a, w, g, state, beta1, beta2)
    averaged, itself = a.average(nu1)
    above = itself * g + averaged * (a.unbias(beta1, t) * m)
    averaged, itself = a.average(nu2)
    below = itself * g * g + averaged * (a.unbias(beta2, t) * v)
    u = above / (a.sqrt(below) + a.rounded(eps))
    return outgoing(a, w, u, lr, **shared), {"exp_avg": m, "exp_avg_sq": v}


def ademamix(
    w,
    g,
    state,
    t,
    *,
    lr=1e-3,
    beta1=0.9,
    beta2=0.999,
    eps=1e-8,
    beta3=0.9999,
    alpha=5.0,
    warmup_steps=0,
    decoupled_weight_decay=True,
    **shared,
):
    """Algorithm 1 of arXiv:2409.03137, its schedules equations 4 and 5."""
    a = Arithmetic(w.dtype)
    shared["decoupled_weight_decay"] = decoupled_weight_decay
    g = incoming(a, w, g, **shared)
    log, exp = (MP.log, MP.exp) if a.is_exact else (math.log, math.exp)
    slow, weight = a.host(beta3), a.host(alpha)
    if t + 1 < warmup_steps:
        done = a.host(t + 1) / warmup_steps
        first, last = log(a.host(beta1)), log(slow)
        slow = min(exp(first * last / ((1 - done) * last + done * first)), slow)
        weight = done * weight
    fast, v = averages(
        a, w, g, {**state, "exp_avg": state.get("exp_avg_fast", a.full(w, 0.0))}, beta1, beta2
    )
    past, present = a.average(slow)
    s = past * state.get("exp_avg_slow", a.full(w, 0.0)) + present * g
    u = a.unbias(beta1, t) * fast + a.rounded(weight) * s
    u = u / (a.sqrt(a.unbias(beta2, t) * v) + a.rounded(eps))
    new = {"exp_avg_fast": fast, "exp_avg_slow": s, "exp_avg_sq": v}
    return outgoing(a, w, u, lr, **shared), new


def adan(
    w,
    g,
    state,
    t,
    *,
    lr=1e-3,
    beta1=0.98,
    beta2=0.92,
    beta3=0.99,
    eps=1e-8,
    eps_root=0.0,
    look_ahead=None,
    bias_correction=True,
    proximal=False,
    decoupled_weight_decay=True,
    **shared,
):
    """Algorithm 1 of arXiv:2208.06677, its betas one minus these, with corrections of the averages."""
    a = Arithmetic(w.dtype)
    shared["decoupled_weight_decay"] = decoupled_weight_decay
    g = incoming(a, w, g, **shared)
    ahead = a.rounded(beta2 if look_ahead is None else look_ahead)
    change = g - state["previous_grad"] if t else a.full(w, 0.0)
    past, present = a.average(beta1)
    m = past * state.get("exp_avg", a.full(w, 0.0)) + present * g
    past, present = a.average(beta2)
    d = past * state.get("exp_avg_diff", a.full(w, 0.0)) + present * change
    past, present = a.average(beta3)
    seen = g + ahead * change
    n = past * state.get("exp_avg_sq", a.full(w, 0.0)) + present * seen * seen
    new = {"exp_avg": m, "exp_avg_diff": d, "exp_avg_sq": n, "previous_grad": g}
    if bias_correction:
        m, d, n = a.unbias(beta1, t) * m, a.unbias(beta2, t) * d, a.unbias(beta3, t) * n
    u = (m + ahead * d) / (a.sqrt(n + a.rounded(eps_root)) + a.rounded(eps))
    rate, decay = a.host(lr), a.host(shared.get("weight_decay", 0.0))
    if proximal and decoupled_weight_decay:
        rate = rate / (1 + rate * decay)
    return outgoing(a, w, u, rate, **shared), new
