"""What check.py asks: (exercise, function) -> inputs. make_key.py has the solutions answer them."""
import math

import numpy as np

LN3, INF, NAN = math.log(3), math.inf, math.nan
rng = np.random.default_rng(2)


def a(*x):
    return np.array(x)


def logps(*shape):
    """Random log-probabilities over the last axis, rounded so that complaints are short."""
    x = np.exp(rng.normal(size=shape))
    return np.log(x / x.sum(-1, keepdims=True)).round(2)


HALVES, FOX = np.log([0.5, 0.5]), a(LN3, 0.0)
PAPER = np.log([[1 / 4, 3 / 4]] * 2)            # the decoder of notebook 3a, at two tokens
with np.errstate(divide="ignore"):
    FOX_OWL = np.log([[1, 3 / 4], [0, 1 / 4]])  # log P(y_t | tau_k) at temperatures 0 and 1
    MOVED = np.log([[1, 4 / 5], [0, 1 / 5]])    # of the trained model
COLD = a([0.0, -0.3], [-INF, -1.2], [-INF, -INF])
COLD_REF = a([0.0, -0.4], [-INF, -0.9], [-0.7, -INF])
UNIFORM = np.full((3, 2), -math.log(2))

TWO = a([1.0, 0.0], [0.4, 0.6])  # safe always writes text 0, risky writes text 1 more often
FOUR = a([0.7, 0.1, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25])
X, R = a(0.3, -0.7, 0.1), a(1.0, -2.0, 1.0, 3.0)
PAIRS = [[(0, 1), (0, 2), (2, 1)], [(0, 1), (2, 0)], [(0, 1), (0, 2)], [(2, 1)]]

MODEL = rng.normal(size=(3, 4)).round(1), logps(3, 3)  # logits of 4 tokens, log P(tau) of 3
NUMBERS = rng.random((4, 10)).round(2).tolist()

FIVE = [math.log(p) for p in (0.5, 0.25, 0.15, 0.09, 0.01)]
LOGITS = (2 * rng.normal(size=(2, 3, 6))).round(1).tolist()


def side(mask, tau=1.0, reference=1.0, last=-1.0):
    """Two tokens, logits ln 3 and 0; the reference's are so many times these."""
    T = len(mask)
    return dict(mask=mask, tau=[tau] * T, tokens=[0] * T, tau_logps=[-1.0] * (T - 1) + [last],
                logits=[[1.1, 0.0]] * T, ref_logits=[[1.1 * reference, 0.0]] * T)


