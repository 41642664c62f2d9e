"""GPT-2, the head, the sampler and the losses in JAX: fixed shapes, jit, vmap, a key for each row.

    python conformance/check_model.py conformance/adapters/model_jax.py      needs jax, not torch

Every function is of one row; `in_blocks` maps it over blocks of one size, so that it compiles once.
Arrays are aligned with the position that predicts, not with the token predicted: nothing is cut
out of a row, masks say what counts. At the sequence level the head reads the last prompt token's
state at every position, and one of them counts.

S positions of a row, V words, C hidden width, K choices (temperatures).
"""
import json
import math
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

DTYPE = "float64"  # check_model.py --dtype overwrites it
SCORED, DRAWN = 16, 1000  # rows in a block
INF = float("inf")
MARGINAL = ("latent", "exact_sequence")  # variants that sum the choice out


class Fixed(NamedTuple):
    """What a function is compiled for."""
    n_layer: int
    n_head: int
    epsilon: float
    eos: int
    choices: tuple
    level: str


def read_safetensors(path):
    """8 bytes of header length, the header as JSON, bfloat16 numbers.  -> {name: array}"""
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        x = np.frombuffer(data[start + first:start + end], jnp.bfloat16).reshape(entry["shape"])
        tensors[name] = jnp.asarray(x, DTYPE)
    return tensors


@lru_cache
def load(folder, dtype):
    """-> Fixed, GPT-2's weights, the head's weights, n_positions"""
    folder = Path(folder)
    config, decoder = (json.loads((folder / name).read_text(encoding="utf-8"))
                       for name in ("config.json", "decoder.json"))
    fixed = Fixed(config["n_layer"], config["n_head"], config["layer_norm_epsilon"],
                  config["eos_token_id"], tuple(decoder["choices"]), decoder["level"])
    weights, head = (read_safetensors(folder / f"{name}.safetensors")
                     for name in ("model", "decoder"))
    return fixed, weights, head, config["n_positions"]


# ---- one row -----------------------------------------------------------------------------------

def gpt2(fixed, weights, ids):
    """Hidden states after the final norm; padding on the right needs no mask.  (S,) -> (S,C)"""
    def norm(name, x):
        x = jax.nn.standardize(x, epsilon=fixed.epsilon)
        return x * weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    def linear(name, x):
        return x @ weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    S = len(ids)
    earlier = jnp.tril(jnp.ones((S, S), bool))
    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][:S]
    for layer in range(fixed.n_layer):
        h = f"h.{layer}."
        qkv = linear(h + "attn.c_attn", norm(h + "ln_1", x)).reshape(S, 3, fixed.n_head, -1)
        q, k, v = qkv.swapaxes(0, 1)  # each (S,H,D)
        scores = jnp.einsum("shd,thd->hst", q, k) / math.sqrt(q.shape[-1])
        shares = jax.nn.softmax(jnp.where(earlier, scores, -INF))
        seen = jnp.einsum("hst,thd->shd", shares, v).reshape(S, -1)
        x = x + linear(h + "attn.c_proj", seen)
        wide = jax.nn.gelu(linear(h + "mlp.c_fc", norm(h + "ln_2", x)), approximate=True)
        x = x + linear(h + "mlp.c_proj", wide)
    return norm("ln_f", x)


def head_logps(head, hidden):
    """log P(tau_k | h).  (...,C) -> (...,K)"""
    for name in ("mlp.0", "mlp.2"):
        hidden = jax.nn.silu(hidden @ head[f"{name}.weight"].T + head[f"{name}.bias"])
    return jax.nn.log_softmax(hidden @ head["mlp.4.weight"].T + head["mlp.4.bias"])


def word_logps(logits, tau):
    """log P(word | tau), at 0 the arg-max.  (...,V) -> (...,V)"""
    if tau == 0:
        best = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
        return jnp.where(best, 0.0, -INF).astype(logits.dtype)
    return jax.nn.log_softmax(logits / tau)


# ---- batches -----------------------------------------------------------------------------------

def in_blocks(function, size, *columns):
    """function(*columns), `size` rows a call; the last block is filled up with its first rows."""
    parts = []
    for start in range(0, len(columns[0]), size):
        block = [column[start:start + size] for column in columns]
        n = len(block[0])
        answer = function(*(np.resize(x, (size, *x.shape[1:])) for x in map(np.asarray, block)))
        parts.append([np.asarray(x)[:n] for x in answer])
    return [np.concatenate(column) for column in zip(*parts)]


def padded(rows, S):
    """Lists of ids -> (B,S)"""
    ids = np.zeros((len(rows), S), np.int32)
    for b, row in enumerate(rows):
        ids[b, :len(row)] = row
    return ids


