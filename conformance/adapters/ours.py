"""Our own lpo.py and decoder.py behind the four functions of check.py.

    python conformance/check.py conformance/adapters/ours.py
"""
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))
import decoder  # noqa: E402  the folder above conformance/
import lpo  # noqa: E402

DTYPE = "float64"  # check.py --dtype overwrites it
SIDES = ("chosen", "rejected")


def tensor(x):
    """Numbers as a leaf tensor of the dtype under test."""
    return torch.tensor(x, dtype=getattr(torch, DTYPE)).requires_grad_()


def response(case, side):
    """A side of the case as lpo.py takes it, and every array that a gradient might reach."""
    x = case[side]
    leaves = {name: tensor(logits) for name, logits in x.items()
              if name.endswith("logits") and logits is not None}
    tau_logps = {name: leaves[name].log_softmax(-1) for name in leaves if "decoder" in name}
    text_logps = {name: decoder.temperature_logps(leaves[name], torch.tensor(x["tokens"]),
                                                  case["temperatures"])
                  for name in leaves if "lm" in name}
    return lpo.ResponseLogps(
        tau_logps=tau_logps["decoder_logits"],
        tau_idx=torch.tensor(x["tau_idx"]),
        mask=torch.tensor(x["mask"]),
        text_logps=text_logps["lm_logits"],
        ref_text_logps=text_logps["ref_lm_logits"],
        ref_tau_logps=tau_logps.get("ref_decoder_logits")), leaves


def variant_of(case):
    return "latent_exact" if case["exact_sequence"] else case["variant"]


def losses(case):
    """-> (B,), leaves of both sides"""
    responses, leaves = zip(*(response(case, side) for side in SIDES))
    return lpo.lpo_loss(*responses, variant_of(case), case["beta"]), leaves


def to_numpy(x):
    return x.detach().double().numpy()


def temperature_logps(logits, tokens, temperatures):
    return to_numpy(decoder.temperature_logps(tensor(logits), torch.tensor(tokens), temperatures))


def score(case, side):
    return to_numpy(lpo.SCORES[variant_of(case)](response(case, side)[0]))


def loss(case):
    return to_numpy(losses(case)[0])


def gradients(case):
    value, leaves = losses(case)
    value.sum().backward()
    answer = {}
    for side, of_side in zip(SIDES, leaves):
        grads = {name: x.grad for name, x in of_side.items()}
        if any(name.startswith("ref_") and grad is not None for name, grad in grads.items()):
            raise AssertionError("a gradient reaches a reference; detach it")
        answer[side] = {name: to_numpy(torch.zeros_like(of_side[name]) if grad is None else grad)
                        for name, grad in grads.items() if not name.startswith("ref_")}
    return answer
