"""Exercise 3: the posterior. About 15 minutes, after notebook 3.

    P(tau_k | y_t, h_t) = P(tau_k | h_t) P(y_t | tau_k) / sum_j P(tau_j | h_t) P(y_t | tau_j)

Which temperature could have written this word? By this weight the latent score pulls the head: its
derivative by the head's logit k, at word t, is P(tau_k | y_t, h_t) - P(tau_k | h_t). A word that no
temperature can write says nothing: its posterior is the prior, its gradient 0.

    python notebooks/exercises/check.py 3
"""
import numpy as np


def posterior(tau_logps, text_logps):
    """P(tau_k | y_t, h_t).  log P(tau_k | h_t) (T,K), log P(y_t | tau_k) (T,K) -> (T,K)"""
    raise NotImplementedError


def latent_gradient(tau_logps, text_logps):
    """d log sum_k P(tau_k) P(y_t | tau_k) by the head's logits.  (T,K), (T,K) -> (T,K)"""
    raise NotImplementedError
