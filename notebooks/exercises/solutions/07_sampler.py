"""Exercise 7, the sampler: a solution.

The question: every row alone has the right frequencies, but the rows are not independent. Best and
worst of a prompt are then compared across fewer different texts than it seems.
"""
import numpy as np


def sample(logps, u):
    """Compute the cumulative sums on paper, and find the first that exceeds u."""
    cumulative = np.exp(logps).cumsum()
    return int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))


def choice_logps(logits, tau):
    if tau == 0:  # argmax takes the first of equals
        return np.where(np.arange(len(logits)) == np.argmax(logits), 0.0, -np.inf)
    scaled = (logits - np.max(logits)) / tau
    return scaled - np.log(np.exp(scaled).sum())


def respond(step, temperatures, level, select, eos, max_new_tokens, random):
    """The loop: step, perhaps a temperature, a token at it, and stop after eos.

    Write down which random number each decision uses.
    """
    ids, tau_idx = [], []
    while len(ids) < max_new_tokens and eos not in ids:
        logits, tau_logps = step(ids)
        if level == "token" or not tau_idx:
            k = int(np.argmax(tau_logps)) if select == "greedy" else sample(tau_logps, random())
            tau_idx.append(k)
        tau = temperatures[tau_idx[-1]]
        ids.append(sample(choice_logps(logits, tau), random()))
    return ids, tau_idx
