"""How a foreign implementation is plugged in: LPO as a transformers trainer would have it.

The first half is such a trainer's loss, which uses nothing of lpo.py: a batch in TRL's layout
(chosen rows above rejected ones, prompt and response in one sequence, padded on either side,
completion_mask 1 on response tokens), a model that returns logits and hidden states, logits shifted
against ids. model_transformers.py has a real model. The second half puts the cases into that form.
    python conformance/check.py conformance/adapters/trl_style.py      needs torch
    PADDING_SIDE=left python conformance/check.py conformance/adapters/trl_style.py
"""
import os
from types import SimpleNamespace

import torch
import torch.nn.functional as F

DTYPE = "float64"  # check.py --dtype overwrites it
PADDING_SIDE = os.environ.get("PADDING_SIDE", "right")  # or "left", as a tokenizer's
SIDES = ("chosen", "rejected")


# ---- the foreign implementation: S positions of a sequence, 2B rows ----------------------------

def tempered(logits, temperatures):
    """Log-probabilities at each temperature, at once.  (...,V) -> (...,K,V)"""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    taus = logits.new_tensor(temperatures)[:, None]  # (K,1)
    warm = (logits[..., None, :] / torch.where(taus > 0, taus, 1)).log_softmax(-1)  # (...,K,V)
    top = F.one_hot(logits.argmax(-1), logits.shape[-1]).bool()[..., None, :]  # (...,1,V)
    return torch.where(taus > 0, warm, torch.where(top, 0.0, -torch.inf).to(warm))


def tempered_logps(logits, ids, temperatures):
    """Of each id.  (R,S,V), (R,S) -> (R,S,K)"""
    index = ids[..., None, None].expand(-1, -1, len(temperatures), 1)
    return tempered(logits, temperatures).gather(-1, index)[..., 0]


def log_ratio(policy, reference):
    """policy - reference where both are finite, else 0."""
    usable = policy.isfinite() & reference.isfinite()
    return torch.where(usable, policy, 0) - torch.where(usable, reference, 0)


def safe_logsumexp(x):
    """Over the last dimension, without the NaN gradient of an all -inf row."""
    dead = x.isneginf().all(-1)
    return torch.where(dead, -torch.inf, torch.where(dead[..., None], 0, x).logsumexp(-1))


class LPOLoss:
    """compute(model, ref_model, batch) as in a DPO trainer's step."""

    def __init__(self, temperatures, beta, loss_type, sequence_level):
        self.temperatures, self.beta, self.loss_type = temperatures, beta, loss_type
        self.sequence_level = sequence_level

    def forward(self, model, batch):
        """-> log P(y|tau_k) (R,S-1,K) and log P(tau_k) (R,S-1 or 1,K)"""
        outputs = model(batch)
        text = tempered_logps(outputs.logits[:, :-1], batch["input_ids"][:, 1:], self.temperatures)
        head = outputs.hidden_states[-1]  # the decoder's logits
        if self.sequence_level:  # the last prompt token decides
            head = head[torch.arange(len(head)), batch["prompt_ends"]][:, None]
        else:
            head = head[:, :-1]
        return text, head.to(text.dtype).log_softmax(-1)

    def scores(self, model, ref_model, batch):
        """One score per row, chosen rows first.  -> (R,)"""
        text, tau = self.forward(model, batch)
        ref_text, ref_tau = self.forward(ref_model, batch)
        response = batch["completion_mask"][:, 1:] == 1
        if self.loss_type in ("latent", "latent_exact"):
            if not ref_model.has_head:
                ref_tau = (torch.ones_like(tau) / tau.shape[-1]).log()
            if self.loss_type == "latent_exact":
                text, ref_text = (torch.where(response[..., None], x, 0).sum(1, keepdim=True)
                                  for x in (text, ref_text))
                response = response.any(1, keepdim=True)
            ratios = log_ratio(safe_logsumexp(text + tau), safe_logsumexp(ref_text + ref_tau))
            return torch.where(response, ratios, 0).sum(1)
        sampled = batch["tau_ids"][:, 1:, None]  # (R,S-1,1)
        if ref_model.has_head and self.loss_type != "nll":
            tau = tau - ref_tau
        if self.sequence_level:  # all ids of a row are the same; 0 where there is none
            total = tau[:, 0].gather(-1, sampled.max(1).values)[:, 0]
        else:
            total = torch.where(response, tau.gather(-1, sampled)[..., 0], 0).sum(1)
        if self.loss_type == "joint":
            ratios = log_ratio(text.gather(-1, sampled)[..., 0],
                               ref_text.gather(-1, sampled)[..., 0])
            total = total + torch.where(response, ratios, 0).sum(1)
        return total

    def compute(self, model, ref_model, batch):
        """One loss per pair.  -> (R / 2,)"""
        chosen, rejected = self.scores(model, ref_model, batch).chunk(2)
        if self.loss_type == "nll":
            return -chosen
        return -F.logsigmoid(self.beta * (chosen - rejected))


