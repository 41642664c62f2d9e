"""Exercise 11: a sampler setting. About 30 minutes, after notebook 5.

    keep the words with p >= min(epsilon, sqrt(epsilon) exp(-H)),   H = -sum p log p

The latent need not be a temperature. A choice is any function from logits (...,V), a torch tensor,
to log-probabilities (...,V), -inf for what it never draws, with a `name`. Write eta sampling
(Hewitt et al., 2022): p and its entropy H are the model's own, at temperature 1; what is left is
tempered (at 0: the arg-max) and renormalised. A word of logit -inf has p = 0 and counts 0 in H.
(Why is the likeliest word never cut, for epsilon up to 1?) Then a decoder can choose it:
AdaptiveDecoder(64, [0.0, 1.0, eta(0.05, 3.0)]).

    python notebooks/exercises/check.py 11
"""
import torch

from lpo import word_logps  # log P(word | a temperature), (...,V) -> (...,V)


def eta(epsilon, temperature):
    """-> a choice: callable, with a `name` that tells epsilon and temperature"""
    raise NotImplementedError
