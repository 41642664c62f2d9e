"""The large cases of `check.py --large`: made by a rule, and answered by numpy in one piece.

golden.json has at most 3 tokens, 3 temperatures and 4 words (at most 6 in `--fuzz`), so that a
limit of 8 temperatures, or a vocabulary read in chunks, stays invisible there. These cases have 16
temperatures and 50,257 words (GPT-2's) or 300 tokens. No file: every number is a hash of its place,
the same in any language. README.md has the rule in words.
    python conformance/large.py    prints names, losses and scores, one case a line
"""
import json
import math

import numpy as np

from make_golden import FORMS, SIDES

TAUS = [(5 * k % 16) / 8 for k in range(16)]  # 0 is the first, the others stand unsorted
PEAK, STEP = 4.0, 1 / 128  # the largest logit, and what bfloat16 drops of PEAK + STEP
WORDS, TOKENS = (1, 9, 50257), (2, 300, 61)  # B, T, V


# ---- the rule ----------------------------------------------------------------------------------

def mixed(x):
    """A 32-bit integer turned into another.  (...) -> (...)"""
    x = np.asarray(x, dtype=np.uint64) & 0xFFFFFFFF
    for shift, factor in ((16, 0x9E3779B1), (15, 0x61C88647)):
        x ^= x >> shift
        x = x * factor & 0xFFFFFFFF
    return x ^ (x >> 16)


def numbers(stream, *shape):
    """Entry i, counted in row-major order, is mixed(i + mixed(stream)).  -> shape, of integers"""
    i = np.arange(math.prod(shape), dtype=np.uint64)
    return mixed(i + mixed(stream)).astype(np.int64).reshape(shape)


def grid(stream, *shape):
    """Multiples of 1/16 from -2 up to 2, exact in bfloat16."""
    return (numbers(stream, *shape) % 64 - 32) / 16


def large_side(stream, s, B, T, V, level, reference, merged):
    """One side of a case; stream .. stream + 7 are its numbers, s is 0 (chosen) or 1."""
    L, K = T if level == "token" else 1, len(TAUS)
    lm = grid(stream, B, T, V)
    ref_lm = lm + grid(stream + 1, B, T, V) / 2
    peaks = numbers(stream + 2, B, T, 2) % V  # two words share the largest logit
    for logits in (lm, ref_lm):
        np.put_along_axis(logits, peaks, PEAK, axis=-1)
        if merged:  # the second peak is a little higher: a tie in bfloat16 alone
            np.put_along_axis(logits, peaks[..., 1:], PEAK + STEP, axis=-1)
    anything = numbers(stream + 3, B, T) % V
    which = numbers(stream + 4, B, T) % 4  # half the tokens are the arg-max, a quarter a rival's
    tokens = np.choose(which, [lm.argmax(-1), lm.argmax(-1), peaks[..., 0], anything])
    tau_idx = numbers(stream + 5, B, L) % K
    if level == "token":
        tau_idx[:, ::3] = 0  # every third token at temperature 0
    decoder, ref_decoder = (grid(stream + i, B, L, K) for i in (6, 7))
    lengths = T - s - 2 * np.arange(B)
    return {"lm_logits": lm, "ref_lm_logits": ref_lm, "decoder_logits": decoder,
            "ref_decoder_logits": ref_decoder if reference else None, "tokens": tokens,
            "tau_idx": tau_idx, "mask": np.arange(T) < lengths[:, None]}


def plans():
    """(what is large, sizes, form, merged), in the order of the cases."""
    for form in FORMS:
        yield "tokens", TOKENS, form, False
    for form in (FORMS[0], FORMS[4], FORMS[6]):
        yield "words", WORDS, form, False
    for form in (FORMS[0], FORMS[4]):
        yield "merged", WORDS, form, True


def name(what, variant, level, exact):
    return "-".join(["large", what, variant, level, *["exact"] * exact])


def names():
    return [name(what, *form) for what, _, form, _ in plans()]


def large_cases(dtype="float64"):
    """The cases with their answers. In bfloat16 the merged ones would ask for what cannot be."""
    for i, (what, (B, T, V), (variant, level, exact), merged) in enumerate(plans()):
        if merged and dtype == "bfloat16":
            continue
        case = {"name": name(what, variant, level, exact), "variant": variant, "level": level,
                "exact_sequence": exact,
                "beta": 1 / 64 if what == "tokens" else 1 / 8, "temperatures": list(TAUS)}
        for s, side in enumerate(SIDES):
            case[side] = large_side(16 * i + 8 * s, s, B, T, V, level, i % 2 == 1, merged)
        yield answered(case)


def is_large(case):
    return case["chosen"]["lm_logits"].size > 10_000


# ---- the answers: oracle.py's equations over whole arrays --------------------------------------

def log_sum_exp(x, axis=-1):
    """log sum exp, of nothing but -inf -inf.  (..., n) -> (...)"""
    largest = np.maximum(x.max(axis, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - largest).sum(axis)) + largest.squeeze(axis)


def log_softmax(x):
    return x - log_sum_exp(x)[..., None]


def temperature_logps(logits, tokens, temperatures):
    """(B,T,V), (B,T), K floats -> (B,T,K)"""
    of_token = np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    columns = []
    for tau in temperatures:
        if tau == 0:
            columns.append(np.where(tokens == logits.argmax(-1), 0.0, -np.inf))
        else:
            columns.append(of_token / tau - log_sum_exp(logits / tau))
    return np.stack(columns, -1)


