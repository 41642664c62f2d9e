"""generate.py's step as one function for torch.compile: `generate(..., compiled=True)` on a GPU.

generate.py records what PyTorch launches, some 130 small kernels per token with a gap after each.
Here a token takes 60: the compiler fuses what lies between the products, and attention is one
Triton kernel, which reads only the slots that a row has written. So the width of the cache does not
matter, and one recording serves all columns. Compiling takes some twenty seconds once per process,
and ten more for a single row. It computes what Cache.step, the decoder and the sampling compute;
tests compare them.

R rows, H heads of D, C = H * D, K temperatures, V words.
"""
import functools

import torch
import torch.nn as nn
import torch.nn.functional as F

from decoder import at_least_float32
from fast.generate import Writing, minus_gumbel
from lpo import require

try:
    import triton
    import triton.language as tl
except ImportError:  # it comes with PyTorch's builds for GPUs
    triton = None

BLOCK = 16  # slots that the kernel reads at once


# --- attention ------------------------------------------------------------------------------------


def attend(heads, kv, pos):
    """Write keys and values at pos, then attend up to there.

    heads (R,H,3,D): of the newest tokens query, key, value. kv (R,H,slots,2,D). pos (R,). -> (R,C)
    """
    R, H, _, D = heads.shape
    if heads.is_cuda:
        y = torch.empty_like(heads[:, :, 0]).view(R, H * D)
        attend_kernel[(R * H,)](heads, kv, pos, y, kv.shape[2], H, D, BLOCK, num_warps=2)
        return y
    kv[torch.arange(R), :, pos] = heads[:, :, 1:]
    keys, values = kv.unbind(3)  # (R,H,slots,D)
    scores = (heads[:, :, :1] @ keys.mT)[:, :, 0] * D ** -0.5  # (R,H,slots)
    unseen = torch.arange(kv.shape[2]) > pos[:, None, None]
    shares = scores.masked_fill(unseen, -torch.inf).softmax(-1)
    return (shares[:, :, None] @ values).view(R, H * D)


