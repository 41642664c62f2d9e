"""The joint loss of one pair, from logits. One line is wrong.

A side is a dict of lists, T positions, V tokens: logits (T,V), ref_logits (T,V), tokens (T), mask
(T, 1 on response tokens, 0 on the prompt before them and on the padding after them), tau (T, the
temperature at which each token was sampled, all above 0), tau_logps (T, log P(tau_t | h_t)).
Position t predicts token t.
"""
import math


def log_softmax(x):
    largest = max(x)
    total = largest + math.log(sum(math.exp(a - largest) for a in x))
    return [a - total for a in x]


def text_logp(logits, token, tau):
    """log P(token | tau)"""
    return log_softmax([a / tau for a in logits])[token]


def ratio(side, t):
    """log P(y_t | tau_t) - log Pref(y_t | tau_t)"""
    token, tau = side["tokens"][t], side["tau"][t]
    policy = text_logp(side["logits"][t], token, tau)
    return policy - text_logp(side["ref_logits"][t], token, tau)


def positions(mask):
    """Of the response tokens."""
    return [t for t, valid in enumerate(mask) if valid]


def score(side):
    """The sum of the ratios and of log P(tau_t)."""
    return sum(ratio(side, t) + side["tau_logps"][t] for t in positions(side["mask"]))


def loss(chosen, rejected, beta):
    """-log sigmoid(beta * margin)"""
    x = beta * (score(chosen) - score(rejected))
    return math.log1p(math.exp(-abs(x))) + max(-x, 0)
