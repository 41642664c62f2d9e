"""Exercise 4: the three losses. About 30 minutes, after notebook 3.

    separate (equation 10)  sum_t log P(tau_t)
    joint                   sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)] + sum_t log P(tau_t)
    latent                  sum_t [log sum_k P(y_t | tau_k) P(tau_k)
                                   - log sum_k Pref(y_t | tau_k) Pref(tau_k)]
    loss                    -log sigmoid(beta (score of chosen - score of rejected))

One response of T tokens, no padding; K temperatures, of which tau_idx[t] was drawn. At temperature
0 a log-probability may be -inf: a word whose drawn log P (joint), or whose sum over k (latent), is
-inf under policy or reference counts 0, and -inf - -inf is not a number. Write one function, check,
go on.

    python notebooks/exercises/check.py 4
"""
import numpy as np


def separate_score(tau_logps, tau_idx):
    """log P(tau_k | h_t) (T,K), indices (T,) -> a number"""
    raise NotImplementedError


def joint_score(tau_logps, tau_idx, text_logps, ref_text_logps):
    """(T,K), (T,), log P(y_t | tau_k) (T,K), the same under the reference (T,K) -> a number"""
    raise NotImplementedError


def latent_score(tau_logps, text_logps, ref_tau_logps, ref_text_logps):
    """(T,K) each; ref_tau_logps is the reference head's log Pref(tau_k | h_t) -> a number"""
    raise NotImplementedError


def preference_loss(score_chosen, score_rejected, beta):
    """One loss a pair, for margins of any size.  (B,), (B,), a number -> (B,)"""
    raise NotImplementedError
