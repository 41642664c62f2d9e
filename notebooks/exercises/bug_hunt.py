"""The page of the bug hunt: the joint loss of one pair in plain Python, with one of five bugs.

Which one depends on the student's number. Whoever reads on knows too much to hunt.
"""
import zlib

NAMES = ("padding counted", "mean for sum", "beta twice", "temperature of the reference",
         "prompt counted")

PAGE = '''"""The joint loss of one pair, from logits. One thing is wrong with it.

A side is a dict of lists, T positions, V words: logits (T,V), ref_logits (T,V), tokens (T), mask
(T, true on response tokens; prompt before them, padding behind), tau (T, the temperature that drew
each token, all above 0), tau_logps (T, log P(tau_t | h_t)). Position t predicts token t.
"""
import math


def log_softmax(x):
    largest = max(x)
    total = largest + math.log(sum(math.exp(a - largest) for a in x))
    return [a - total for a in x]


def text_logp(logits, token, tau):
    """log P(token | tau)"""
    return log_softmax([a / tau for a in logits])[token]


def positions(mask):
    """Where response tokens stand."""
    return [t for t, valid in enumerate(mask) if valid]


def score(side):
    """sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)] + sum_t log P(tau_t)"""
    terms = []
    for t in positions(side["mask"]):
        token, tau = side["tokens"][t], side["tau"][t]
        policy = text_logp(side["logits"][t], token, tau)
        reference = text_logp(side["ref_logits"][t], token, tau)
        terms.append(policy - reference + side["tau_logps"][t])
    return math.fsum(terms)


def loss(chosen, rejected, beta):
    """-log sigmoid(beta * margin)"""
    margin = score(chosen) - score(rejected)
    x = beta * margin
    return max(-x, 0.0) + math.log1p(math.exp(-abs(x)))
'''

VALID = "    return [t for t, valid in enumerate(mask) if valid]"
CHANGES = {  # name -> right line, wrong line
    "padding counted": (VALID, "    return list(range(list(mask).index(True), len(mask)))"),
    "mean for sum": ("    return math.fsum(terms)", "    return math.fsum(terms) / len(terms)"),
    "beta twice": ("    margin = score(chosen) - score(rejected)",
                   "    margin = beta * (score(chosen) - score(rejected))"),
    "temperature of the reference": (
        '        reference = text_logp(side["ref_logits"][t], token, tau)',
        '        reference = text_logp(side["ref_logits"][t], token, 1.0)'),
    "prompt counted": (
        VALID, "    return list(range(len(mask) - list(mask)[::-1].index(True)))")}


def bug_of(student):
    """The name of a student's bug."""
    return NAMES[zlib.crc32(f"hunt {student}".encode()) % len(NAMES)]


def page(student):
    """The text with the student's bug in it."""
    right, wrong = CHANGES[bug_of(student)]
    assert PAGE.count(right) == 1, right
    return PAGE.replace(right, wrong)