# ---- scoring -----------------------------------------------------------------------------------

@partial(jax.jit, static_argnums=0)
def frozen_block(fixed, weights, ids, last):
    """What the model gives at each position; `last`: of the prompt.  -> (B,S,K), (B,S,C)"""
    def one(ids, last):
        hidden = gpt2(fixed, weights, ids)
        logits = hidden @ weights["transformer.wte.weight"].T
        following = jnp.roll(ids, -1)[:, None]  # at the last position nothing counts
        text_logps = [jnp.take_along_axis(word_logps(logits, tau), following, 1)
                      for tau in fixed.choices]
        if fixed.level == "sequence":
            hidden = jnp.broadcast_to(hidden[last], hidden.shape)
        return jnp.concatenate(text_logps, 1), hidden

    return jax.vmap(one)(ids, last)


def frozen_pass(policy, prompts, responses):
    """-> text_logps (B,S,K), hidden (B,S,C)"""
    if not all(responses):
        raise ValueError("a response is empty; leave such rows out")
    fixed, weights, _, S = load(policy, DTYPE)
    rows = padded([[*prompt, *ids] for prompt, ids in zip(prompts, responses)], S)
    last = np.array([len(prompt) - 1 for prompt in prompts])
    return in_blocks(partial(frozen_block, fixed, weights), SCORED, rows, last)


def score(policy, prompts, responses):
    text, hidden = frozen_pass(policy, prompts, responses)
    fixed, _, head, _ = load(policy, DTYPE)
    tau = head_logps(head, hidden)
    mixture = jax.nn.logsumexp(text + tau, -1)
    answer = []
    for b, (prompt, ids) in enumerate(zip(prompts, responses)):
        first, end = len(prompt) - 1, len(prompt) - 1 + len(ids)
        decided = end if fixed.level == "token" else first + 1
        of_row = dict(tau_logps=tau[b, first:decided], text_logps=text[b, first:end],
                      mixture_logps=mixture[b, first:end])
        answer.append({name: np.asarray(x) for name, x in of_row.items()})
    return answer


# ---- generation --------------------------------------------------------------------------------

@partial(jax.jit, static_argnums=(0, 1, 2))
def drawn_block(fixed, select, T, weights, head, ids, length, keys):
    """T tokens after each prompt, past the end of text too.  -> words (B,T), tau_idx (B,T)"""
    def one(ids, length, key):
        words, taus = [], []
        for t in range(T):
            hidden = gpt2(fixed, weights, ids)[length + t - 1]
            of_tau, of_word = jax.random.split(jax.random.fold_in(key, t))
            if t == 0 or fixed.level == "token":
                tau_logps = head_logps(head, hidden)
                drawn = jax.random.categorical(of_tau, tau_logps)
                tau_idx = tau_logps.argmax() if select == "greedy" else drawn
            logits = hidden @ weights["transformer.wte.weight"].T
            every = jnp.stack([word_logps(logits, tau) for tau in fixed.choices])  # (K,V)
            words.append(jax.random.categorical(of_word, every[tau_idx]))
            taus.append(tau_idx)
            ids = ids.at[length + t].set(words[-1].astype(ids.dtype))
        return jnp.stack(words), jnp.stack(taus)

    return jax.vmap(one)(ids, length, keys)


def generate(policy, prompts, max_new_tokens, n, seed, select):
    fixed, weights, head, _ = load(policy, DTYPE)
    rows = [prompt for prompt in prompts for _ in range(n)]
    lengths = [len(prompt) for prompt in rows]
    keys = jax.random.split(jax.random.PRNGKey(seed), len(rows))
    words, taus = in_blocks(partial(drawn_block, fixed, select, max_new_tokens, weights, head),
                            DRAWN, padded(rows, max(lengths) + max_new_tokens), lengths, keys)
    answer = []
    for ids, tau_idx in zip(words.tolist(), taus.tolist()):
        end = ids.index(fixed.eos) + 1 if fixed.eos in ids else len(ids)
        answer.append((ids[:end], tau_idx[:end if fixed.level == "token" else 1]))
    return [answer[i:i + n] for i in range(0, len(answer), n)]


# ---- pairs -------------------------------------------------------------------------------------

def pairs(rewards, how):
    rewards = np.asarray(rewards)
    if np.isnan(rewards).any():
        raise ValueError("a reward is NaN; leave such responses out")
    if how.startswith("top-"):
        return best_of_top(*rewards, int(how.removeprefix("top-")))
    above = rewards[:, :, None] > rewards[:, None, :]  # (P,N,N): the first one is better
    if how == "best-worst":
        only = np.zeros_like(above)
        only[range(len(rewards)), rewards.argmax(1), rewards.argmin(1)] = True
        above &= only
    return np.argwhere(above).tolist()


