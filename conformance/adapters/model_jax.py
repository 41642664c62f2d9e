"""GPT-2, the decoder, the sampler and the losses in JAX: fixed shapes, jit, vmap, a key per row.

    python conformance/check_model.py conformance/adapters/model_jax.py      needs jax, not torch

What the model gives is made by functions of one row, mapped over blocks of rows, so that each
compiles once. Arrays are aligned with the position that predicts: masks say what counts. Training
takes the response's own columns. `pairs` is left out, which the checker allows.

S positions of a row, T response tokens, V tokens in the vocabulary, C hidden width, K choices.
"""
import math
import sys
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
import gpt2 as files  # noqa: E402  no more than the file format

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")

DTYPE = "float64"  # check_model.py --dtype overwrites it
INF = float("inf")


class Fixed(NamedTuple):
    """What a function is compiled for."""
    n_layer: int
    n_head: int
    epsilon: float
    eos: int
    choices: tuple  # of (temperature, frequency penalty, min_p)
    level: str


@lru_cache
def load(folder, dtype):
    """-> Fixed, GPT-2's weights, the decoder's weights, n_positions"""
    policy = files.load(folder)
    config = policy.config
    choices = [choice if isinstance(choice, dict) else {"temperature": choice}
               for choice in policy.choices]
    fixed = Fixed(*(config[name] for name in ("n_layer", "n_head", "layer_norm_epsilon",
                                              "eos_token_id")),
                  tuple((choice["temperature"], choice.get("frequency_penalty", 0.0),
                         choice.get("min_p", 0.0)) for choice in choices), policy.level)
    weights, head = jax.tree.map(lambda w: jnp.asarray(w, dtype), (policy.weights, policy.decoder))
    return fixed, weights, head, config["n_positions"]


# ---- one row -----------------------------------------------------------------------------------

def gpt2(fixed, weights, ids):
    """Logits and hidden states; padding on the right needs no mask.  (S,) -> (S,V), (S,C)"""
    def norm(name, x):
        x = jax.nn.standardize(x, epsilon=fixed.epsilon)
        return x * weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    def linear(name, x):
        return x @ weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    S, embedding = len(ids), weights["transformer.wte.weight"]
    x = embedding[ids] + weights["transformer.wpe.weight"][:S]
    for layer in range(fixed.n_layer):
        h = f"h.{layer}."
        qkv = linear(h + "attn.c_attn", norm(h + "ln_1", x)).reshape(S, 3, fixed.n_head, -1)
        q, k, v = qkv.swapaxes(0, 1)  # (S,H,D); jax.nn.dot_product_attention rounds to float32
        scores = jnp.einsum("shd,thd->hst", q, k) / math.sqrt(q.shape[-1])
        shares = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((S, S), bool)), scores, -INF))
        seen = jnp.einsum("hst,thd->shd", shares, v).reshape(S, -1)
        x = x + linear(h + "attn.c_proj", seen)
        wide = jax.nn.gelu(linear(h + "mlp.c_fc", norm(h + "ln_2", x)), approximate=True)
        x = x + linear(h + "mlp.c_proj", wide)
    hidden = norm("ln_f", x)
    return hidden @ embedding.T, hidden


def head_logps(head, hidden):
    """log P(tau_k | h).  (...,C) -> (...,K)"""
    for name in ("mlp.0", "mlp.2"):
        hidden = jax.nn.silu(hidden @ head[f"{name}.weight"].T + head[f"{name}.bias"])
    return jax.nn.log_softmax(hidden @ head["mlp.4.weight"].T + head["mlp.4.bias"])


def token_logps(fixed, logits, counts):
    """log P(token | choice k); counts: how often each was written.  (...,V) twice -> (...,K,V)"""
    every = []
    for tau, penalty, min_p in fixed.choices:
        kept = logits >= logits.max(-1, keepdims=True) + (math.log(min_p) if min_p else -INF)
        left = jnp.where(kept, logits, -INF) - penalty * counts
        best = jax.nn.one_hot(left.argmax(-1), left.shape[-1], dtype=bool)
        every.append(jax.nn.log_softmax(left / tau) if tau else jnp.where(best, 0 * left, -INF))
    return jnp.stack(every, -2)


def padded(rows, S):
    """Lists of ids -> (B,S)"""
    return np.array([[*row, *[0] * (S - len(row))] for row in rows], np.int32)


# ---- scoring -----------------------------------------------------------------------------------

@partial(jax.jit, static_argnums=0)
def score_block(fixed, weights, ids, last):
    """What the model gives at each position; `last`: of the prompt.  -> (B,S,K), (B,S,C)"""
    def one(ids, last):
        logits, hidden = gpt2(fixed, weights, ids)
        written = jax.nn.one_hot(ids, logits.shape[-1]) * (jnp.arange(len(ids)) > last)[:, None]
        logps = token_logps(fixed, logits, written.cumsum(0).astype(logits.dtype))  # (S,K,V)
        following = jnp.roll(ids, -1)[:, None, None]  # at the last position nothing counts
        return jnp.take_along_axis(logps, following, 2)[..., 0], hidden

    return jax.vmap(one)(ids, last)


def text_and_hidden(policy, prompts, responses):
    """Of each row's response: [(text_logps (T,K), deciding hidden states (T,C) or (1,C))]"""
    if not all(responses):
        raise ValueError("a response is empty; leave such rows out")
    fixed, weights, _, S = load(policy, DTYPE)
    ids = padded([[*prompt, *response] for prompt, response in zip(prompts, responses)], S)
    last = np.array([len(prompt) - 1 for prompt in prompts])
    text, hidden = score_block(fixed, weights, ids, last)
    rows = []
    for b, response in enumerate(responses):
        columns = slice(last[b], last[b] + len(response))
        decides = columns if fixed.level == "token" else slice(last[b], last[b] + 1)
        rows.append((text[b, columns], hidden[b, decides]))
    return rows