if triton is not None:
    @triton.jit
    def attend_kernel(heads, kv, pos, y, slots, H: tl.constexpr, D: tl.constexpr,
                      N: tl.constexpr):
        """One row's one head, in float32. N softmaxes run side by side, each over every N-th slot:
        `top` is the largest score so far, `total` the sum of exp(score - top), `acc` that sum with
        the values as factors. They are joined at the end."""
        number = tl.program_id(0).to(tl.int64)
        place = tl.load(pos + number // H)
        d, n = tl.arange(0, D), tl.arange(0, N)
        own = heads + number * 3 * D + d
        q, k, v = tl.load(own), tl.load(own + D), tl.load(own + 2 * D)
        first = kv + number * slots * 2 * D + d
        tl.store(first + place * 2 * D, k)
        tl.store(first + place * 2 * D + D, v)
        q = q.to(tl.float32) * D ** -0.5
        newest = tl.sum(q * k.to(tl.float32))
        top = tl.where(n == 0, newest, float("-inf"))
        total = tl.where(n == 0, 1.0, 0.0)
        acc = tl.where(n[:, None] == 0, v.to(tl.float32)[None, :], 0.0)
        for start in tl.range(0, place, N, num_stages=3):  # reads ahead of the arithmetic
            slot = start + n
            seen = slot < place
            at = first[None, :] + slot[:, None] * 2 * D
            keys = tl.load(at, mask=seen[:, None], other=0.0).to(tl.float32)
            values = tl.load(at + D, mask=seen[:, None], other=0.0).to(tl.float32)
            scores = tl.where(seen, tl.sum(q[None, :] * keys, 1), float("-inf"))
            higher = tl.maximum(top, scores)
            finite = tl.where(higher == float("-inf"), 0.0, higher)  # inf - inf is NaN
            powers, shrink = tl.exp(scores - finite), tl.exp(top - finite)
            total = total * shrink + powers
            acc = acc * shrink[:, None] + powers[:, None] * values
            top = higher
        share = tl.exp(top - tl.max(top))
        tl.store(y + number * D + d, tl.sum(acc * share[:, None], 0) / tl.sum(total * share))


# --- the step -------------------------------------------------------------------------------------


def linear(x, weight, bias=None):
    """F.linear; for one row as a sum, which the compiler fuses with what comes before and after."""
    if len(x) > 1:
        return F.linear(x, weight, bias)
    y = (at_least_float32(x) * at_least_float32(weight)).sum(-1)[None]
    return (y if bias is None else y + bias).to(x.dtype)


def log_choice(decoder, hidden):
    """decoder(hidden), by `linear`.  (R,C) -> (R,K)"""
    x = hidden.to(decoder.mlp[0].weight.dtype)
    for layer in decoder.mlp:
        x = linear(x, layer.weight, layer.bias) if isinstance(layer, nn.Linear) else layer(x)
    return F.log_softmax(at_least_float32(x), -1)


def next_column(writing, noise):
    """A column from each row's newest token, in place.  noise (R,K+V): minus Gumbel, float64"""
    cache, rows, pos, K = writing.cache, writing.rows, writing.pos, len(writing.taus)
    x = (F.embedding(writing.newest, cache.token_table) +
         F.embedding(pos, cache.place_table))  # (R,C)
    R, C = x.shape
    for kv, (norm1, norm2, qkv, out, up, down) in zip(cache.kv, cache.blocks):
        heads = linear(torch.layer_norm(x, (C,), *norm1), *qkv)
        y = attend(heads.view(R, kv.shape[1], 3, kv.shape[4]), kv, pos)
        x = x + linear(y, *out)
        y = linear(torch.layer_norm(x, (C,), *norm2), *up)
        x = x + linear(F.gelu(y, approximate="tanh"), *down)
    hidden = torch.layer_norm(x, (C,), *cache.norm)
    logits = at_least_float32(linear(hidden, cache.token_table))  # (R,V)

    pos.add_(1)
    if writing.decoder is None:
        writing.chosen.copy_(writing.planned[rows, pos])
    else:
        if writing.decides:
            tau_logps = log_choice(writing.decoder, hidden)  # (R,K)
            if not writing.greedy:
                tau_logps = tau_logps - noise[:, :K]
            writing.chosen.copy_(writing.best(tau_logps))
        writing.tau_idx[rows, pos] = writing.chosen
    tau = writing.taus[writing.chosen]
    writing.newest.copy_(writing.best(logits - tau[:, None] * noise[:, K:]))
    writing.idx[rows, pos] = writing.newest


def any_size(writing, noise):
    """Let one compilation serve any number of rows, length of text and size of the cache."""
    of_rows = writing.newest, writing.pos, writing.rows, writing.chosen, noise
    of_texts = writing.idx, writing.tau_idx, writing.planned, writing.failed
    for tensors, sizes in ((of_rows, [0]), (of_texts, [0, 1]), (writing.cache.kv, [0, 2])):
        for x in tensors:
            torch._dynamo.maybe_mark_dynamic(x, sizes)


@functools.cache
def compiled():
    # each model, level and set of temperatures has a compilation of its own; 8 are too few
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(next_column, fullgraph=True)


class Compiled(Writing):
    """Responses under way whose columns, after the first, are one compiled function each."""
    any_width = True

    def __init__(self, model, prompts, T, decoder, greedy, generator):
        super().__init__(model, prompts, T, decoder, greedy, generator)
        require(triton is not None, "compiled=True needs triton, which PyTorch's GPU builds bring")
        D = model.config.n_embd // model.config.n_head
        require(D & (D - 1) == 0, f"heads are {D} wide; compiled=True needs a power of two")

    def set_choices(self, choices):
        super().set_choices(choices)
        require(self.taus is not None, f"choices are {choices}; compiled=True takes temperatures")

    @torch.inference_mode()
    def from_newest(self):
        shape = len(self.rows), len(self.taus) + len(self.cache.token_table)
        noise = minus_gumbel(shape, self.idx.device, self.generator)
        any_size(self, noise)
        compiled()(self, noise)