def best_of_top(first, second, k):
    """Where two criteria, (P,N) each, matter."""
    found = []
    for p, (x, y) in enumerate(zip(first, second)):
        ranked = np.lexsort((y, x))  # rising by the first, equals by the second
        i = max(ranked[-k:], key=y.__getitem__)
        j = min(ranked[:k], key=y.__getitem__)
        if x[i] > x[j]:
            found.append((p, int(i), int(j)))
    return found


# ---- training ----------------------------------------------------------------------------------

def side_of(policy, reference, pairs, side, variant):
    """One side of all pairs, what no step changes.  -> arrays of P rows, (P,S,...)"""
    prompts, responses = [pair["prompt"] for pair in pairs], [pair[side][0] for pair in pairs]
    text, hidden = frozen_pass(policy, prompts, responses)
    _, S, K = text.shape
    ref_text = text
    ref_tau = np.full_like(text, -math.log(K) if variant in MARGINAL else 0)
    if reference:
        ref_text, ref_hidden = frozen_pass(reference, prompts, responses)
        ref_tau = np.asarray(head_logps(load(reference, DTYPE)[2], ref_hidden))
    counts, decides = np.zeros((2, len(pairs), S), bool)
    tau_idx = np.zeros((len(pairs), S), np.int32)
    for p, pair in enumerate(pairs):
        ids, of_ids = pair[side]
        first = len(pair["prompt"]) - 1
        counts[p, first:first + len(ids)] = True
        decides[p, first:first + len(of_ids)] = True
        tau_idx[p, first:first + len(ids)] = of_ids  # one alone: at every token
    return dict(text=text, hidden=hidden, ref_text=ref_text, ref_tau=ref_tau, tau_idx=tau_idx,
                counts=counts, decides=decides)


def ratio(logps, ref_logps):
    """0 where either is impossible."""
    possible = jnp.isfinite(logps) & jnp.isfinite(ref_logps)
    return jnp.where(possible, logps - ref_logps, 0)


def side_score(variant, head, s):
    """(P,)"""
    tau = head_logps(head, s["hidden"])  # (P,S,K)
    if variant == "latent":  # a choice above 0 is among them: no mixture is -inf
        mixtures = [jax.nn.logsumexp(text + of_tau, -1)
                    for text, of_tau in ((s["text"], tau), (s["ref_text"], s["ref_tau"]))]
        return jnp.where(s["counts"], mixtures[0] - mixtures[1], 0).sum(1)
    if variant == "exact_sequence":  # the head's row is the same at each position
        of_words = [jnp.where(s["counts"][..., None], s[name], 0).sum(1)
                    for name in ("text", "ref_text")]  # (P,K)
        sums = [jax.nn.logsumexp(words + of_tau[:, 0], -1)
                for words, of_tau in zip(of_words, (tau, s["ref_tau"]))]
        return sums[0] - sums[1]

    def of_drawn(x):
        return jnp.take_along_axis(x, s["tau_idx"][..., None], 2)[..., 0]

    value = jnp.where(s["decides"], of_drawn(tau) - of_drawn(s["ref_tau"]), 0).sum(1)
    if variant == "joint":
        words = ratio(of_drawn(s["text"]), of_drawn(s["ref_text"]))
        value += jnp.where(s["counts"], words, 0).sum(1)
    return value


@partial(jax.jit, static_argnums=0)
def gradient(variant, head, chosen, rejected, beta, weights):
    """Of the weighted sum of the pairs' losses.  weights: (P,) -> {name: array}"""
    def loss(head):
        if variant == "nll":
            alone = {**chosen, "ref_tau": jnp.zeros_like(chosen["ref_tau"])}
            return -(side_score("separate", head, alone) * weights).sum()
        margin = side_score(variant, head, chosen) - side_score(variant, head, rejected)
        return (-jax.nn.log_sigmoid(beta * margin) * weights).sum()

    return jax.grad(loss)(head)


def train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches):
    chosen, rejected = (side_of(policy, reference, pairs, side, variant)
                        for side in ("chosen", "rejected"))
    head, P = load(policy, DTYPE)[2], len(pairs)
    of_pair = np.repeat(np.arange(len(micro_batches)), micro_batches)  # its micro-batch
    for _ in range(steps):
        total = jax.tree.map(jnp.zeros_like, head)
        for m in range(len(micro_batches)):
            weights = (of_pair == m).astype(DTYPE) / P  # the others weigh nothing: one shape
            part = gradient(variant, head, chosen, rejected, beta, weights)
            total = jax.tree.map(jnp.add, total, part)
        head = jax.tree.map(lambda w, g: w - lr * g, head, total)
    return {name: np.asarray(w) for name, w in head.items()}