def score(policy, prompts, responses):
    head, answer = load(policy, DTYPE)[2], []
    for text, hidden in text_and_hidden(policy, prompts, responses):
        tau = head_logps(head, hidden)
        answer.append(dict(tau_logps=tau, text_logps=text,
                           mixture_logps=jax.nn.logsumexp(text + tau, -1)))
    return jax.tree.map(np.asarray, answer)


# ---- generation --------------------------------------------------------------------------------

@partial(jax.jit, static_argnums=(0, 1, 2))
def sampled_block(fixed, select, T, weights, head, ids, length, keys):
    """T tokens after each prompt, past the end of text too.  -> tokens (B,T), tau_idx (B,T)"""
    def one(ids, length, key):
        tokens, taus, counts = [], [], 0.0
        for t in range(T):
            logits, hidden = (x[length + t - 1] for x in gpt2(fixed, weights, ids))
            of_tau, of_token = jax.random.split(jax.random.fold_in(key, t))
            if t == 0 or fixed.level == "token":
                tau_logps = head_logps(head, hidden)
                tau_idx = tau_logps.argmax() if select == "greedy" \
                    else jax.random.categorical(of_tau, tau_logps)
            every = token_logps(fixed, logits, counts + 0 * logits)  # (K,V)
            tokens.append(jax.random.categorical(of_token, every[tau_idx]))
            taus.append(tau_idx)
            ids = ids.at[length + t].set(tokens[-1].astype(ids.dtype))
            counts += jax.nn.one_hot(tokens[-1], len(logits), dtype=logits.dtype)
        return jnp.stack(tokens), jnp.stack(taus)

    return jax.vmap(one)(ids, length, keys)


def generate(policy, prompts, max_new_tokens, n, seed, select):
    fixed, weights, head, _ = load(policy, DTYPE)
    lengths = [len(prompt) for prompt in prompts]
    ids, answer = padded(prompts, max(lengths) + max_new_tokens), []
    for p, key in enumerate(jax.random.split(jax.random.PRNGKey(seed), len(prompts))):
        tokens, taus = sampled_block(fixed, select, max_new_tokens, weights, head, ids[[p] * n],
                                     np.array([lengths[p]] * n), jax.random.split(key, n))
        answer.append([])
        for response, tau_idx in zip(tokens.tolist(), taus.tolist()):
            end = response.index(fixed.eos) + 1 if fixed.eos in response else max_new_tokens
            answer[p].append((response[:end], tau_idx[:end if fixed.level == "token" else 1]))
    return answer


# ---- training ----------------------------------------------------------------------------------

def side_of(policy, reference, pairs, side, variant):
    """One side of each pair, what no step changes.  -> [dictionary]"""
    rows = [pair["prompt"] for pair in pairs], [pair[side][0] for pair in pairs]
    sides = []
    both = zip(text_and_hidden(policy, *rows), text_and_hidden(reference or policy, *rows))
    for pair, ((text, hidden), (ref_text, ref_hidden)) in zip(pairs, both):
        ref_tau = head_logps(load(reference or policy, DTYPE)[2], ref_hidden)
        if not reference or variant == "nll":
            ref_tau = 0 * ref_tau - math.log(text.shape[1]) * variant.startswith("latent")
        sides.append(dict(text=text, hidden=hidden, ref_text=ref_text, ref_tau=ref_tau,
                          tau_idx=np.array(pair[side][1])))
    return sides


def ratio(logps, ref_logps):
    """0 where either is impossible."""
    possible = jnp.isfinite(logps) & jnp.isfinite(ref_logps)
    return jnp.where(possible, logps - ref_logps, 0)


def score_of(variant, head, s):
    """Of one side of a pair."""
    tau, text, ref_text = head_logps(head, s["hidden"]), s["text"], s["ref_text"]
    if variant == "latent_exact":
        text, ref_text = text.sum(0), ref_text.sum(0)
    if variant.startswith("latent"):  # a choice above 0 is among them: no sum is -inf
        return ratio(jax.nn.logsumexp(text + tau, -1),
                     jax.nn.logsumexp(ref_text + s["ref_tau"], -1)).sum()
    k = s["tau_idx"][:, None]
    value = jnp.take_along_axis(tau - s["ref_tau"], k, 1).sum()
    if variant == "joint":
        k = jnp.broadcast_to(k, (len(text), 1))
        value += ratio(*(jnp.take_along_axis(x, k, 1) for x in (text, ref_text))).sum()
    return value


@partial(jax.jit, static_argnums=0)
def gradient(variant, head, pairs, beta):
    """Of the mean loss.  [(chosen, rejected)] -> {name: array}"""
    def loss(head, chosen, rejected):
        if variant == "nll":
            return -score_of(variant, head, chosen)
        margin = score_of(variant, head, chosen) - score_of(variant, head, rejected)
        return -jax.nn.log_sigmoid(beta * margin)

    return jax.grad(lambda head: sum(loss(head, *pair) for pair in pairs) / len(pairs))(head)


def train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches):
    sides = [side_of(policy, reference, pairs, side, variant) for side in ("chosen", "rejected")]
    head = load(policy, DTYPE)[2]
    for _ in range(steps):
        part = gradient(variant, head, [*zip(*sides)], beta)  # all micro-batches in one
        head = jax.tree.map(lambda w, g: w - lr * g, head, part)
    return jax.tree.map(np.asarray, head)
