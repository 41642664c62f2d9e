"""Exercise 3: the posterior P(tau | y, h). About 15 minutes, after notebook 3b.

A token was sampled; which temperature was it sampled at? Apply Bayes' rule to the prior
P(tau_k | h) and the likelihood P(y_t | tau_k). A token that no temperature allows says nothing: its
posterior is the prior.

Then differentiate the latent score of each token by the decoder's K logits. Do it with a pencil:
start from log sum_k P(tau_k) P(y | tau_k) with P the softmax of the logits, and look for the
posterior in the result. Where no temperature allows the token, the gradient is 0.

Question: which tokens teach the decoder nothing?

    python notebooks/exercises/check.py 3
"""
import numpy as np


def posterior(tau_logps, text_logps):
    """P(tau_k | y_t, h_t).  log P(tau_k | h_t) (T,K), log P(y_t | tau_k) (T,K) -> (T,K)"""
    raise NotImplementedError


def latent_gradient(tau_logps, text_logps):
    """Gradient of each token's latent score by the decoder's logits.  (T,K), (T,K) -> (T,K)"""
    raise NotImplementedError
