"""Exercise 1, temperature 0: a solution."""
import numpy as np


def word_logps(logits, tau):
    if tau == 0:
        logps = np.full(len(logits), -np.inf)
        logps[np.argmax(logits)] = 0.0  # argmax: of equals the first
        return logps
    scaled = (logits - np.max(logits)) / tau
    return scaled - np.log(np.exp(scaled).sum())
