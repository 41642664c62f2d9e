"""Exercise 2, the mixture: a solution."""
import numpy as np


def word_logps(logits, tau):
    if tau == 0:
        logps = np.full(len(logits), -np.inf)
        logps[np.argmax(logits)] = 0.0
        return logps
    scaled = (logits - np.max(logits)) / tau
    return scaled - np.log(np.exp(scaled).sum())


def mixture_logps(logits, tau_logps, temperatures):
    terms = np.stack([logp + word_logps(logits, tau)
                      for logp, tau in zip(tau_logps, temperatures)])  # (K,V)
    largest = terms.max(0)
    largest = np.where(np.isneginf(largest), 0.0, largest)  # -inf - -inf is not a number
    with np.errstate(divide="ignore"):
        return largest + np.log(np.exp(terms - largest).sum(0))
