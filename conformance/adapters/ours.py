"""Our own lpo.py behind the four functions of check.py: the plainest adapter there is.

    python conformance/check.py conformance/adapters/ours.py
"""
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).resolve().parents[2]))
import lpo  # noqa: E402  the folder above conformance/
from lpo import temperature_logps as text_logps  # noqa: E402

DTYPE = "float64"  # check.py --dtype overwrites it
SIDES = ("chosen", "rejected")


def tensor(x):
    """Numbers as a leaf tensor of the dtype under test."""
    return torch.tensor(x, dtype=getattr(torch, DTYPE)).requires_grad_()


def response(case, side):
    """A side of the case as lpo.py takes it, and every array that a gradient might reach."""
    x = case[side]
    tokens, taus = torch.tensor(x["tokens"]), case["temperatures"]
    leaves = {name: tensor(logits) for name, logits in x.items()
              if name.endswith("logits") and logits is not None}
    ref = leaves.get("ref_decoder_logits")
    return lpo.ResponseLogps(
        tau_logps=F.log_softmax(leaves["decoder_logits"], dim=-1),
        tau_idx=torch.tensor(x["tau_idx"]),
        mask=torch.tensor(x["mask"]),
        text_logps=text_logps(leaves["lm_logits"], tokens, taus),
        ref_text_logps=text_logps(leaves["ref_lm_logits"], tokens, taus),
        ref_tau_logps=None if ref is None else F.log_softmax(ref, dim=-1)), leaves


def losses(case):
    """-> (B,), {side: leaves}"""
    (chosen, chosen_leaves), (rejected, rejected_leaves) = (response(case, s) for s in SIDES)
    leaves = {"chosen": chosen_leaves, "rejected": rejected_leaves}
    if case["variant"] == "nll":
        return lpo.nll_loss(chosen), leaves
    return lpo.lpo_loss(chosen, rejected, case["variant"], case["beta"],
                        case["exact_sequence"]), leaves


def to_numpy(x):
    return x.detach().double().numpy()


def temperature_logps(logits, tokens, temperatures):
    return to_numpy(text_logps(tensor(logits), torch.tensor(tokens), temperatures))


def score(case, side):
    return to_numpy(lpo.score(response(case, side)[0], case["variant"], case["exact_sequence"]))


def loss(case):
    return to_numpy(losses(case)[0])


def gradients(case):
    value, leaves = losses(case)
    value.sum().backward()
    for side in SIDES:
        for name, x in leaves[side].items():  # nobody else looks at a reference's
            if name.startswith("ref_") and x.grad is not None:
                raise AssertionError(f"a gradient reaches {side}.{name}; detach the reference")
    return {side: {name: to_numpy(torch.zeros_like(x) if x.grad is None else x.grad)
                   for name, x in leaves[side].items() if not name.startswith("ref_")}
            for side in SIDES}
