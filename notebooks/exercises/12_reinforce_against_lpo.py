"""Exercise 12: REINFORCE against LPO. About 40 minutes, after notebook 5.

    J = sum_k P(tau_k) Q_k,   Q_k = sum_y P(y | tau_k) r(y)            the expected reward
    REINFORCE   mean over n of (r_n - b_n) (1_{tau_n} - P),   b_n the mean of the others' rewards
    LPO         mean over pairs r(chosen) > r(rejected) of -beta/2 (1_chosen - 1_rejected)

One decision, a head of K logits x, P = softmax(x); 1_k is the vector with a 1 at k. The first is
found by enumeration, exactly. The second estimates it from N draws. The third is the gradient of
the separate loss when a round begins (margin 0): the expectation over two independent responses,
of which the better is chosen and a tie adds 0. Afterwards compare: multiply the rewards by 10.
Which of the three changes? That is why a head that sees nothing does well under one loss on the mix
and badly under the other (results/README.md, section 5).

    python notebooks/exercises/check.py 12
"""
import numpy as np


def exact_gradient(tau_logits, text_probs, rewards):
    """d J / d x.  x (K,), P(y | tau_k) (K,Y), r(y) (Y,) -> (K,)"""
    raise NotImplementedError


def reinforce(tau_logits, tau_idx, rewards):
    """The estimate from N responses.  x (K,), temperatures drawn (N,), rewards (N,) -> (K,)"""
    raise NotImplementedError


def lpo_gradient(tau_logits, text_probs, rewards, beta):
    """Expected gradient of the loss of two draws.  (K,), (K,Y), (Y,), a number -> (K,)"""
    raise NotImplementedError
