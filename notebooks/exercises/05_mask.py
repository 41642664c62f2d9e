"""Exercise 5: the mask. About 15 minutes, after notebook 3.

    score = sum over response tokens of log P(tau_t),   m_t = 1 on response tokens, 0 on padding

B responses of unequal lengths lie in arrays of T columns. A response ends with its first end of
text, which was drawn like any other token and counts; what stands behind it is padding and may be
anything, NaN and -inf too, and NaN times 0 is NaN. At the sequence level there is one temperature a
response: arrays of one column, which counts once, whatever the length.

    python notebooks/exercises/check.py 5
"""
import numpy as np


def response_mask(tokens, eos):
    """True on response tokens, the end of text included.  (B,T), a token id -> (B,T)"""
    raise NotImplementedError


def masked_score(tau_logps, tau_idx, mask):
    """sum_t log P(tau_t), padding left out.  (B,T,K), (B,T), (B,T) -> (B,)

    At the sequence level tau_logps is (B,1,K) and tau_idx (B,1).
    """
    raise NotImplementedError
