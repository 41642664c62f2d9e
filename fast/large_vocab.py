"""Large vocabularies: the sum inside the `latent` score, several times as fast in little memory.

lpo.py scales the logits by every temperature, and autograd keeps the copies. At a small vocabulary
(V = 128) they are nothing, and lpo.py is the one to read and to use. At GPT-2's they are many times
the logits, the largest thing in memory: then, and only then, take the two functions here, which
mean the same and are tested against lpo.py by value and gradient. (On a GPU they save the memory
alone: a loop over a few rows at a time is slower there than lpo.py.)

With p_k = softmax(l / tau_k), a token's score is M = log sum_k P(tau_k) p_k(y), and

    w_k = P(tau_k) p_k(y) / exp(M)                            tau_k's share of the sum
    dM / d log P(tau_k) = w_k
    dM / dl_v = sum_k w_k / tau_k * ([v = y] - p_k(v))        without the terms of tau_k = 0

No part of dM / dl waits for the loss, which only scales it by one number a token. So the forward
pass makes the powers exp(l / tau_k) of a few rows, takes the normalisers, M and dM / dl from them
while they lie in the cache, and overwrites them with those of the next rows: what stays is one
array of the logits' size. The K values of `temperature_logps` are each scaled by a number of their
own, known in the backward pass alone, which makes the powers again; it keeps only the logits.
`python -m fast.large_vocab` compares; `--vocab 128` shows the other end.
"""
import argparse
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import product
from multiprocessing import get_context
from statistics import median

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from lpo import checked_choices, marginal, require, require_kind
from lpo import temperature_logps as plain_temperature_logps


def by_blocks(logits, tokens, temperatures, weigh, grad=None):
    """Calls weigh(at, logps) on blocks of rows: their place, log P(y_t | tau_k) (n,m,K). Its
    answer g (n,m,K) fills grad (B,T,V), where given, with sum_k g_k d log P(y_t | tau_k) / dl."""
    (B, T, V), K, device = logits.shape, len(temperatures), logits.device
    dtype = torch.promote_types(logits.dtype, torch.float32)  # bfloat16 is too coarse for sums
    info, tau = torch.finfo(dtype), torch.tensor(temperatures, dtype=dtype, device=device)
    warm = (tau > info.tiny).nonzero().squeeze(-1)  # (P,): which are not 0, nor as good as
    tau, P = tau[warm], len(warm)
    size = 2**20 if device.type == "cpu" else 2**23  # of a block's powers
    m = max(1, size // (max(1, P) * V))
    n = max(1, m // max(1, T))
    blocks = iter([(slice(b, b + n), slice(t, t + m))
                   for b, t in product(range(0, B, n), range(0, T, m))])

    @torch.inference_mode()  # a new thread starts with gradients on
    @torch.autocast(device.type, enabled=False)  # no product in half precision
    def work():
        scratch = torch.empty(min(m, B * T) * P * V, dtype=dtype, device=device)
        for at in blocks:  # shared: a free thread takes the next one
            y = tokens[at][..., None]  # (n,m,1)
            top, best = logits[at].max(-1, keepdim=True)  # on a tie the lowest index
            shifted = logits[at].to(dtype) - top  # a tiny tau must not overflow
            powers = scratch[:shifted.numel() * P].view(*y.shape[:2], P, V)
            torch.div(shifted[..., None, :], (tau * math.log(2))[:, None], out=powers)
            # 0 for powers so small that a product of two is denormal: arithmetic is many times
            # slower there, as is torch.exp on its way to 0; torch.exp2 is not.
            F.threshold_(powers, math.log2(info.tiny) / 2, -math.inf).exp2_()
            norm = powers.sum(-1)  # (n,m,P)
            logps = torch.where(y == best, 0.0, -math.inf).to(dtype).repeat(1, 1, K)
            logps[..., warm] = shifted.gather(-1, y) / tau - norm.log()
            g = weigh(at, logps)
            if grad is not None:
                g = g[..., warm].to(dtype) / tau
                g = g.clamp(-info.max, info.max) / norm  # inf * 0 is NaN
                powers.scatter_add_(-1, y[..., None].expand(*norm.shape, 1), -norm[..., None])
                grad[at] = (-g[..., None, :] @ powers).squeeze(-2)

    if device.type != "cpu":
        return work()
    # Each thread takes blocks of its own: inside operations on so few rows they would mostly wait
    # for each other, and on a busy machine for their turn.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            for job in [pool.submit(work) for _ in range(threads)]:
                job.result()  # raises what the thread raised
    finally:
        torch.set_num_threads(threads)


class TemperatureLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, tokens, temperatures):
        ctx.save_for_backward(logits, tokens)
        ctx.temperatures = temperatures
        out = logits.new_empty(*tokens.shape, len(temperatures),
                               dtype=torch.promote_types(logits.dtype, torch.float32))
        by_blocks(logits, tokens, temperatures, lambda at, logps: out[at].copy_(logps))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        logits, tokens = ctx.saved_tensors
        grad = logits.new_empty(logits.shape)
        by_blocks(logits, tokens, ctx.temperatures, lambda at, logps: g[at], grad)
        return grad, None, None


class LatentMarginal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, tokens, temperatures, tau_logps):
        dtype = torch.promote_types(torch.promote_types(logits.dtype, tau_logps.dtype),
                                    torch.float32)
        out = logits.new_empty(tokens.shape, dtype=dtype)
        w = logits.new_empty(tau_logps.shape, dtype=dtype)
        ctx.grad = logits.new_empty(logits.shape) if ctx.needs_input_grad[0] else None

        def weigh(at, logps):
            out[at] = value = marginal(logps, tau_logps[at])  # (n,m)
            share = (logps + tau_logps[at] - value[..., None]).exp()
            return w[at].copy_(share.masked_fill(value.isneginf()[..., None], 0))

        by_blocks(logits, tokens, temperatures, weigh, ctx.grad)
        ctx.save_for_backward(logits, tokens, w)
        ctx.temperatures = temperatures
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        logits, tokens, w = ctx.saved_tensors
        grad, ctx.grad = ctx.grad, None  # scaled in place and given away: a product is a copy
        if grad is None and ctx.needs_input_grad[0]:  # a second backward pass: make it again
            grad = logits.new_empty(logits.shape)
            by_blocks(logits, tokens, ctx.temperatures, lambda at, logps: w[at], grad)
        g = g[..., None]
        return grad if grad is None else grad.mul_(g), None, None, g * w


