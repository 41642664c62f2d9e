"""Exercise 6: the reference over rounds. About 25 minutes, after notebook 4.

    margin = log P(chosen) - log P(rejected) - [log Pref(chosen) - log Pref(rejected)]
    loss = -log sigmoid(beta margin),  d loss / d logits = -beta sigmoid(-beta margin) (1_c - 1_r)

One prompt, one decision: the head is K logits, P = softmax(logits), and a pair is two temperatures,
(chosen, rejected). 1_c is the vector with a 1 at the chosen one. The reference is `none`;
`initial`, the head as it was before the first round; or `round`, the head as it was when the
present round began. It does not move within a round.

    python notebooks/exercises/check.py 6
"""
import numpy as np


def margin(tau_logps, ref_tau_logps, chosen, rejected):
    """log P (K,), log Pref (K,) or None for no reference, two indices -> a number"""
    raise NotImplementedError


def rounds(pairs, K, beta, lr, steps, reference):
    """Train from logits of 0.  -> P(tau_k) after each round, (R,K)

    pairs: R lists of (chosen, rejected). A round takes `steps` plain gradient steps of size lr on
    the mean loss of all its pairs. reference: "none", "initial" or "round".
    """
    raise NotImplementedError
