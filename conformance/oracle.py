"""The equations of Latent Preference Optimization (arXiv 2411.09661) as plain float64 loops.

The answer key: slow, obvious, and sharing neither code nor library with what it checks. One
function an equation, its derivative beside it, written out by hand. Most functions see one
response: T tokens (padded), K temperatures, V words. Column t is one sampling event: from logits
l_t and hidden state h_t a temperature tau_t is drawn from P(tau_k | h_t), then a token y_t. The
four functions at the end run over a batch, in the interface that check.py asks of everyone.
    python conformance/check.py conformance/oracle.py    compares them with golden.json
"""
import math
from dataclasses import dataclass

import numpy as np

INF = math.inf


@dataclass
class Response:
    temperatures: list    # K numbers >= 0
    logits: list          # (T,V): l_t
    ref_logits: list      # (T,V): the frozen reference's
    tokens: list          # T: y_t
    mask: list            # T: true on response tokens, end of text included; false on padding
    tau_logits: list      # (T,K) token level, (1,K) sequence level: the decoder's logits
    ref_tau_logits: list  # like tau_logits, or None: the decoder has no reference
    tau_idx: list         # T, sequence level 1: which temperature was drawn

    def positions(self):
        """Where response tokens stand: every sum over t runs over these alone."""
        return [t for t, valid in enumerate(self.mask) if valid]

    def column(self, t):
        """The decision that token t was drawn under: its own, or at sequence level the only one."""
        return t if len(self.tau_logits) == len(self.tokens) else 0

    def decisions(self):
        """Each decision once: a sequence-level temperature counts once, never once a token."""
        return sorted({self.column(t) for t in self.positions()})


# ---- log-probabilities -------------------------------------------------------------------------

def log_sum_exp(terms):
    """log sum_i exp(x_i), the largest taken out first; of nothing but -inf it is -inf"""
    largest = max(terms)
    if largest == -INF:
        return -INF
    return largest + math.log(sum(math.exp(x - largest) for x in terms))


def log_softmax(logits):
    """log softmax(x)_i = x_i - log sum_j exp(x_j). Of the decoder's logits: log P(tau_k | h)"""
    largest = max(logits)
    shifted = [x - largest for x in logits]  # huge logits neither overflow nor lose digits
    total = log_sum_exp(shifted)
    return [x - total for x in shifted]


def d_log_softmax(logits, i):
    """d log softmax(x)_i / d x_j = [j = i] - softmax(x)_j"""
    return [(j == i) - math.exp(logp) for j, logp in enumerate(log_softmax(logits))]


def text_logp(logits, token, tau):
    """log P(y | tau) = log softmax(l / tau)_y

    At tau = 0 the limit from above: 0 for the arg-max token, -inf for every other. On a tie the
    lowest index takes all, by convention. Never a division by a small number.
    """
    if tau == 0:
        return 0.0 if token == logits.index(max(logits)) else -INF  # index: the first of several
    return log_softmax([x / tau for x in logits])[token]


def d_text_logp(logits, token, tau):
    """d log P(y | tau) / d l_v = ([v = y] - P(v | tau)) / tau

    At tau = 0 it is 0: a small step of the logits does not move the arg-max.
    """
    if tau == 0:
        return [0.0] * len(logits)
    return [slope / tau for slope in d_log_softmax([x / tau for x in logits], token)]


# ---- scores, and their derivatives by l_t (T,V) and by the decoder's logits (T,K) or (1,K) -----

def possible(logp, ref_logp):
    return logp > -INF and ref_logp > -INF


def log_ratio(logp, ref_logp):
    """log P - log Pref. Where either is -inf it is 0, by convention, and so is its derivative."""
    return logp - ref_logp if possible(logp, ref_logp) else 0.0


def zeros(r):
    """Where derivatives are summed up."""
    return [[0.0] * len(row) for row in r.logits], [[0.0] * len(row) for row in r.tau_logits]


