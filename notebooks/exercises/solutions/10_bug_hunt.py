"""Exercise 10, a bug hunt: a solution."""
import math


def side(mask, tau=1.0, moved=1.0):
    """Two words, logits ln 3 and 0; the reference's are `moved` times those."""
    T = len(mask)
    logits = [[math.log(3), 0.0]] * T
    return {"logits": logits, "ref_logits": [[moved * x for x in row] for row in logits],
            "tokens": [0] * T, "mask": mask, "tau": [tau] * T, "tau_logps": [-1.0] * T}


def bug(losses):
    """A score of n tokens of a model that is its own reference is -n; each bug breaks another."""
    if losses.score(side([True, False])) != -1:
        return "padding counted"
    if losses.score(side([False, True])) != -1:
        return "prompt counted"
    if losses.score(side([True, True])) != -2:
        return "mean for sum"
    if abs(losses.score(side([True], tau=2.0)) + 1) > 1e-12:
        return "temperature of the reference"
    return "beta twice"
