"""Exercise 7, the sampler: a solution."""
import numpy as np


def draw(logps, rng):
    return int(np.argmax(logps + rng.gumbel(size=len(logps))))


def word_logps(logits, tau):
    if tau == 0:
        logps = np.full(len(logits), -np.inf)
        logps[np.argmax(logits)] = 0.0
        return logps
    scaled = (logits - np.max(logits)) / tau
    return scaled - np.log(np.exp(scaled).sum())


def respond(step, temperatures, level, select, eos, max_new_tokens, rng):
    ids, tau_idx = [], []
    while len(ids) < max_new_tokens and eos not in ids:
        logits, tau_logps = step(ids)
        if level == "token" or not tau_idx:
            greedy = int(np.argmax(tau_logps))
            tau_idx.append(greedy if select == "greedy" else draw(tau_logps, rng))
        tau = temperatures[tau_idx[-1]]
        ids.append(draw(word_logps(logits, tau), rng))
    return ids, tau_idx
