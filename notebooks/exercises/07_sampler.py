"""Exercise 7: the sampler. About 30 minutes, after notebook 4.

`sample` inverts the cumulative distribution: add up the probabilities in order and return the first
index at which the sum exceeds u, a random number with 0 <= u < 1.

`respond` writes one response. At the token level it picks a temperature before every token, at the
sequence level once, before the first. select "sample" samples it (equation 5), "greedy" takes the
most likely one (equation 4). Then it samples the token at that temperature; at 0 this is the
arg-max. random() gives the next random number. Use it in this order: one for a temperature that is
sampled, then one for each token, at temperature 0 too. Nothing else may be random.

Question: what goes wrong if two prompts of a batch share their random numbers?

    python notebooks/exercises/check.py 7
"""
import numpy as np


def sample(logps, u):
    """The index that u selects; never one of probability 0.  (N,) log-probabilities -> int"""
    raise NotImplementedError


def respond(step, temperatures, level, select, eos, max_new_tokens, random):
    """-> (token ids, indices of temperatures), two lists of whole numbers

    step(ids): the model after the prompt and these ids -> logits (V,), log P(tau_k | h) (K,). The
    response ends with the first token `eos`, which belongs to it, or after max_new_tokens. level
    "token": one index per token; "sequence": one index.
    """
    raise NotImplementedError
