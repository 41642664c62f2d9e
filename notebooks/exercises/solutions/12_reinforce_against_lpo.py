"""Exercise 12, REINFORCE against LPO: a solution.

Step 2: d J / d x = sum_k P_k Q_k (1_k - P) = P (Q - J), elementwise. Step 4: the derivative by the
margin is -beta / 2, and the two -P of step 1 cancel, so only indicators remain.

The question: steps 2 and 3 grow tenfold, step 4 does not. A decoder without information weighs the
tasks by the size of their rewards under REINFORCE, and by how often they differ under pairs.
"""
import numpy as np


def softmax(x):
    x = np.exp(x - np.max(x))
    return x / x.sum()


def log_gradient(tau_logits, k):
    """log P_k is x_k minus the log of the sum of exp(x)."""
    return np.eye(len(tau_logits))[k] - softmax(tau_logits)


def exact_gradient(tau_logits, text_probs, rewards):
    """Insert step 1 into sum_k Q_k P_k d log P_k, and collect what multiplies each P_j."""
    P, Q = softmax(tau_logits), text_probs @ rewards
    return P * (Q - P @ Q)


def reinforce(tau_logits, tau_idx, rewards):
    """Each response gives (reward - baseline) times the vector of step 1; take the mean."""
    N = len(rewards)
    others = (rewards.sum() - rewards) / (N - 1)
    gradients = np.stack([log_gradient(tau_logits, k) for k in tau_idx])  # (N,K)
    return ((rewards - others)[:, None] * gradients).mean(0)


def lpo_gradient(tau_logits, text_probs, rewards, beta):
    """List the ordered pairs (k, y), (j, z) of two responses with r(y) > r(z). Each adds its
    probability times the slope times (1_k - 1_j).
    """
    joint = softmax(tau_logits)[:, None] * text_probs  # (K,Y): P(tau_k, y)
    of_text = joint.sum(0)  # (Y,)
    better = (rewards[:, None] > rewards).astype(float)  # (Y,Y): y beats z
    chosen = joint @ (better @ of_text)  # (K,): the mass of pairs whose chosen one has tau_k
    rejected = joint @ (better.T @ of_text)
    return -beta / 2 * (chosen - rejected)
