"""Exercise 8: pairs with ties. About 15 minutes, after notebook 4.

    chosen, rejected:  reward(chosen) > reward(rejected), both of one prompt

A tie is no preference: a prompt whose responses all earn the same makes no pair. Of several best or
several worst any one will do. Rewards may be unsigned whole numbers, of which -x is none. A NaN is
an error of the reward and compares with nothing: raise ValueError.

    python notebooks/exercises/check.py 8
"""
import numpy as np


def pairs(rewards, how):
    """Of P prompts, N responses each.  (P,N) -> a list of (prompt, chosen, rejected), indices

    how: "best-worst", the best against the worst, at most one pair a prompt; "all", every two
    responses of unequal rewards, each once. `prompt` is below P, `chosen` and `rejected` below N.
    """
    raise NotImplementedError
