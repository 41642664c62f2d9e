"""Exercise 3, the posterior: a solution.

With z the logits, d log P(tau_k) / d z_j = 1[j = k] - P(tau_j). The derivative of the log of a sum
is the mean of these under the posterior: P(tau_j | y) - P(tau_j).

The question: tokens that are equally likely at all temperatures, such as a certain full stop. The
posterior is then the prior.
"""
import numpy as np


def posterior(tau_logps, text_logps):
    """Prior times likelihood, divided by their sum over k. Where the sum is 0, there is no
    evidence.
    """
    terms = tau_logps + text_logps  # (T,K)
    total = np.logaddexp.reduce(terms, axis=-1, keepdims=True)
    possible = np.isfinite(total)
    return np.where(possible, np.exp(terms - np.where(possible, total, 0)), np.exp(tau_logps))


def latent_gradient(tau_logps, text_logps):
    """Work out fox of notebook 3b: the posterior is 4/7, 3/7 under a uniform decoder.

    What does the derivative of the softmax add?
    """
    return posterior(tau_logps, text_logps) - np.exp(tau_logps)
