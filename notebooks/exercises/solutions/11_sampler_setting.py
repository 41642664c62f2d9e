"""Exercise 11, a sampler setting: a solution."""
import math
from dataclasses import dataclass

import torch

from lpo import word_logps


@dataclass(frozen=True)
class Eta:
    epsilon: float
    temperature: float

    @property
    def name(self):
        return f"eta={self.epsilon:g}@{self.temperature:g}"

    def __call__(self, logits):
        logps = word_logps(logits, 1.0)  # (...,V)
        p = logps.exp()
        entropy = -torch.where(p > 0, p * logps, 0.0).sum(-1, keepdim=True)  # (...,1)
        cut = (math.sqrt(self.epsilon) * (-entropy).exp()).clamp(max=self.epsilon)
        return word_logps(logits.masked_fill(p < cut, -math.inf), self.temperature)


def eta(epsilon, temperature):
    return Eta(epsilon, temperature)
