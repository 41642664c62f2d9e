"""Exercise 8, pairs with ties: a solution.

The question: 28, and they are not independent, since each response is in seven of them.
"""
import itertools

import numpy as np


def pairs(rewards, how):
    """A pair needs a strictly larger reward. Check for NaN first, and convert to float."""
    rewards = np.asarray(rewards, dtype=float)  # signed, and NaN shows
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards are {rewards}; give finite numbers")
    triples = []
    for p, row in enumerate(rewards):
        if how == "best-worst":
            candidates = [(int(row.argmax()), int(row.argmin()))]
        else:
            candidates = itertools.permutations(range(len(row)), 2)
        triples += [(p, i, j) for i, j in candidates if row[i] > row[j]]
    return triples
