"""Exercise 6: the reference over rounds. About 25 minutes, after notebook 4.

One prompt, one decision: the decoder is K logits, P = softmax(logits), and a pair is two
temperatures, (chosen, rejected). The margin is the log-ratio of chosen minus that of rejected, each
against the reference. The reference is "none"; "initial", the decoder before the first round; or
"round", the decoder as it was when the present round began. It does not move within a round.

First derive the gradient of -log sigmoid(beta margin) by the logits. It is a number times a vector
that is +1 at one index and -1 at another.

Question: with one pair (0, 1) repeated for ever, where does each kind of reference end?

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
