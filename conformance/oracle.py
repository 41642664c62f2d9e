"""The equations of Latent Preference Optimization (arXiv 2411.09661), as FORMAT.md numbers them.

The answer key: slow, obvious, and sharing neither code nor library with what it checks. One
function per equation, with its derivative written out by hand. Most functions see one response of
T tokens (padding included), K choices and V tokens in the vocabulary. The four functions at the
end run over a batch, in the interface that check.py requests.
    python conformance/check.py conformance/oracle.py    compares them with golden.json
"""
from dataclasses import dataclass

import numpy as np

INF = np.inf


@dataclass
class Response:
    temperatures: list         # K numbers >= 0
    logits: np.ndarray         # (T,V): l_t
    ref_logits: np.ndarray     # (T,V): the frozen reference's
    tokens: np.ndarray         # (T,): y_t
    mask: np.ndarray           # (T,): true on response tokens, end of text included
    tau_logits: np.ndarray     # (L,K), L = T at token level, 1 at sequence level
    ref_tau_logits: np.ndarray | None  # like tau_logits; None: the decoder has no reference
    tau_idx: np.ndarray        # (L,): which temperature was sampled

    def positions(self):
        """Where response tokens are: every sum over t runs over these only."""
        return np.flatnonzero(self.mask)

    def column(self, t):
        """The decision under which token t was sampled: its own, or at sequence level the only."""
        return t if len(self.tau_logits) == len(self.tokens) else 0

    def decisions(self):
        """Each decision once: a sequence-level temperature counts once, not once per token."""
        return sorted({self.column(t) for t in self.positions()})

    def zeros(self):
        """Where derivatives are summed up.  -> (T,V), (L,K)"""
        return np.zeros(self.logits.shape), np.zeros(self.tau_logits.shape)


# ---- log-probabilities: equations 1 and 2 ------------------------------------------------------

def log_sum_exp(x):
    """log sum_i exp(x_i), the largest taken out first; -inf if all are.  (...,N) -> (...)"""
    largest = np.maximum(np.max(x, -1, keepdims=True), -1e300)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - largest).sum(-1)) + largest[..., 0]


def log_softmax(x):
    """Equation 2, of the decoder's logits: log P(tau_k | h) = x_k - log sum_j exp(x_j)"""
    shifted = x - np.max(x, -1, keepdims=True)  # huge logits do not overflow
    return shifted - log_sum_exp(shifted)[..., None]


def d_log_softmax(x, i):
    """d log softmax(x)_i / d x_j = [j = i] - softmax(x)_j"""
    return (np.arange(len(x)) == i) - np.exp(log_softmax(x))


def choice_logps(logits, choice, counts=0):
    """Equation 1: log P(token | choice), of every token.  (...,V) -> (...,V)

    A temperature tau gives log softmax(l / tau). At tau = 0 the limit from above: 0 for the arg-max
    token, -inf for every other. On a tie the lowest index takes all, by convention. Never a
    division by a small number. Before that a choice may cut tokens by min-p, then subtract a
    penalty times their counts in the response so far.
    """
    tau = choice
    if isinstance(choice, dict):
        tau, min_p = choice["temperature"], choice.get("min_p", 0.0)
        if min_p:
            cut = logits < logits.max(-1, keepdims=True) + np.log(min_p)
            logits = np.where(cut, -INF, logits)
        logits = logits - choice.get("frequency_penalty", 0.0) * counts
    if tau == 0:
        best = logits.argmax(-1)[..., None] == np.arange(logits.shape[-1])  # the first of several
        return np.where(best, 0.0, -INF)
    return log_softmax(logits / tau)


def text_logp(logits, token, tau):
    """Of one token.  (V,) -> number"""
    return choice_logps(logits, tau)[token]


def d_text_logp(logits, token, tau):
    """d log P(y | tau) / d l_v = ([v = y] - P(v | tau)) / tau

    At tau = 0 it is 0: a small step of the logits does not move the arg-max.
    """
    if tau == 0:
        return np.zeros(len(logits))
    return d_log_softmax(logits / tau, token) / tau


# ---- scores: equations 4 to 8, each with its derivatives by l_t (T,V) and the decoder's logits --

def tau_logps(r, c):
    """Equation 2 at decision c: log P(tau_k | h).  -> (K,)"""
    return log_softmax(r.tau_logits[c])


def ref_tau_logps(r, c, otherwise):
    """The same under the reference, `otherwise` where the decoder has none.  -> (K,)"""
    if r.ref_tau_logits is None:
        return np.full(len(r.temperatures), otherwise)
    return log_softmax(r.ref_tau_logits[c])


def possible(logp, ref_logp):
    return logp > -INF and ref_logp > -INF


def log_ratio(logp, ref_logp):
    """Equation 4: log P - log Pref. Where either is -inf it is 0, and so is its derivative."""
    return logp - ref_logp if possible(logp, ref_logp) else 0.0


def separate(r):
    """Equation 5: sum_t log P(tau_t); given a decoder reference, minus sum_t log Pref(tau_t)"""
    total, (d_logits, d_tau_logits) = 0.0, r.zeros()
    for c in r.decisions():
        k = r.tau_idx[c]
        total += tau_logps(r, c)[k] - ref_tau_logps(r, c, 0.0)[k]
        d_tau_logits[c] += d_log_softmax(r.tau_logits[c], k)
    return total, d_logits, d_tau_logits


