"""Exercise 4, the three losses: a solution."""
import numpy as np


def separate_score(tau_logps, tau_idx):
    return tau_logps[np.arange(len(tau_idx)), tau_idx].sum()


def log_ratio(logps, ref_logps):
    """log P - log Pref, 0 where either is -inf.  (T,), (T,) -> (T,)"""
    possible = np.isfinite(logps) & np.isfinite(ref_logps)
    return np.where(possible, logps, 0.0) - np.where(possible, ref_logps, 0.0)


def joint_score(tau_logps, tau_idx, text_logps, ref_text_logps):
    t = np.arange(len(tau_idx))
    text = log_ratio(text_logps[t, tau_idx], ref_text_logps[t, tau_idx])
    return text.sum() + separate_score(tau_logps, tau_idx)


def marginal(tau_logps, text_logps):
    """log sum_k P(tau_k) P(y_t | tau_k).  (T,K), (T,K) -> (T,)"""
    terms = tau_logps + text_logps
    largest = terms.max(-1)
    largest = np.where(np.isneginf(largest), 0.0, largest)
    with np.errstate(divide="ignore"):
        return largest + np.log(np.exp(terms - largest[:, None]).sum(-1))


def latent_score(tau_logps, text_logps, ref_tau_logps, ref_text_logps):
    policy = marginal(tau_logps, text_logps)
    reference = marginal(ref_tau_logps, ref_text_logps)
    return log_ratio(policy, reference).sum()


def preference_loss(score_chosen, score_rejected, beta):
    x = beta * (np.asarray(score_chosen) - np.asarray(score_rejected))
    return np.logaddexp(0.0, -x)  # log(exp(0) + exp(-x))
