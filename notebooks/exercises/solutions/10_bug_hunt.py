"""Exercise 10, a bug hunt: the line of student 0, and how to find it.

Let policy and reference be equal and log P(tau) be -1 everywhere: the score of n tokens is -n, and
each bug of a score breaks that for a mask, a length or a temperature. A bug of the loss breaks
-log sigmoid of two scores that are right.

The question: nearly all of the bugs leave a loss that starts at ln 2 and falls.
"""


def fix():
    """Each input gives the score of chosen, the score of rejected, and the loss. Which of the
    three is wrong decides which functions can be.

    Change one thing at a time: the mask, the temperature, the reference.
    """
    return 41, "x = beta * (score(chosen) - score(rejected))"
