"""Exercise 12, REINFORCE against LPO: a solution."""
import numpy as np


def softmax(x):
    x = np.exp(x - np.max(x))
    return x / x.sum()


def exact_gradient(tau_logits, text_probs, rewards):
    P, Q = softmax(tau_logits), text_probs @ rewards
    return P * (Q - P @ Q)


def reinforce(tau_logits, tau_idx, rewards):
    N = len(rewards)
    others = (rewards.sum() - rewards) / (N - 1)
    grad_logps = np.eye(len(tau_logits))[tau_idx] - softmax(tau_logits)  # (N,K)
    return ((rewards - others)[:, None] * grad_logps).mean(0)


def lpo_gradient(tau_logits, text_probs, rewards, beta):
    joint = softmax(tau_logits)[:, None] * text_probs  # (K,Y): P(tau_k, y)
    of_text = joint.sum(0)  # (Y,)
    better = (rewards[:, None] > rewards).astype(float)  # (Y,Y): y beats z
    chosen = joint @ (better @ of_text)  # (K,): the mass of pairs whose chosen one has tau_k
    rejected = joint @ (better.T @ of_text)
    return -beta / 2 * (chosen - rejected)
