"""Exercise 11, a sampler setting: a solution.

The question: H is a mean of -log p, so exp(-H) is at most the largest p. The square root of epsilon
is at most 1. The smaller of the two bounds is therefore at most the largest p.
"""
import math
from dataclasses import dataclass

import torch

from decoder import choice_logps


@dataclass(frozen=True)
class Eta:
    epsilon: float
    temperature: float

    @property
    def name(self):
        return f"eta={self.epsilon:g}@{self.temperature:g}"

    def __call__(self, logits):
        logps = choice_logps(logits, 1.0)  # (...,V)
        p = logps.exp()
        entropy = -torch.where(p > 0, p * logps, 0.0).sum(-1, keepdim=True)  # (...,1)
        cut = (math.sqrt(self.epsilon) * (-entropy).exp()).clamp(max=self.epsilon)
        return choice_logps(logits.masked_fill(p < cut, -math.inf), self.temperature)


def eta(epsilon, temperature):
    """Print p, H and the bound of the input above, and compare with a calculator.

    First remove, then apply the temperature, then normalise. Rows are independent.
    """
    return Eta(epsilon, temperature)
