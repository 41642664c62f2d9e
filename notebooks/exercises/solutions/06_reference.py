"""Exercise 6, the reference over rounds: a solution.

d margin / d logits is +1 at the chosen and -1 at the rejected index, since the normaliser cancels;
the number in front is -beta sigmoid(-beta margin).

The question: all three keep moving towards P = (1, 0), because a pair that never turns round has no
minimum. "round" goes fastest: its slope starts at beta / 2 again in every round.
"""
import numpy as np


def margin(tau_logps, ref_tau_logps, chosen, rejected):
    """Chosen minus rejected; then subtract the same under the reference, if there is one."""
    value = tau_logps[chosen] - tau_logps[rejected]
    if ref_tau_logps is not None:
        value -= ref_tau_logps[chosen] - ref_tau_logps[rejected]
    return value


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum())


def rounds(pairs, K, beta, lr, steps, reference):
    """Check one step first: at margin 0 the slope is -beta / 2 per pair.

    Print when the reference is renewed: never, once, or when each round begins?
    """
    logits, after = np.zeros(K), []
    frozen = None if reference == "none" else log_softmax(logits)
    for of_round in pairs:
        if reference == "round":
            frozen = log_softmax(logits)
        for _ in range(steps):
            gradient, now = np.zeros(K), log_softmax(logits)
            for chosen, rejected in of_round:
                slope = -beta / (1 + np.exp(beta * margin(now, frozen, chosen, rejected)))
                gradient[chosen] += slope
                gradient[rejected] -= slope
            logits = logits - lr * gradient / len(of_round)
        after.append(np.exp(log_softmax(logits)))
    return np.array(after)
