"""Exercise 10: a bug hunt. About 20 minutes, after notebook 4.

    score = sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)] + sum_t log P(tau_t)

The command below writes a page of forty lines with one bug, chosen by your number, to out/bug_hunt.
Which of these five is it?

    padding counted                  what stands behind the response enters its score
    mean for sum                     the score is divided by the number of tokens
    beta twice                       the margin is multiplied by beta before the loss does so
    temperature of the reference     Pref is not taken at the temperature that drew the token
    prompt counted                   what stands before the response enters its score

Find it by reading, or by small inputs whose answer you know.

    python notebooks/exercises/check.py 10 --student 7
"""


def bug(losses):
    """The name of the bug, one of the five.  losses: the page as a module, to try things on

    You may ignore `losses` and return the name that you found by reading.
    """
    raise NotImplementedError
