"""Exercise 4: the three losses. About 30 minutes, after notebook 3a.

One response of T tokens without padding; K temperatures, of which tau_idx[t] was sampled. Notebook
3a defines the scores; write each from memory, then compare with its values on paper (beta 1):
losses ln 4/3, ln 17/12 and ln 34/21.

At temperature 0 a log-probability may be -inf, and -inf - -inf is not a number. Therefore a token
counts 0 where its log-probability at the sampled temperature (joint) or its sum over k (latent) is
-inf, under the policy or the reference. In joint only the text term is dropped.

Write one function, check it, go on. Question: which of the scores change if another temperature is
written into tau_idx?

    python notebooks/exercises/check.py 4
"""
import numpy as np


def separate_score(tau_logps, tau_idx):
    """Equation 10, without a reference.  log P(tau_k | h_t) (T,K), indices (T,) -> a number"""
    raise NotImplementedError


def joint_score(tau_logps, tau_idx, text_logps, ref_text_logps):
    """(T,K), (T,), log P(y_t | tau_k) (T,K), the same under the reference (T,K) -> a number"""
    raise NotImplementedError


def latent_score(tau_logps, text_logps, ref_tau_logps, ref_text_logps):
    """(T,K) each; ref_tau_logps is the reference decoder's log Pref(tau_k | h_t) -> a number"""
    raise NotImplementedError


def preference_loss(score_chosen, score_rejected, beta):
    """One loss per pair, for margins of any size.  (B,), (B,), a number -> (B,)"""
    raise NotImplementedError
