"""Known mistakes in implementations of LPO, each as something the oracle can be made to compute.

check.py compares wrong numbers with those of each mistake; the one that gives the very same is its
hint. Most are a change of the question, `change(case) -> case`: who ignores the mask answers as
the oracle does when the mask is all ones. The others rescale the scores.
"""
import math

import numpy as np

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


CHANGES = {
    "padding counted (mask ignored)": each(lambda x, _: np.ones_like(x), "mask"),
    "last response token (end of text) left out of the mask": without(-1),
    "first response token left out of the mask": without(0),
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

# (hint, what answers, the question it gets)
MISTAKES = ([(hint, oracle, change) for hint, change in CHANGES.items()]
            + [(hint, Rescaled(rule), dict) for hint, rule in RESCALINGS.items()])


def relation(function, got, want):
    """What plain arithmetic says about a wrong array, or None."""
    got, want = got[~np.isnan(want)], want[~np.isnan(want)]
    if np.isnan(got).any():
        return "NaN: -inf minus -inf, -inf times 0, or a logsumexp of nothing but -inf"
    if (np.isneginf(want) & np.isfinite(got)).any():
        return "-inf expected: temperature 0 is the arg-max, not a small number"
    got, want = got[np.isfinite(want)], want[np.isfinite(want)]
    if (np.abs(got) > 1e15).any():
        return "infinite: log(sigmoid(x)) overflows, or a token of probability 0 was not dropped"
    if function == "gradients" and not got.any():
        return "no gradient: detached, or shared with the reference"
    if function == "loss" and np.allclose(got, want.mean()):
        return "mean over the batch: return one loss a pair"
    big = np.abs(want) > 1e-6
    ratios = got[big] / want[big]
    if big.any() and np.allclose(ratios, ratios[0]) and 1e-6 < abs(ratios[0]) < 1e6:
        return f"{ratios[0]:.4g} times what it should be"
    return None