WHOLE = side([1, 1])
QUESTIONS = {
    (1, "choice_logps"): [(FOX, 1.0), (FOX, 0.5), (a(0.0, LN3), 0.0), (a(1.0, 2.0, 2.0), 0.0),
                          (a(400.0, 0.0), 0.5)],
    (2, "mixture_logps"): [
        (FOX, HALVES, [0.0, 1.0]), (FOX, PAPER[0], [0.0, 1.0]),
        (a(0.3, -1.0, 0.8), a(-0.7, -1.6, -1.2), [0.5, 1.0, 2.0]),
        (a(800.0, 0.0), HALVES, [1.0, 0.5]), (FOX, a(0.0), [0.0])],
    (3, "posterior"): [
        (UNIFORM[:2], FOX_OWL), (PAPER, FOX_OWL), (UNIFORM[:1], COLD[2:]),
        (logps(2, 3), -rng.random((2, 3)).round(2)), (a([-0.5, -0.93]), a([-800.0, -801.0]))],
    (3, "latent_gradient"): [(UNIFORM[:2], FOX_OWL), (PAPER, FOX_OWL), (UNIFORM[:1], COLD[2:])],
    (4, "separate_score"): [(PAPER, a(0, 1)), (PAPER, a(0, 0)), (logps(3, 4), a(2, 0, 3))],
    (4, "joint_score"): [
        (PAPER, a(0, 1), FOX_OWL, FOX_OWL), (PAPER, a(0, 1), MOVED, FOX_OWL),
        (UNIFORM, a(0, 0, 0), COLD, COLD_REF), (UNIFORM, a(1, 1, 1), COLD, COLD_REF)],
    (4, "latent_score"): [
        (PAPER, FOX_OWL, UNIFORM[:2], FOX_OWL), (UNIFORM, COLD, UNIFORM, COLD_REF),
        (logps(2, 2), MOVED, logps(2, 2), FOX_OWL)],
    (4, "preference_loss"): [
        (np.log([3 / 16]), np.log([1 / 16]), 1.0), (a(0.0, 2.0), a(2.0, 0.0), 0.5),
        (a(-1000.0, 1000.0), a(0.0, 0.0), 2.0)],
    (5, "response_mask"): [(a([5, 3, 9, 9]), 9), (a([9, 5, 3], [5, 9, 3]), 9), (a([5, 3, 4]), 9),
                           (a([4, 0, 0, 7]), 0)],
    (5, "masked_score"): [
        (logps(1, 3, 2), a([0, 1, 0]), a([True, True, False])),
        (logps(1, 1, 2), a([0]), a([True, True, False])),
        (a([[-0.7, -0.7], [NAN, NAN]], [[-0.2, -1.7], [-0.4, -1.1]]), a([0, 0], [1, 0]),
         a([True, False], [True, True])),
        (a([[-0.7, -0.7], [-INF, 0.0]]), a([1, 0]), a([True, False]))],
    (6, "margin"): [
        (np.log([0.5, 0.25, 0.25]), None, 0, 2),
        (np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.25, 0.5]), 0, 2),
        (np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.5, 0.25]), 2, 1)],
    (6, "rounds"): [(PAIRS, 3, 0.5, 1.0, 20, name) for name in ("none", "initial", "round")],
    (7, "sample"): [(np.log([0.25, 0.75]), 0.2), (np.log([0.25, 0.75]), 0.3), (a(-INF, 0.0), 0.0),
                    (np.log([0.5, 0.3, 0.2]), 0.9), (a(0.0, -INF, -INF), 0.7)],
    (7, "respond"): [
        (*MODEL, numbers, [0.0, 1.0, 2.0], level, select, 3, 5) for level in ("token", "sequence")
        for select in ("sample", "greedy") for numbers in NUMBERS],
    (8, "pairs"): [
        (rewards, how) for how in ("best-worst", "all") for rewards in (
            a([0.5, -1.0, 2.0, 0.25], [1.0, 1.0, 1.0, 1.0]),
            a([2, 2, 0], [0, 1, 1]).astype("uint8"), a([1.0, NAN, 0.0]))],
    (9, "task"): [()],
    (10, "fix"): [
        (WHOLE, side([1, 0]), 1.0), (side([0, 1]), WHOLE, 1.0),
        (side([1, 0], last=-9.0), WHOLE, 0.5), (side([0, 1, 0], last=-9.0), WHOLE, 1.0),
        (side([1, 1], 2.0, 0.5), WHOLE, 0.5)],
    (11, "eta"): [
        (0.2, 1.0, FIVE), (0.2, 2.0, FIVE), (0.2, 0.0, FIVE), (0.1, 1.5, [*FIVE, -INF]),
        (0.9, 0.5, [0.5] * 9 + [0.6]), (0.05, 3.0, LOGITS)],
    (12, "log_gradient"): [(a(0.0, 0.0), 1), (X, 2)],
    (12, "exact_gradient"): [(a(0.0, 0.0), TWO, a(0.6, 1.0)), (X, FOUR, R)],
    (12, "reinforce"): [(a(0.0, 0.0), a(0, 1), a(1.0, 0.0)), (X, a(0, 2, 2, 1), R)],
    (12, "lpo_gradient"): [(a(0.0, 0.0), TWO, a(0.6, 1.0), 0.5), (X, FOUR, R, 2.0)],
}
