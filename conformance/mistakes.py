"""Known mistakes in implementations of LPO, each as something the oracle can be made to compute.

check.py compares wrong numbers with those of each mistake; the one that gives the very same is its
hint. Most are a change of the question, `change(case) -> case`: who ignores the mask answers as
the oracle does when the mask is all ones. The others rescale the scores, or are the oracle with
another function in place of one of its own.
"""
import importlib.util
import math
import sys

import numpy as np

import large
import oracle
from make_golden import SIDES

LM, DECODER = ("lm_logits", "ref_lm_logits"), ("decoder_logits", "ref_decoder_logits")


class Rescaled:
    """The oracle, had it turned every score s into factor * s + offset: rule(case, side)."""

    def __init__(self, rule):
        self.rule = rule

    def score(self, case, side):
        factor, offset = self.rule(case, side)
        return factor * oracle.score(case, side) + offset

    def loss(self, case):
        if case["variant"] == "nll":
            factor, offset = self.rule(case, "chosen")
            return factor * oracle.loss(case) - offset
        margins = self.score(case, "chosen") - self.score(case, "rejected")
        return np.array([oracle.preference_loss(m, case["beta"]) for m in margins.tolist()])


def altered(*hidden, **functions):
    """The oracle with functions replaced, and without those that the replaced ones leave wrong."""
    spec = importlib.util.spec_from_file_location("altered_oracle", oracle.__file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    for name, function in functions.items():
        setattr(module, name, function)
    for name in hidden:
        delattr(module, name)
    return module


def sides(change):
    """The same change on both sides: change(side, case) -> the fields that differ."""
    return lambda case: {**case, **{side: {**case[side], **change(case[side], case)}
                                    for side in SIDES}}


def each(change, *names):
    """The same change of several fields: change(array, mask) -> array."""
    return sides(lambda s, _: {n: change(s[n], s["mask"]) for n in names if s[n] is not None})


def rolled(by, *names):
    return each(lambda x, _: np.roll(x, by, axis=1), *names)


def taus(change):
    return lambda case: {**case, "temperatures": [change(tau) for tau in case["temperatures"]]}


def without(which):
    """The mask without its first (0) or last (-1) response token."""
    def change(mask, _):
        kept = mask.copy()
        for row in kept:
            row[np.flatnonzero(row)[which]] = False
        return kept
    return each(change, "mask")


def certain(s, case):
    """A reference under which every log P(y_t | tau) is 0: as if it had been forgotten."""
    return {"ref_lm_logits": 1e9 * (s["tokens"][..., None] == np.arange(s["lm_logits"].shape[-1]))}


def untempered(s, case):
    """Reference logits multiplied by what they will be divided by."""
    tau = np.take(case["temperatures"], np.broadcast_to(s["tau_idx"], s["mask"].shape))
    return {"ref_lm_logits": s["ref_lm_logits"] * np.where(tau > 0, tau, 1)[..., None]}


def backwards(s, case):
    """The vocabulary in reverse: the lowest index of a tie becomes the highest."""
    return {"tokens": s["lm_logits"].shape[-1] - 1 - s["tokens"],
            **{name: s[name][..., ::-1] for name in LM}}


def unnormalised(case, side):
    """What the decoder's log-softmax would have subtracted."""
    return 1, np.array([sum(oracle.log_sum_exp(r.tau_logits[c]) for c in r.decisions())
                        for r in oracle.responses(case, side)])


def no_log_k(case, side):
    """log K a sum over k: the reference's terms were added without their 1/K."""
    if case["variant"] != "latent" or case[side]["ref_decoder_logits"] is not None:
        return 1, 0
    n = 1 if case["exact_sequence"] else case[side]["mask"].sum(-1)
    return 1, -n * math.log(len(case["temperatures"]))


def shuffled(case):
    """Each chosen response beside the rejected one of its neighbour."""
    rejected = {name: x if x is None else np.roll(x, 1, axis=0)
                for name, x in case["rejected"].items()}
    return {**case, "rejected": rejected}


def filled(first_column):
    """The mask without its holes; first_column: from column 0 on, as if the prompt counted."""
    def change(mask, _):
        mask = mask.copy()
        for row in mask:
            ends = np.flatnonzero(row)
            row[0 if first_column else ends[0]:ends[0] if first_column else ends[-1]] = True
        return mask
    return each(change, "mask")


def padded_vocabulary(multiple, logit):
    """The language models have words that the tokenizer lacks, all with the same logit."""
    def change(x, _):
        more = -x.shape[-1] % multiple
        return np.concatenate([x, np.full((*x.shape[:-1], more), float(logit))], -1)
    return each(change, *LM)


def bfloat16(x):
    """Rounded to the nearest, ties to even; a bfloat16 is the upper half of a float32."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    bits = bits + 0x7FFF + (bits >> 16 & 1) & np.uint32(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32).astype(float)


def sorted_taus(case):
    return {**case, "temperatures": sorted(case["temperatures"])}


# ---- the oracle with another function ----------------------------------------------------------

def smoothed(epsilon):
    """The loss of a pair whose label is right with probability 1 - epsilon."""
    def loss(margin, beta):
        return ((1 - epsilon) * oracle.preference_loss(margin, beta)
                + epsilon * oracle.preference_loss(-margin, beta))

    def d_loss(margin, beta):
        return ((1 - epsilon) * oracle.d_preference_loss(margin, beta)
                - epsilon * oracle.d_preference_loss(-margin, beta))
    return altered(preference_loss=loss, d_preference_loss=d_loss)


def log_with(epsilon):
    """log(p + epsilon), of a log-probability."""
    return lambda logp: math.log(math.exp(logp) + epsilon)


def epsilon_in_text(epsilon):
    log = log_with(epsilon)
    return altered("gradients", text_logp=lambda *given: log(oracle.text_logp(*given)))


def epsilon_everywhere(epsilon, at_zero):
    """In every softmax; at_zero: in the one-hot of temperature 0 too."""
    log = log_with(epsilon)
    functions = {"log_softmax": lambda logits: [log(x) for x in oracle.log_softmax(logits)]}
    if at_zero:
        functions["text_logp"] = lambda *given: log(oracle.text_logp(*given))
    return altered("gradients", **functions)


def expected_ratio(r, ts, c):
    """sum_k P(tau_k) log P(y_t | tau_k), minus the same under the reference"""
    K, totals = len(r.temperatures), []
    uniform = r.ref_tau_logits is None
    for logits, tau_logps in [
            (r.logits, oracle.log_softmax(r.tau_logits[c])),
            (r.ref_logits, [-math.log(K)] * K if uniform
             else oracle.log_softmax(r.ref_tau_logits[c]))]:
        totals.append(sum(math.exp(p) * oracle.text_logp(logits[t], r.tokens[t], tau)
                          for p, tau in zip(tau_logps, r.temperatures) for t in ts))
    return oracle.log_ratio(*totals)


def largest_ratio(r, ts, c):
    policy, reference = oracle.latent_terms(r, ts, c)
    return oracle.log_ratio(max(policy), max(reference))


def ipo_loss(margin, beta):
    return (margin - 1 / (2 * beta)) ** 2


def hinge_loss(margin, beta):
    return max(0.0, 1 - beta * margin)


CHANGES = {
    "padding counted (mask ignored)": each(lambda x, _: np.ones_like(x), "mask"),
    "last response token (end of text) left out of the mask": without(-1),
    "first response token left out of the mask": without(0),
    "columns before the response counted, as of the prompt": filled(first_column=True),
    "the mask's holes counted, as if a response were its first to its last token":
        filled(first_column=False),
    "off by one: logits one position late against tokens": rolled(1, *LM),
    "off by one: logits one position early against tokens": rolled(-1, *LM),
    "off by one: decoder logits one position late": rolled(1, *DECODER),
    "off by one: decoder logits one position early": rolled(-1, *DECODER),
    "off by one: tau_idx one position late": rolled(1, "tau_idx"),
    "off by one: tau_idx one position early": rolled(-1, "tau_idx"),
    "reference language model missing": sides(certain),
    "text term missing, or the policy used as reference language model":
        sides(lambda s, _: {"ref_lm_logits": s["lm_logits"]}),
    "language model and its reference swapped":
        sides(lambda s, _: {"lm_logits": s["ref_lm_logits"], "ref_lm_logits": s["lm_logits"]}),
    "temperature not applied to the reference": sides(untempered),
    "decoder reference missing": sides(lambda s, _: {"ref_decoder_logits": None}),
    "a uniform decoder reference where there is none: log K for every temperature drawn":
        sides(lambda s, _: {"ref_decoder_logits": s["decoder_logits"] * 0}),
    "temperature term missing": sides(lambda s, _: {"ref_decoder_logits": s["decoder_logits"]}),
    "sequence-level temperature counted once a token": each(
        lambda x, mask: np.repeat(x, mask.shape[1] // x.shape[1], axis=1), *DECODER, "tau_idx"),
    "token-level temperatures: only the first one used":
        each(lambda x, _: x[:, :1], *DECODER, "tau_idx"),
    "beta missing": lambda case: {**case, "beta": 1.0},
    "beta applied twice": lambda case: {**case, "beta": case["beta"] ** 2},
    "chosen and rejected of different pairs (one of the two shuffled or sorted)": shuffled,
    "temperatures sorted, tau_idx not": sorted_taus,
    **{f"vocabulary padded to a multiple of {n} with logits of {logit}, not masked":
       padded_vocabulary(n, logit) for n in (8, 16, 64, 128) for logit in (0, 1)},
    "temperatures in float16": taus(lambda tau: float(np.float16(tau))),
    "temperatures in bfloat16": taus(lambda tau: float(bfloat16(tau))),
    "temperature not applied": taus(lambda tau: 1.0),
    "temperature not applied, but for the arg-max at 0": taus(lambda tau: 1.0 if tau else 0.0),
    "temperature applied twice": taus(lambda tau: tau * tau),
    "logits multiplied by the temperature": taus(lambda tau: 1 / tau if tau else 0.0),
    "temperature 0 taken as 1": taus(lambda tau: tau or 1.0),
    **{f"temperature 0 as a division by {tiny:g} instead of the arg-max":
       taus(lambda tau, tiny=tiny: max(tau, tiny))
       for tiny in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)},
    "on a tie of the largest logits the lowest index is the arg-max": sides(backwards),
    "token-by-token sum and exact marginal confused":
        lambda case: {**case, "exact_sequence": not case["exact_sequence"]},
    **{f"computes `{name}`": lambda case, name=name: {**case, "variant": name,
                                                      "exact_sequence": False}
       for name in ("joint", "separate", "latent")}}
RESCALINGS = {
    "mean over response tokens instead of the sum":
        lambda case, side: (1 / case[side]["mask"].sum(-1), 0),
    "mean over all columns, padding included, instead of the sum":
        lambda case, side: (1 / case[side]["mask"].shape[1], 0),
    "chosen and rejected swapped, or the sign of the score": lambda case, side: (-1, 0),
    "log K missing: the uniform reference of `latent` lacks its 1/K": no_log_k,
    "decoder logits taken as log-probabilities, without log-softmax": unnormalised}

EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
ALTERED = {
    **{f"label smoothing of {epsilon:g}": smoothed(epsilon)
       for epsilon in (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)},
    **{f"log(softmax + {epsilon:g}) of the words, not log-softmax": epsilon_in_text(epsilon)
       for epsilon in EPSILONS},
    **{f"log(softmax + {epsilon:g}) in place of log-softmax{' and at temperature 0' * zero}":
       epsilon_everywhere(epsilon, zero) for epsilon in EPSILONS for zero in (False, True)},
    "latent: the mean of log P(y | tau_k) over k, not the log of the mean of P(y | tau_k)":
        altered("gradients", marginal_ratio=expected_ratio),
    "latent: the largest term instead of the sum over k":
        altered("gradients", marginal_ratio=largest_ratio),
    "the loss of IPO, (margin - 1 / (2 beta))^2": altered("gradients", preference_loss=ipo_loss),
    "the hinge loss, max(0, 1 - beta margin)": altered("gradients", preference_loss=hinge_loss)}

# (hint, what answers, the question it gets)
MISTAKES = ([(hint, oracle, change) for hint, change in CHANGES.items()]
            + [(hint, Rescaled(rule), dict) for hint, rule in RESCALINGS.items()]
            + [(hint, module, dict) for hint, module in ALTERED.items()])


# ---- what only large cases show: answered by large.py, since the oracle's loops take too long --

def first_tokens(n):
    return each(lambda mask, _: mask & (np.arange(mask.shape[1]) < n), "mask")


def first_temperatures(n):
    """K cut to n before the decoder's softmax."""
    def change(s, case):
        return {"tau_idx": np.minimum(s["tau_idx"], n - 1),
                **{name: s[name][..., :n] for name in DECODER if s[name] is not None}}
    return lambda case: {**sides(change)(case), "temperatures": case["temperatures"][:n]}


def first_words(n):
    """The softmax over the first n words alone, as if the others had no mass."""
    def change(s, _):
        words = np.arange(s["lm_logits"].shape[-1])
        dropped = (words >= n) & (words != s["tokens"][..., None])
        return {name: np.where(dropped, -1e9, s[name]) for name in LM}
    return sides(change)


def whole_chunks(size):
    """Only whole chunks of the vocabulary are read."""
    return lambda case: first_words(case["chosen"]["lm_logits"].shape[-1] // size * size)(case)


LARGE_CHANGES = {
    "logits rounded to bfloat16: largest ones that differ become a tie":
        each(lambda x, _: bfloat16(x), *LM),
    "on a tie of the largest logits the lowest index is the arg-max": sides(backwards),
    **{f"only the first {n} tokens of a response counted": first_tokens(n)
       for n in (8, 16, 32, 64, 128, 256)},
    **{f"only the first {n} temperatures taken": first_temperatures(n) for n in (4, 8)},
    **{f"vocabulary read in chunks of {n}, the last and smaller one lost": whole_chunks(n)
       for n in (1024, 4096, 8192, 16384, 32768)},
    **{f"only the first {n} words of the vocabulary read": first_words(n) for n in (32000,)},
    "temperatures sorted, tau_idx not": sorted_taus}
LARGE_MISTAKES = [(hint, large, change) for hint, change in LARGE_CHANGES.items()]


# ---- plain arithmetic --------------------------------------------------------------------------

def missing_gradient(got, want, allowed):
    """Of a gradient of which all that reaches one kind of logits is zero, the rest being right.

    {label: array} twice, tolerance -> words or None
    """
    lost = [label for label, x in got.items() if not x.any() and (abs(want[label]) > allowed).any()]
    others = [label for label in got if label not in lost]
    if not lost or any((abs(got[label] - want[label]) > allowed).any() or
                       np.isnan(got[label]).any() for label in others):
        return None
    names = sorted({label.split(".")[1] for label in lost})
    sides_lost = sorted({label.split(".")[0] for label in lost})
    if len(sides_lost) == 1 and not any(label.split(".")[1] in names for label in others):
        return None
    return (f"no gradient reaches {' and '.join(names)}"
            f"{'' if len(sides_lost) == 2 else f' of {sides_lost[0]}'}: detached, or shared with "
            "the reference (give None for what is not trained)")


def relation(function, got, want, allowed, K):
    """What plain arithmetic says about the wrong arrays of an answer, laid end to end, or None."""
    got, want = got[~np.isnan(want)], want[~np.isnan(want)]
    if np.isnan(got).any():
        return "NaN: -inf minus -inf, -inf times 0, or a logsumexp of nothing but -inf"
    finite = np.isfinite(want)
    lost = (np.isneginf(want) & np.isfinite(got)).any()
    got, want = got[finite], want[finite]
    if lost and (np.abs(got - want) <= allowed).all():
        return "-inf expected: temperature 0 is the arg-max, not a small number"
    if (np.abs(got) > 1e15).any():
        return "infinite: log(sigmoid(x)) overflows, or a token of probability 0 was not dropped"
    if function == "gradients" and not got.any():
        return "no gradient: detached, or shared with the reference"
    if function == "loss" and len(want) > 1 and np.allclose(got, want.mean()):
        return "mean over the batch: return one loss a pair"
    return multiple(got, want) or (whole_log_ks(got - want, allowed, K) if function == "score"
                                   else None)


def multiple(got, want):
    """One factor for all entries, of which at least two are not 0."""
    big = np.abs(want) > 1e-6
    ratios = got[big] / want[big]
    if len(ratios) < 2 or not np.allclose(ratios, ratios[0]) or not np.allclose(got[~big], 0):
        return None
    if not 1e-6 < abs(ratios[0]) < 1e6:
        return None
    which = "the sign is turned" if ratios[0] < 0 else "too large" if ratios[0] > 1 else "too small"
    return f"{ratios[0]:.4g} times what it should be: {which}"


def whole_log_ks(difference, allowed, K):
    """Scores off by log K a token: as many decisions too many or too few, made by flat logits."""
    if K < 2:
        return None
    n = difference / math.log(K)
    off = abs(n - n.round()) * math.log(K)
    if not n.round().any() or (off > 4 * allowed).any() or (abs(n) > 1e4).any():
        return None
    return ("off by whole multiples of log K: temperatures counted of tokens that are not the "
            "response's (the prompt?), or a uniform reference too many or missing")