def separate_score(r):
    """sum_t log P(tau_t), equation 10; given a decoder reference, minus sum_t log Pref(tau_t)"""
    total = 0.0
    for c in r.decisions():
        total += log_softmax(r.tau_logits[c])[r.tau_idx[c]]
        if r.ref_tau_logits is not None:
            total -= log_softmax(r.ref_tau_logits[c])[r.tau_idx[c]]
    return total


def d_separate_score(r):
    """by the decoder's logit j: [j = drawn] - P(tau_j), at each decision; by l_t: 0"""
    d_logits, d_tau_logits = zeros(r)
    for c in r.decisions():
        d_tau_logits[c] = d_log_softmax(r.tau_logits[c], r.tau_idx[c])
    return d_logits, d_tau_logits


def drawn_text_logps(r, t):
    """log P(y_t | tau_t) under policy and reference, both at the temperature that drew y_t"""
    tau = r.temperatures[r.tau_idx[r.column(t)]]
    return [text_logp(logits[t], r.tokens[t], tau) for logits in (r.logits, r.ref_logits)]


def joint_score(r):
    """sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)] + the separate score"""
    return sum(log_ratio(*drawn_text_logps(r, t)) for t in r.positions()) + separate_score(r)


def d_joint_score(r):
    """by l_t: d log P(y_t | tau_t) / d l_t; by the decoder's logits as in the separate score"""
    d_logits, d_tau_logits = d_separate_score(r)
    for t in r.positions():
        if possible(*drawn_text_logps(r, t)):
            tau = r.temperatures[r.tau_idx[r.column(t)]]
            d_logits[t] = d_text_logp(r.logits[t], r.tokens[t], tau)
    return d_logits, d_tau_logits


def latent_terms(r, ts, c):
    """log [P(tau_k) prod_t P(y_t | tau_k)] for each k, over the tokens `ts` drawn under decision c

    Under policy and reference; a decoder without a reference has a uniform one here.
    """
    policy, K = log_softmax(r.tau_logits[c]), len(r.temperatures)
    reference = [-math.log(K)] * K if r.ref_tau_logits is None else log_softmax(r.ref_tau_logits[c])
    for t in ts:
        for k, tau in enumerate(r.temperatures):
            policy[k] += text_logp(r.logits[t], r.tokens[t], tau)
            reference[k] += text_logp(r.ref_logits[t], r.tokens[t], tau)
    return policy, reference


def marginal_ratio(r, ts, c):
    """log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the same under the reference"""
    policy, reference = latent_terms(r, ts, c)
    return log_ratio(log_sum_exp(policy), log_sum_exp(reference))


def add_d_marginal_ratio(r, ts, c, d_logits, d_tau_logits):
    """With w_k = exp(term_k) / sum_j exp(term_j), the posterior of tau_k given the tokens:

    by l_t: sum_k w_k d log P(y_t | tau_k) / d l_t
    by the decoder's logit j: sum_k w_k ([j = k] - P(tau_j)) = w_j - P(tau_j)
    """
    policy, reference = latent_terms(r, ts, c)
    total = log_sum_exp(policy)
    if not possible(total, log_sum_exp(reference)):
        return
    for k, tau in enumerate(r.temperatures):
        w = math.exp(policy[k] - total)
        d_tau_logits[c][k] += w - math.exp(log_softmax(r.tau_logits[c])[k])
        for t in ts:
            for v, slope in enumerate(d_text_logp(r.logits[t], r.tokens[t], tau)):
                d_logits[t][v] += w * slope


def latent_score(r):
    """sum_t [log sum_k P(y_t | tau_k) P(tau_k) - log sum_k Pref(y_t | tau_k) Pref(tau_k)]

    The temperatures actually drawn do not enter.
    """
    return sum(marginal_ratio(r, [t], r.column(t)) for t in r.positions())


def d_latent_score(r):
    """Token by token; at sequence level all of them reach the decoder's only column."""
    gradient = zeros(r)
    for t in r.positions():
        add_d_marginal_ratio(r, [t], r.column(t), *gradient)
    return gradient


