"""Exercise 4, the three losses: a solution.

The question: separate and joint change. Latent sums over all temperatures and never reads tau_idx.
"""
import numpy as np


def separate_score(tau_logps, tau_idx):
    """Pick the sampled temperature's log-probability at each token, and add up."""
    return tau_logps[np.arange(len(tau_idx)), tau_idx].sum()


def log_ratio(logps, ref_logps):
    """log P - log Pref, 0 where either is -inf.  (T,), (T,) -> (T,)"""
    possible = np.isfinite(logps) & np.isfinite(ref_logps)
    return np.where(possible, logps, 0.0) - np.where(possible, ref_logps, 0.0)


def joint_score(tau_logps, tau_idx, text_logps, ref_text_logps):
    """The separate score, plus a log-ratio per token at its sampled temperature.

    Decide which tokens count 0 before you subtract.
    """
    t = np.arange(len(tau_idx))
    text = log_ratio(text_logps[t, tau_idx], ref_text_logps[t, tau_idx])
    return text.sum() + separate_score(tau_logps, tau_idx)


def marginal(tau_logps, text_logps):
    """log sum_k P(tau_k) P(y_t | tau_k).  (T,K), (T,K) -> (T,)"""
    return np.logaddexp.reduce(tau_logps + text_logps, axis=-1)


def latent_score(tau_logps, text_logps, ref_tau_logps, ref_text_logps):
    """Per token: the log of a sum over k, minus the same under the reference.

    Decide which tokens count 0 before you subtract.
    """
    policy = marginal(tau_logps, text_logps)
    reference = marginal(ref_tau_logps, ref_text_logps)
    return log_ratio(policy, reference).sum()


def preference_loss(score_chosen, score_rejected, beta):
    """-log sigmoid(x) is log(1 + exp(-x)). For which x does exp overflow, and what is the
    result there?
    """
    x = beta * (np.asarray(score_chosen) - np.asarray(score_rejected))
    return np.logaddexp(0.0, -x)  # log(exp(0) + exp(-x))