def text_gradient(logits, tokens, temperatures, weights):
    """sum_k weights_k d log P(y_t | tau_k) / d l_t.  (B,T,V), (B,T), K, (B,T,K) -> (B,T,V)"""
    total, one_hot = np.zeros(logits.shape), tokens[..., None] == np.arange(logits.shape[-1])
    for k, tau in enumerate(temperatures):
        if tau > 0:  # at 0 the arg-max does not move
            total += weights[..., k, None] * (one_hot - np.exp(log_softmax(logits / tau))) / tau
    return total


def usable(x, ref_x):
    """Where log P - log Pref is a number: elsewhere a token counts 0."""
    return np.isfinite(x) & np.isfinite(ref_x)


def side_terms(case, side):
    """-> log P(y_t | tau_k) (B,T,K) of policy and reference, log P(tau_k) (B,L,K) of both"""
    x, taus = case[side], case["temperatures"]
    text, ref_text = (temperature_logps(x[name], x["tokens"], taus)
                      for name in ("lm_logits", "ref_lm_logits"))
    tau = log_softmax(x["decoder_logits"])
    if x["ref_decoder_logits"] is not None:
        return text, ref_text, tau, log_softmax(x["ref_decoder_logits"])
    uniform = case["variant"] == "latent"
    return text, ref_text, tau, np.full_like(tau, -math.log(len(taus)) if uniform else 0.0)


def scored(case, side):
    """-> score (B,), its slopes by the logits of the decoder (B,L,K) and the model (B,T,V)"""
    if case["variant"] == "latent":
        return scored_latent(case, side)
    x = case[side]
    text, ref_text, tau, ref_tau = side_terms(case, side)
    mask, K = x["mask"], text.shape[-1]
    decisions = mask if case["level"] == "token" else np.ones((len(mask), 1), bool)
    one_hot = x["tau_idx"][..., None] == np.arange(K)  # (B,L,K)
    total = np.where(decisions[..., None] & one_hot, tau - ref_tau, 0).sum((1, 2))
    by_tau = np.where(decisions[..., None], one_hot - np.exp(tau), 0)
    weights = np.zeros(text.shape)
    if case["variant"] == "joint":
        weights = (one_hot & mask[..., None] & usable(text, ref_text)).astype(float)
        ratio = np.where(weights > 0, text, 0) - np.where(weights > 0, ref_text, 0)
        total = total + ratio.sum((1, 2))
    return total, by_tau, text_gradient(x["lm_logits"], x["tokens"], case["temperatures"], weights)


def scored_latent(case, side):
    """As scored. One posterior a token, or for the exact marginal one a response."""
    x = case[side]
    text, ref_text, tau, ref_tau = side_terms(case, side)
    mask = x["mask"]
    if case["exact_sequence"]:
        text, ref_text = (np.where(mask[..., None], y, 0).sum(1, keepdims=True)
                          for y in (text, ref_text))
        mask = mask.any(1, keepdims=True)
    terms = text + tau  # (B,T or 1,K)
    policy, reference = log_sum_exp(terms), log_sum_exp(ref_text + ref_tau)
    counts = mask & usable(policy, reference)
    total = np.where(counts, policy, 0) - np.where(counts, reference, 0)
    posterior = np.where(counts[..., None], np.exp(terms - np.where(counts, policy, 0)[..., None]),
                         0)
    by_tau = posterior - np.where(counts[..., None], np.exp(tau), 0)
    if tau.shape[1] == 1:
        by_tau = by_tau.sum(1, keepdims=True)
    weights = np.where(x["mask"][..., None], posterior, 0)
    return total.sum(1), by_tau, text_gradient(x["lm_logits"], x["tokens"], case["temperatures"],
                                               weights)


def score(case, side):
    return scored(case, side)[0]


def loss(case):
    """-log sigmoid(beta margin), or nll: the chosen side alone, no reference.  -> (B,)"""
    if case["variant"] == "nll":
        return -scored(without_reference(case), "chosen")[0]
    return np.logaddexp(0, -case["beta"] * (score(case, "chosen") - score(case, "rejected")))


def without_reference(case):
    return {**case, **{side: {**case[side], "ref_decoder_logits": None} for side in SIDES}}


def gradients(case):
    """Of the sum of the losses.  -> {side: {decoder_logits, lm_logits}}"""
    parts = {side: scored(case, side) for side in SIDES}
    x = case["beta"] * (parts["chosen"][0] - parts["rejected"][0])
    slope = -case["beta"] * np.exp(-np.logaddexp(0, x))
    by_score = {"chosen": slope, "rejected": -slope}
    if case["variant"] == "nll":
        by_score = {"chosen": -np.ones(len(x)), "rejected": np.zeros(len(x))}
    return {side: {name: by_score[side][:, None, None] * d for name, d in
                   zip(("decoder_logits", "lm_logits"), parts[side][1:])} for side in SIDES}


def answered(case):
    """With its answers, as make_golden.answered. scale: of T terms the rounding errors add up, so
    it is the largest sum over a response of its largest finite log-probabilities."""
    text, scale = {}, 1.0
    for side in SIDES:
        x = case[side]
        own, ref, tau, ref_tau = side_terms(case, side)
        for logps in (own + tau, ref + ref_tau):
            largest = np.where(np.isfinite(logps) & x["mask"][..., None], -logps, 0).max(-1)
            scale = max(scale, largest.sum(1).max())
        text[side] = np.where(x["mask"][..., None], own, np.nan)
    return {**case, "expected": {
        "scale": math.ceil(scale), "text_logps": text, "losses": loss(case),
        "scores": {side: score(case, side) for side in SIDES}, "gradients": gradients(case)}}


if __name__ == "__main__":
    for case in large_cases():
        answer = case["expected"]
        print(json.dumps({"name": case["name"], "losses": answer["losses"].tolist(),
                          **{side: answer["scores"][side].tolist() for side in SIDES}}))