def exact_sequence_score(r):
    """log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the same under the reference

    The marginal of a sequence-level decoder, which the token-by-token sum is not.
    """
    return marginal_ratio(r, r.positions(), 0)


def d_exact_sequence_score(r):
    """One posterior for the whole response."""
    gradient = zeros(r)
    add_d_marginal_ratio(r, r.positions(), 0, *gradient)
    return gradient


# ---- losses ------------------------------------------------------------------------------------

def preference_loss(margin, beta):
    """-log sigmoid(beta m) = log(1 + exp(-beta m)), in a form that does not overflow"""
    x = beta * margin
    return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))


def d_preference_loss(margin, beta):
    """by m: -beta sigmoid(-beta m) = -beta / (1 + exp(beta m))"""
    x = beta * margin
    return -beta * (1 / (1 + math.exp(x)) if x < 0 else math.exp(-x) / (1 + math.exp(-x)))


def nll_loss(r):
    """-sum_t log P(tau_t), the ablation: chosen responses alone, no reference"""
    return -sum(log_softmax(r.tau_logits[c])[r.tau_idx[c]] for c in r.decisions())


# ---- a batch: the four functions of check.py ---------------------------------------------------

SCORES = {"joint": (joint_score, d_joint_score), "separate": (separate_score, d_separate_score),
          "latent": (latent_score, d_latent_score), "nll": (separate_score, d_separate_score)}
FIELDS = ("lm_logits", "ref_lm_logits", "tokens", "mask", "decoder_logits", "ref_decoder_logits",
          "tau_idx")  # one side of a case, in the order of Response


def responses(case, side):
    """The B responses of "chosen" or "rejected" as plain lists."""
    x = case[side]
    return [Response(case["temperatures"], *(None if x[name] is None else x[name][b].tolist()
                                             for name in FIELDS)) for b in range(len(x["mask"]))]


def score_functions(case):
    exact = exact_sequence_score, d_exact_sequence_score
    return exact if case["exact_sequence"] else SCORES[case["variant"]]


def temperature_logps(logits, tokens, temperatures):
    """log P(y_t | tau_k).  (B,T,V), (B,T), K floats -> (B,T,K)"""
    return np.array([[[text_logp(l_t, y, tau) for tau in temperatures]
                      for l_t, y in zip(row.tolist(), ys)] for row, ys in zip(logits, tokens)])


def score(case, side):
    """case, "chosen" or "rejected" -> (B,)"""
    return np.array([score_functions(case)[0](r) for r in responses(case, side)])


def loss(case):
    """-log sigmoid(beta (score chosen - score rejected)), or nll, one a pair.  case -> (B,)"""
    if case["variant"] == "nll":
        return np.array([nll_loss(r) for r in responses(case, "chosen")])
    margins = score(case, "chosen") - score(case, "rejected")
    return np.array([preference_loss(m, case["beta"]) for m in margins.tolist()])


def gradients(case):
    """Of the sum of the losses.  case -> {side: {decoder_logits, lm_logits, shaped like theirs}}

    Chain rule: d loss / d x = (d loss / d m) (d m / d x), with m = score chosen - score rejected.
    nll is minus the separate score of the chosen side.
    """
    margins = score(case, "chosen") - score(case, "rejected")
    slopes = [d_preference_loss(m, case["beta"]) for m in margins.tolist()]
    by_score = {"chosen": np.array(slopes), "rejected": -np.array(slopes)}
    if case["variant"] == "nll":
        by_score = {"chosen": -np.ones(len(slopes)), "rejected": np.zeros(len(slopes))}
    result = {}
    for side, slope in by_score.items():
        d_logits, d_tau_logits = zip(*(score_functions(case)[1](r) for r in responses(case, side)))
        result[side] = {"decoder_logits": slope[:, None, None] * np.array(d_tau_logits),
                        "lm_logits": slope[:, None, None] * np.array(d_logits)}
    return result