def joint(r):
    """Equation 6: sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)] + the separate score"""
    total, d_logits, d_tau_logits = separate(r)
    for t in r.positions():
        tau = r.temperatures[r.tau_idx[r.column(t)]]  # of policy and reference: the one sampled
        logp = text_logp(r.logits[t], r.tokens[t], tau)
        ref_logp = text_logp(r.ref_logits[t], r.tokens[t], tau)
        total += log_ratio(logp, ref_logp)
        if possible(logp, ref_logp):
            d_logits[t] = d_text_logp(r.logits[t], r.tokens[t], tau)
    return total, d_logits, d_tau_logits


def latent_terms(r, ts, c):
    """log [P(tau_k) prod_t P(y_t | tau_k)] for each k, over the tokens `ts` of decision c

    Under policy and reference; a decoder without a reference has a uniform one here.
    """
    policy, reference = tau_logps(r, c), ref_tau_logps(r, c, -np.log(len(r.temperatures)))
    for k, tau in enumerate(r.temperatures):
        for t in ts:
            policy[k] += text_logp(r.logits[t], r.tokens[t], tau)
            reference[k] += text_logp(r.ref_logits[t], r.tokens[t], tau)
    return policy, reference


def marginal_ratio(r, ts, c):
    """log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the same under the reference

    With w_k = exp(term_k) / sum_j exp(term_j), the posterior of tau_k given the tokens, the
    derivatives are sum_k w_k d log P(y_t | tau_k) / d l_t, and w_j - P(tau_j) by the decoder's
    logit j.
    """
    policy, reference = latent_terms(r, ts, c)
    totals = log_sum_exp(policy), log_sum_exp(reference)
    d_logits, d_tau_logits = r.zeros()
    if possible(*totals):
        w = np.exp(policy - totals[0])
        d_tau_logits[c] = w - np.exp(tau_logps(r, c))
        for t in ts:
            d_logits[t] = sum(w[k] * d_text_logp(r.logits[t], r.tokens[t], tau)
                              for k, tau in enumerate(r.temperatures))
    return log_ratio(*totals), d_logits, d_tau_logits


def latent(r):
    """Equation 7: sum_t log sum_k P(y_t | tau_k) P(tau_k), minus the same under the reference

    The sampled temperatures do not enter.
    """
    parts = [marginal_ratio(r, [t], r.column(t)) for t in r.positions()]
    return tuple(sum(column) for column in zip(*parts))


def latent_exact(r):
    """Equation 8: log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the same under the reference

    The marginal of a sequence-level decoder, which the sum of equation 7 is not.
    """
    return marginal_ratio(r, r.positions(), 0)


# ---- losses: equation 9 -------------------------------------------------------------------------

def preference_loss(margin, beta):
    """-log sigmoid(beta m) = log(1 + exp(-beta m)), in a form that does not overflow"""
    return np.logaddexp(0.0, -beta * margin)


def d_preference_loss(margin, beta):
    """by m: -beta sigmoid(-beta m) = -beta / (1 + exp(beta m))"""
    return -beta * np.exp(-np.logaddexp(0.0, beta * margin))


# ---- a batch: the four functions of check.py ----------------------------------------------------

SCORES = {"joint": joint, "separate": separate, "latent": latent, "latent_exact": latent_exact,
          "nll": separate}
FIELDS = ("lm_logits", "ref_lm_logits", "tokens", "mask", "decoder_logits", "ref_decoder_logits",
          "tau_idx")  # one side of a case, in the order of Response


def responses(case, side):
    """The B responses of "chosen" or "rejected"."""
    x = case[side]
    return [Response(case["temperatures"], *(None if x[name] is None else x[name][b]
                                             for name in FIELDS)) for b in range(len(x["mask"]))]


def scored(case, side):
    """Scores and their derivatives.  -> (B,), (B,T,V), (B,L,K)

    nll has no reference: equation 5 of a side whose decoder has none.
    """
    variant = "latent_exact" if case["exact_sequence"] else case["variant"]
    if variant == "nll":
        case = {**case, side: {**case[side], "ref_decoder_logits": None}}
    rows = responses(case, side)
    return [np.array(part) for part in zip(*map(SCORES[variant], rows))]


def temperature_logps(logits, tokens, temperatures):
    """log P(y_t | tau_k).  (B,T,V), (B,T), K floats -> (B,T,K)"""
    return np.array([[[text_logp(l_t, y, tau) for tau in temperatures]
                      for l_t, y in zip(*row)] for row in zip(logits, tokens)])


def score(case, side):
    """case, "chosen" or "rejected" -> (B,)"""
    return scored(case, side)[0]


def loss(case):
    """Equation 9, one loss per pair.  case -> (B,)"""
    if case["variant"] == "nll":
        return -score(case, "chosen")
    return preference_loss(score(case, "chosen") - score(case, "rejected"), case["beta"])


def gradients(case):
    """Of the sum of the losses.  case -> {side: {decoder_logits, lm_logits, shaped like theirs}}

    Chain rule: d loss / d x = (d loss / d m) (d m / d x), with m = score chosen - score rejected.
    """
    sides = {side: scored(case, side) for side in ("chosen", "rejected")}
    slope = d_preference_loss(sides["chosen"][0] - sides["rejected"][0], case["beta"])
    slopes = {"chosen": slope, "rejected": -slope}
    if case["variant"] == "nll":
        slopes = {"chosen": slope * 0 - 1, "rejected": slope * 0}
    return {side: {"decoder_logits": slopes[side][:, None, None] * d_tau_logits,
                   "lm_logits": slopes[side][:, None, None] * d_logits}
            for side, (_, d_logits, d_tau_logits) in sides.items()}
