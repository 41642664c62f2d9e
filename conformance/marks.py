"""What a case holds, read off its arrays: gaps in a mask, and which of our conventions.

An implementation may be right and yet do otherwise where the paper says nothing: `check.py --list`
prints these words behind each name.
"""
import numpy as np

from large import temperature_logps
from make_golden import SIDES


def has_gaps(case):
    """Whether a response does not fill its row from column 0 on, without a hole, to its end."""
    masks = [row for side in SIDES for row in case[side]["mask"]]
    return any((np.diff(row.astype(int)) > 0).any() or not row[0] for row in masks)


def ties(case):
    """Whether, at temperature 0, a response token has two largest logits to choose from."""
    logits = [case[side][name][case[side]["mask"]] for side in SIDES
              for name in ("lm_logits", "ref_lm_logits")]
    return any(((x == x.max(-1, keepdims=True)).sum(-1) > 1).any() for x in logits)


def dead_tokens(case):
    """Whether a term is left out of a score because it is -inf: see the README's conventions."""
    return case["variant"] != "nll" and any(dead(case, side).any() for side in SIDES)


def dead(case, side):
    """Which terms are left out.  -> (B,T), of the exact marginal (B,)"""
    x = case[side]
    finite = [np.isfinite(temperature_logps(x[name], x["tokens"], case["temperatures"]))
              for name in ("lm_logits", "ref_lm_logits")]  # (B,T,K) each
    if case["variant"] == "joint":  # at the temperature drawn, the same for both
        tau_idx = np.broadcast_to(x["tau_idx"], x["mask"].shape)[..., None]
        alive = np.take_along_axis(finite[0] & finite[1], tau_idx, -1)[..., 0]
        return x["mask"] & ~alive
    if case["exact_sequence"]:
        finite = [(y | ~x["mask"][..., None]).all(1) for y in finite]  # (B,K)
        return ~(finite[0].any(-1) & finite[1].any(-1))
    latent = case["variant"] == "latent"
    return x["mask"] & latent & ~(finite[0].any(-1) & finite[1].any(-1))


def conventions(case):
    """Ours that the answers depend on, the paper being silent; none: an equation as printed."""
    variant, exact = case["variant"], case["exact_sequence"]
    reference = case["chosen"]["ref_decoder_logits"] is not None
    zero = 0 in case["temperatures"]
    holds = {
        "temperature 0": zero,
        "ties": zero and ties(case),
        "dead tokens": dead_tokens(case),
        "uniform reference": variant == "latent" and not reference,
        "decoder reference": variant in ("joint", "separate") and reference,
        "reference ignored": variant == "nll" and reference,
        "exact marginal": exact,
        "sum over tokens": variant == "latent" and case["level"] == "sequence" and not exact}
    return [name for name, held in holds.items() if held]


def marks(case):
    """In words, e.g. "gaps; convention: temperature 0, ties" or "equation"."""
    names = conventions(case)
    source = f"convention: {', '.join(names)}" if names else "equation"
    return "gaps; " * has_gaps(case) + source
