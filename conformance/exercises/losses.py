"""Exercise: the losses of Latent Preference Optimization, from logits to gradients, in numpy.

Write one function at a time, from the top, and run
    python conformance/check.py conformance/exercises/losses.py
after each. What still raises NotImplementedError is skipped; the last lines say how many cases each
function has right, and often what is wrong. FORMAT.md has the conventions; a
response is one side of a case. Solutions: ../oracle.py, as loops. Not before yours is right.
"""


def temperature_logps(logits, tokens, temperatures):
    """log P(y_t | tau_k) = log softmax(l_t / tau_k)[y_t].  (B,T,V), (B,T), K floats -> (B,T,K)

    At temperature 0: 0 for the arg-max, -inf for any other token.
    """
    raise NotImplementedError


def separate_score(case, response):
    """sum_t log P(tau_t), minus the same under the decoder's reference if there is one.  -> (B,)

    At sequence level there is one decision, and it counts once.
    """
    raise NotImplementedError


def joint_score(case, response):
    """separate_score plus sum_t [log P(y_t | tau_t) - log Pref(y_t | tau_t)].  -> (B,)

    A token of probability 0 under either counts 0.
    """
    raise NotImplementedError


def latent_score(case, response):
    """sum_t [log sum_k P(y_t | tau_k) P(tau_k) - log sum_k Pref(y_t | tau_k) Pref(tau_k)]  -> (B,)

    Without a decoder reference Pref(tau_k) is 1 / K.
    """
    raise NotImplementedError


def exact_sequence_score(case, response):
    """log sum_k P(tau_k) prod_t P(y_t | tau_k), minus the same under the reference.  -> (B,)"""
    raise NotImplementedError


def preference_loss(margin, beta):
    """-log sigmoid(beta * margin), for margins of any size.  (B,) -> (B,)"""
    raise NotImplementedError


def nll_loss(case):
    """-sum_t log P(tau_t) of the chosen side, without reference and without beta.  -> (B,)"""
    raise NotImplementedError


def gradients(case):
    """Of the sum of the losses, by the logits of decoder and language model, of both sides.

    -> {"chosen": {"decoder_logits": (B,T or 1,K), "lm_logits": (B,T,V)}, "rejected": ...}
    """
    raise NotImplementedError


# ---- given: the functions that check.py calls --------------------------------------------------

SCORES = {"separate": separate_score, "joint": joint_score, "latent": latent_score}


def score(case, side):
    """case, "chosen" or "rejected" -> (B,)"""
    function = exact_sequence_score if case["exact_sequence"] else SCORES[case["variant"]]
    return function(case, case[side])


def loss(case):
    """case -> (B,), one a pair"""
    if case["variant"] == "nll":
        return nll_loss(case)
    return preference_loss(score(case, "chosen") - score(case, "rejected"), case["beta"])
