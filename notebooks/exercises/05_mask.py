"""Exercise 5: the mask. About 15 minutes, after notebook 3a.

B responses of unequal lengths are stored in arrays of T columns. A response ends with its first end
of text, which was sampled like any other token and counts. What follows it is padding and may be
anything, even NaN or -inf; and NaN times 0 is NaN. Sum log P of the sampled temperatures over the
response tokens. At the sequence level there is one temperature per response, in arrays of one
column; it counts once, whatever the length.

Question: why is `tokens != eos` not the mask, even if eos never occurs as a word?

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