def checked(logits, tokens, temperatures, tau_logps=None):
    """The temperatures as a tuple of floats; ValueError on what does not fit."""
    require(logits.dim() == 3 and logits.is_floating_point(),
            f"logits is {logits.dtype} {*logits.shape,}; give floats (B,T,V)")
    B, T, V = logits.shape
    require_kind("tokens", tokens, "long", (B, T), logits.device)
    require(((tokens >= 0) & (tokens < V)).all(), f"tokens has ids outside 0 to {V - 1}")
    temperatures = checked_choices(temperatures)
    require(not any(map(callable, temperatures)),
            f"temperatures are {temperatures}; give numbers (lpo.py takes functions too)")
    if tau_logps is not None:
        L = 1 if tau_logps.shape[1:2] == (1,) else T
        require_kind("tau_logps", tau_logps, "float", (B, L, len(temperatures)), logits.device)
    return temperatures


def temperature_logps(logits, tokens, temperatures):
    """lpo.temperature_logps, lean.  (B,T,V), (B,T), K floats -> (B,T,K)"""
    return TemperatureLogps.apply(logits, tokens, checked(logits, tokens, temperatures))


def latent_marginal(logits, tokens, temperatures, tau_logps):
    """log sum_k P(y_t | tau_k) P(tau_k).  (B,T,V), (B,T), K floats, (B,T,K) or (B,1,K) -> (B,T)"""
    temperatures = checked(logits, tokens, temperatures, tau_logps)
    if not torch.is_grad_enabled():  # ctx.needs_input_grad does not know
        logits = logits.detach()
    tau_logps = tau_logps.expand(*tokens.shape, len(temperatures))
    return LatentMarginal.apply(logits, tokens, temperatures, tau_logps)


VERSIONS = {  # logits, tokens, temperatures, tau_logps -> (B,T)
    "lpo.py": lambda l, y, taus, p: marginal(plain_temperature_logps(l, y, taus), p),
    "temperature_logps": lambda l, y, taus, p: marginal(temperature_logps(l, y, taus), p),
    "latent_marginal": latent_marginal,
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def inputs(B, T, V, temperatures=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0)):
    """The arguments; half of the tokens are arg-max. A copy of the logits would hide the peak."""
    how = dict(device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    logits = torch.randn(B, T, V, requires_grad=True, **how)
    tokens = torch.randint(V, (B, T), **how)
    tokens[::2] = logits[::2].argmax(-1)
    tau_logps = torch.randn(B, T, len(temperatures), **how).log_softmax(-1)
    return logits, tokens, temperatures, tau_logps.requires_grad_()


def seconds(version, case):
    """One forward and backward pass."""
    start = time.perf_counter()
    VERSIONS[version](*case).sum().backward()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    case[0].grad = case[3].grad = None
    return time.perf_counter() - start


def extra_memory(version, B, T, V):
    """The peak over what was there before, in units of the logits. On a CPU that is the resident
    memory's, which a process never lowers: it needs a process of its own."""
    def peak():
        if DEVICE == "cuda":
            return torch.cuda.max_memory_allocated()
        import resource  # not on Windows
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    case = inputs(B, T, V)
    seconds(version, inputs(2, 1, V))  # loads the libraries
    before = peak()
    seconds(version, case)
    return (peak() - before) / (case[0].numel() * case[0].element_size())


def main():
    parser = argparse.ArgumentParser(allow_abbrev=False,
                                     description="lpo.py and the lean versions compared")
    for name, default, help in (("vocab", 50257, "V, GPT-2's"), ("pairs", 8, "of two responses"),
                                ("tokens", 48, "T"), ("repeats", 7, "timed rounds")):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help} ({default})")
    args = parser.parse_args()
    if min(vars(args).values()) < 1:
        parser.error("give numbers >= 1")
    shape, extra = (2 * args.pairs, args.tokens, args.vocab), {}
    for version in VERSIONS:  # before anything large: a process inherits its parent's peak
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            extra[version] = pool.submit(extra_memory, version, *shape).result()
    case = inputs(*shape)
    rounds = [{version: 1000 * seconds(version, case) for version in VERSIONS}
              for _ in range(1 + args.repeats)][1:]  # the first one warms up
    print(f"logits {shape} float32, {len(case[2])} temperatures, forward and backward, {DEVICE}, "
          f"{torch.get_num_threads()} threads\n{'median (range)':18}{'ms':>20}{'speed':>18}"
          f"{'extra memory / logits':>24}")
    for version in VERSIONS:
        ms, speed = zip(*((r[version], r["lpo.py"] / r[version]) for r in rounds))
        ratio = median(r["lpo.py"] for r in rounds) / median(ms)
        print(f"{version:18}{f'{median(ms):.0f} ({min(ms):.0f}-{max(ms):.0f})':>20}"
              f"{f'{ratio:.1f} ({min(speed):.1f}-{max(speed):.1f})':>18}{extra[version]:24.2f}")


if __name__ == "__main__":
    main()
