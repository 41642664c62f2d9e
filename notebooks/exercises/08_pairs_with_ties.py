"""Exercise 8: pairs with ties. About 15 minutes, after notebook 4.

Make preference pairs from rewards. A tie is no preference: a prompt whose responses all earn the
same makes no pair. Of several best or several worst responses any one will do. Rewards may be
unsigned integers, for which -x wraps around. A NaN is an error of the reward and compares with
nothing: raise ValueError.

Question: of eight responses, how many pairs does "all" make at most, and are they independent?

    python notebooks/exercises/check.py 8
"""
import numpy as np


def pairs(rewards, how):
    """Of P prompts, N responses each.  (P,N) -> a list of (prompt, chosen, rejected), indices

    how: "best-worst", the best against the worst, at most one pair per prompt; "all", every two
    responses of unequal rewards, each once. `prompt` is below P, `chosen` and `rejected` below N.
    """
    raise NotImplementedError
