"""The bugs of the hunt in losses.py. Whoever reads on knows too much to hunt."""
MASK = "return [t for t, valid in enumerate(mask) if valid]"
X = "x = beta * (score(chosen) - score(rejected))"
BUGS = (  # (right text, wrong text); student 0 has the first of them
    (X, "x = beta * (score(chosen) - beta * score(rejected))"),
    (MASK, "return list(range(list(mask).index(1), len(mask)))"),
    (MASK, "return list(range(len(mask) - list(mask)[::-1].index(1)))"),
    (MASK, "return [t for t, valid in enumerate(mask[:-1]) if valid]"),
    ('["ref_logits"][t], token, tau)', '["ref_logits"][t], token, 1.0)'),
    ("a / tau for a", "a * tau for a"),
    ("max(-x, 0)", "max(x, 0)"))

