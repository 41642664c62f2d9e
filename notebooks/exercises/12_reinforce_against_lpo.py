"""Exercise 12: REINFORCE against LPO. About 40 minutes, after notebook 5 (REINFORCE: 3b).

One decision: the decoder is K logits x with P = softmax(x). Temperature k writes text y with
probability P(y | tau_k), which earns r(y). Each step below is one function.

1. Differentiate log P_k by the logits x. The result is a difference of two vectors.
2. The expected reward is J = sum_k P_k Q_k with Q_k = sum_y P(y | tau_k) r(y). Differentiate it:
   write the derivative of P_k as P_k times that of log P_k, and insert step 1. Only P, Q, J remain.
3. Step 2 is an expectation over sampled responses, so a mean over N samples estimates it. Subtract
   from each reward a baseline that does not depend on that response: the mean of the others.
4. Now two independent responses; the better one is chosen, and a tie adds 0. At margin 0 the
   derivative of -log sigmoid(beta margin) by the margin is a constant; the margin is log P of the
   chosen temperature minus that of the rejected one. Insert step 1 and take the expectation.

Question: multiply all rewards by 10. Which of the gradients change? What does that mean if one
task's rewards are much larger than another's?

    python notebooks/exercises/check.py 12
"""
import numpy as np


def log_gradient(tau_logits, k):
    """Step 1: d log P_k / d x.  x (K,), an index -> (K,)"""
    raise NotImplementedError


def exact_gradient(tau_logits, text_probs, rewards):
    """Step 2: d J / d x.  x (K,), P(y | tau_k) (K,Y), r(y) (Y,) -> (K,)"""
    raise NotImplementedError


def reinforce(tau_logits, tau_idx, rewards):
    """Step 3, from N responses.  x (K,), sampled temperatures (N,), rewards (N,) -> (K,)"""
    raise NotImplementedError


def lpo_gradient(tau_logits, text_probs, rewards, beta):
    """Step 4: the expected gradient of the loss.  (K,), (K,Y), (Y,), a number -> (K,)"""
    raise NotImplementedError
