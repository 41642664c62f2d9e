"""Exercise 11: a sampler setting. About 30 minutes, after notebook 5.

A choice is any function from logits (...,V), a torch tensor, to log-probabilities (...,V), -inf for
what it never samples, with a `name`. Write eta sampling (Hewitt et al., 2022): keep the tokens with

    p >= min(epsilon, sqrt(epsilon) exp(-H)),   H = -sum p log p

where p and its entropy H are the model's own, at temperature 1. Apply the temperature to what is
left (at 0: the arg-max). A token of logit -inf has p = 0 and counts 0 in H. Then a decoder can
choose it: AdaptiveDecoder(64, [0.0, 1.0, eta(0.05, 3.0)]).

Question: why is the likeliest token never removed, for epsilon up to 1?

    python notebooks/exercises/check.py 11
"""
import torch

from decoder import choice_logps  # log P(token | a temperature), (...,V) -> (...,V)


def eta(epsilon, temperature):
    """-> a choice: callable, with a `name` that tells epsilon and temperature"""
    raise NotImplementedError
