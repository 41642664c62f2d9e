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


def shifted(by, *names):
    """As rolled, but what enters at the free end is flat, as of a prompt that we do not know."""
    def change(x, _):
        moved = np.roll(x, by, axis=1)
        moved[:, 0 if by > 0 else -1] = 0
        return moved if x.shape[1] > 1 else x
    return each(change, *names)


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


def unnormalised(names):
    """What the log-softmax of the policy's, and perhaps the reference's, decoder would subtract."""
    def rule(case, side):
        offsets = np.zeros(len(case[side]["mask"]))
        for b, r in enumerate(oracle.responses(case, side)):
            columns = r.decisions()
            if case["variant"] == "latent" and not case["exact_sequence"]:
                columns = [r.column(t) for t in r.positions()]
            for sign, logits in zip((1, -1), [getattr(r, name) for name in names]):
                if logits is not None:
                    offsets[b] += sign * sum(oracle.log_sum_exp(logits[c]) for c in columns)
        return 1, offsets
    return rule


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


def filled(start, end):
    """Counted, too: from column 0 on (start 0) or from the first response token on (start 1), up to
    the first (end 0) or the last one (end 1)."""
    def change(mask, _):
        mask = mask.copy()
        for row in mask:
            first, *_, last = np.flatnonzero(row).repeat(2)
            row[first if start else 0:last if end else first] = True
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


def with_epsilon(epsilon, of_decoder, at_zero):
    """In the softmax of the words, of the decoder too, in the one-hot of temperature 0 too."""
    log, functions = log_with(epsilon), {}

    def text_logp(logits, token, tau):
        logp = oracle.text_logp(logits, token, tau)
        return log(logp) if tau or at_zero else logp
    if of_decoder:  # text_logp calls the oracle's own
        functions["log_softmax"] = lambda logits: [log(x) for x in oracle.log_softmax(logits)]
    return altered("gradients", text_logp=text_logp, **functions)


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
    "columns before the response counted, as of the prompt": filled(0, 0),
    "columns before the response counted, as of the prompt, and the mask's holes": filled(0, 1),
    "the mask's holes counted, as if a response were its first to its last token": filled(1, 1),
    "off by one: logits one position late against tokens": rolled(1, *LM),
    "off by one: logits one position early against tokens": rolled(-1, *LM),
    "off by one: decoder logits one position late": rolled(1, *DECODER),
    "off by one: decoder logits one position early": rolled(-1, *DECODER),
    **{f"off by one: {what} one position {when}, what enters at the end being flat":
       shifted(by, *names) for what, names in (("logits", LM), ("decoder logits", DECODER))
       for when, by in (("late", 1), ("early", -1))},
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
    "decoder logits taken as log-probabilities, without log-softmax":
        unnormalised(["tau_logits"]),
    "decoder logits taken as log-probabilities, without log-softmax, the reference's too":
        unnormalised(["tau_logits", "ref_tau_logits"])}

EPSILONS = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)
ALTERED = {
    **{f"label smoothing of {epsilon:g}": smoothed(epsilon)
       for epsilon in (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)},
    **{f"log(softmax + {epsilon:g}) of the words{' and the decoder' * decoder}"
       f"{', at temperature 0 too' * zero}": with_epsilon(epsilon, decoder, zero)
       for epsilon in EPSILONS for decoder in (False, True) for zero in (False, True)},
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


CUTS = {32000: "a smaller vocabulary's size", 32768: "chunks of 32768", 50176: "chunks of 512 or "
        "1024", 49152: "chunks of 2048 to 16384"}  # whole chunks in GPT-2's 50,257 words

LARGE_CHANGES = {
    "logits rounded to bfloat16: largest ones that differ become a tie":
        each(lambda x, _: bfloat16(x), *LM),
    "on a tie of the largest logits the lowest index is the arg-max": sides(backwards),
    **{f"only the first {n} tokens of a response counted": first_tokens(n)
       for n in (8, 16, 32, 64, 128, 256)},
    **{f"only the first {n} temperatures taken": first_temperatures(n) for n in (4, 8)},
    **{f"only the first {n} words read ({why}, the rest lost)": first_words(n)
       for n, why in CUTS.items()},
    "temperatures sorted, tau_idx not": sorted_taus}
LARGE_MISTAKES = [(hint, large, change) for hint, change in LARGE_CHANGES.items()]


# ---- plain arithmetic --------------------------------------------------------------------------

def missing_gradient(got, want, allowed):
    """What is lost where a part of the gradient is zero and all the rest is right, or None.

    {"side.name": array} twice, tolerance
    """
    due = {label for label in got if (abs(want[label]) > allowed).any()}
    lost = {label for label in due if not got[label].any()}
    if not lost or any(not (abs(got[x] - want[x]) <= allowed).all() for x in got if x not in lost):
        return None
    for part in (1, 0):  # by name: both sides' decoder or words; then by side
        parts = {label.split(".")[part] for label in lost}
        if lost == {label for label in due if label.split(".")[part] in parts}:
            return (f"no gradient reaches {' and '.join(sorted(parts))}: detached, or shared with "
                    "the reference (give None for what is not trained)")
    return None


def relation(function, got, want, allowed, K):
    """What plain arithmetic says about the wrong arrays of an answer, laid end to end, or None."""
    got, want = got[~np.isnan(want)], want[~np.isnan(want)]
    exact = np.isin(got, (0, -math.inf)) & np.isin(want, (0, -math.inf)) & (got != want)
    if function == "temperature_logps" and exact.any():
        return "another arg-max at temperature 0: see ties, and logits rounded before it"
    if np.isnan(got).any():
        return "NaN: -inf minus -inf, -inf times 0, or a logsumexp of nothing but -inf"
    finite = np.isfinite(want)
    lost = (np.isneginf(want) & np.isfinite(got)).any()
    got, want = got[finite], want[finite]
    if lost and (np.abs(got - want) <= allowed).all():
        return "-inf expected: temperature 0 is the arg-max, not a small number"
    if (np.abs(got) > 1e15).any():
        return "infinite: log(sigmoid(x)) overflows, or a token of probability 0 was not dropped"
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
    if not 1e-6 < abs(ratios[0]) < 1e6 or abs(ratios[0] - 1) < 1e-3:
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
