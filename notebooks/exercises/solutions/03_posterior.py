"""Exercise 3, the posterior: a solution."""
import numpy as np


def posterior(tau_logps, text_logps):
    terms = tau_logps + text_logps  # (T,K)
    largest = terms.max(-1, keepdims=True)
    possible = ~np.isneginf(largest)
    weights = np.exp(terms - np.where(possible, largest, 0.0))
    total = np.where(possible, weights.sum(-1, keepdims=True), 1.0)
    return np.where(possible, weights / total, np.exp(tau_logps))


def latent_gradient(tau_logps, text_logps):
    return posterior(tau_logps, text_logps) - np.exp(tau_logps)