# ---- the adapter: cases in that form -----------------------------------------------------------

class Recorded:
    """A model whose outputs are known: logits, and the decoder's logits as last hidden state."""

    def __init__(self, logits, head, has_head=True):
        self.outputs = SimpleNamespace(logits=logits, hidden_states=(head,))
        self.has_head = has_head

    def __call__(self, batch):
        return self.outputs


def trainer_and_inputs(case):
    """-> LPOLoss, (model, ref_model, batch), leaves"""
    sequence = case["level"] == "sequence"
    dtype = getattr(torch, DTYPE)

    def both(name, dtype=None):
        """A field of both sides, chosen above rejected."""
        return torch.cat([torch.tensor(case[side][name], dtype=dtype) for side in SIDES])

    tokens, mask, tau_idx = both("tokens"), both("mask"), both("tau_idx")
    (rows, T), S = tokens.shape, tokens.shape[1] + 4
    prompts = torch.arange(rows) % 3 + 1  # prompts of unequal length
    starts = prompts if PADDING_SIDE == "right" else torch.full((rows,), S - T)

    def placed(x, shift, fill):
        """Column t at position start + t - shift, `fill` elsewhere.  (R,T,...) -> (R,S,...)"""
        out = torch.full((rows, S, *x.shape[2:]), fill, dtype=x.dtype)
        columns = starts[:, None] + torch.arange(x.shape[1]) - shift
        return out.index_put((torch.arange(rows)[:, None], columns), x)

    leaves = {name: both(name, dtype).requires_grad_() for name in ("decoder_logits", "lm_logits")}
    has_head = case["chosen"]["ref_decoder_logits"] is not None
    ref_head = both("ref_decoder_logits", dtype) if has_head else leaves["decoder_logits"].detach()
    model = Recorded(placed(leaves["lm_logits"], 1, 7.0), placed(leaves["decoder_logits"], 1, 7.0))
    ref_model = Recorded(placed(both("ref_lm_logits", dtype), 1, 7.0), placed(ref_head, 1, 7.0),
                         has_head)
    batch = {"input_ids": placed(tokens, 0, 0), "prompt_ends": starts - 1,
             "completion_mask": placed(mask.long(), 0, 0),
             "tau_ids": placed(torch.where(mask, tau_idx.expand(rows, T), 0), 0, 0)}
    variant = "latent_exact" if case["exact_sequence"] else case["variant"]
    trainer = LPOLoss(case["temperatures"], case["beta"], variant, sequence)
    return trainer, (model, ref_model, batch), leaves


def temperature_logps(logits, tokens, temperatures):
    return tempered_logps(torch.tensor(logits, dtype=getattr(torch, DTYPE)), torch.tensor(tokens),
                          temperatures).double().numpy()


def score(case, side):
    trainer, inputs, _ = trainer_and_inputs(case)
    return trainer.scores(*inputs).detach().double().chunk(2)[SIDES.index(side)].numpy()


def loss(case):
    trainer, inputs, _ = trainer_and_inputs(case)
    return trainer.compute(*inputs).detach().double().numpy()


def gradients(case):
    trainer, inputs, leaves = trainer_and_inputs(case)
    trainer.compute(*inputs).sum().backward()
    grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()}
    return {side: {name: grad.double().chunk(2)[i].numpy() for name, grad in grads.items()}
            for i, side in enumerate(SIDES)}
