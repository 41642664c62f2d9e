"""Exercise 7: the sampler. About 30 minutes, after notebook 4.

    token level      tau_t ~ P(tau | h_t), then y_t ~ softmax(l_t / tau_t), at every t
    sequence level   tau ~ P(tau | h) once, before the first word, then y_t ~ softmax(l_t / tau)

select "sample" draws the temperature (equation 5), "greedy" takes the most likely one (equation 4);
the word is drawn in either. At temperature 0 the word is the arg-max. rng is a numpy Generator, the
only source of chance. Your sampler is asked for thousands of responses of a small GPT-2, whose odds
are enumerated: what it writes is compared with them by exact binomial tests.

    python notebooks/exercises/check.py 7
"""
import numpy as np


def draw(logps, rng):
    """One index, by its probability; never one of -inf.  (N,) log-probabilities -> a whole number

    Two ways: rng.choice, or the arg-max of logps plus Gumbel noise.
    """
    raise NotImplementedError


def respond(step, temperatures, level, select, eos, max_new_tokens, rng):
    """Write one response.  -> (token ids, indices of temperatures), two lists of whole numbers

    step(ids): the model after the prompt and these ids -> logits (V,), log P(tau_k | h) (K,).
    It ends with the first token `eos`, which belongs to it, or after max_new_tokens. level "token":
    one index a token; "sequence": one index alone.
    """
    raise NotImplementedError
