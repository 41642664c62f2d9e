"""How a foreign implementation is plugged in: LPO as a transformers trainer would have it.

The first half is such a trainer's loss, which knows nothing of this repository and uses nothing
of lpo.py: a batch in TRL's layout (chosen rows above rejected ones, prompt and response in one
sequence, padded on either side, completion_mask 1 on response tokens), a model that returns a
transformers object, logits shifted against ids. The second half puts the cases into that form.
    python conformance/check.py conformance/adapters/trl_style.py      needs torch and transformers
    PADDING_SIDE=left python conformance/check.py conformance/adapters/trl_style.py
"""
import os

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import CausalLMOutputWithPast

DTYPE = "float64"  # check.py --dtype overwrites it
PADDING_SIDE = os.environ.get("PADDING_SIDE", "right")  # or "left", as a tokenizer's


# ---- the foreign implementation: S positions of a sequence, 2B rows ----------------------------

def tempered_logps(logits, ids, temperatures):
    """Log-probability of each id at each temperature, at once.  (2B,S,V), (2B,S) -> (2B,S,K)"""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    taus = logits.new_tensor(temperatures)[:, None]  # (K,1)
    warm = (logits[:, :, None] / torch.where(taus > 0, taus, 1)).log_softmax(-1)  # (2B,S,K,V)
    top = F.one_hot(logits.argmax(-1), logits.shape[-1]).bool()[:, :, None]  # (2B,S,1,V)
    logps = torch.where(taus > 0, warm, torch.where(top, 0.0, -torch.inf).to(warm))
    index = ids[..., None, None].expand(-1, -1, len(temperatures), 1)
    return logps.gather(-1, index)[..., 0]


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

    def __init__(self, temperatures, beta, loss_type, sequence_level, exact=False):
        self.temperatures, self.beta, self.loss_type = temperatures, beta, loss_type
        self.sequence_level, self.exact = sequence_level, exact

    def forward(self, model, batch):
        """-> log P(y|tau_k) (2B,S-1,K) and log P(tau_k) (2B,S-1 or 1,K)"""
        outputs = model(input_ids=batch["input_ids"], output_hidden_states=True)
        text = tempered_logps(outputs.logits[:, :-1], batch["input_ids"][:, 1:], self.temperatures)
        head = outputs.hidden_states[-1]
        if self.sequence_level:  # the last prompt token decides
            rows = torch.arange(len(head))
            head = head[rows, batch["prompt_ends"]][:, None]
        else:
            head = head[:, :-1]
        return text, head.to(text.dtype).log_softmax(-1)

    def scores(self, model, ref_model, batch):
        """One score a row, chosen rows first.  -> (2B,)"""
        text, tau = self.forward(model, batch)
        ref_text, ref_tau = self.forward(ref_model, batch)
        if not ref_model.has_head:
            ref_tau = None
        response = batch["completion_mask"][:, 1:] == 1
        if self.loss_type == "latent":
            if ref_tau is None:
                ref_tau = (torch.ones_like(tau) / tau.shape[-1]).log()
            if self.exact:
                summed, ref_summed = (torch.where(response[..., None], x, 0).sum(1)
                                      for x in (text, ref_text))
                return log_ratio(safe_logsumexp(summed + tau[:, 0]),
                                 safe_logsumexp(ref_summed + ref_tau[:, 0]))
            ratios = log_ratio(safe_logsumexp(text + tau), safe_logsumexp(ref_text + ref_tau))
            return torch.where(response, ratios, 0).sum(1)
        drawn = batch["tau_ids"][:, 1:, None]  # (2B,S-1,1)
        if ref_tau is not None:
            tau = tau - ref_tau
        if self.sequence_level:  # all ids of a row are the same; where there is none stands 0
            total = tau[:, 0].gather(-1, drawn.max(1).values)[:, 0]
        else:
            total = torch.where(response, tau.gather(-1, drawn)[..., 0], 0).sum(1)
        if self.loss_type == "joint":
            ratios = log_ratio(text.gather(-1, drawn)[..., 0], ref_text.gather(-1, drawn)[..., 0])
            total = total + torch.where(response, ratios, 0).sum(1)
        return total

    def compute(self, model, ref_model, batch):
        """-> (B,)"""
        chosen, rejected = self.scores(model, ref_model, batch).chunk(2)
        if self.loss_type == "nll":
            return -chosen
        return -F.logsigmoid(self.beta * (chosen - rejected))


# ---- the adapter: cases in that form -----------------------------------------------------------

class Recorded:
    """A model whose outputs are known: logits, and the decoder's logits as last hidden state."""

    def __init__(self, logits, head, has_head=True):
        self.logits, self.head, self.has_head = logits, head, has_head

    def __call__(self, input_ids, output_hidden_states):
        return CausalLMOutputWithPast(logits=self.logits, hidden_states=(self.head,))


def both(case, name, dtype=None):
    """A field of both sides, chosen above rejected."""
    return torch.cat([torch.tensor(case[side][name], dtype=dtype)
                      for side in ("chosen", "rejected")])


def placed(x, starts, S, shift, fill):
    """(2B,T,...) -> (2B,S,...): column t at position start + t - shift, `fill` elsewhere."""
    out = torch.full((len(x), S, *x.shape[2:]), fill, dtype=x.dtype)
    columns = starts[:, None] + torch.arange(x.shape[1]) - shift
    return out.index_put((torch.arange(len(x))[:, None], columns), x)


def trainer_and_inputs(case):
    """-> LPOLoss, (model, ref_model, batch), leaves"""
    dtype, sequence = getattr(torch, DTYPE), case["level"] == "sequence"
    tokens, mask, tau_idx = (both(case, name) for name in ("tokens", "mask", "tau_idx"))
    rows, T = tokens.shape
    prompts = torch.arange(rows) % 3 + 1  # prompts of unequal length
    S = T + 4
    starts = prompts if PADDING_SIDE == "right" else torch.full((rows,), S - T)
    leaves = {name: both(case, name, dtype).requires_grad_() for name in
              ("decoder_logits", "lm_logits")}
    has_head = case["chosen"]["ref_decoder_logits"] is not None
    ref_head = both(case, "ref_decoder_logits", dtype) if has_head else leaves["decoder_logits"]
    model, ref_model = (Recorded(placed(lm, starts, S, 1, 7.0), placed(head, starts, S, 1, 7.0),
                                 has_head) for lm, head in [
        (leaves["lm_logits"], leaves["decoder_logits"]),
        (both(case, "ref_lm_logits", dtype), ref_head.detach())])
    tau_ids = torch.where(mask, tau_idx.expand(rows, T), 0)
    batch = {"input_ids": placed(tokens, starts, S, 0, 0), "prompt_ends": starts - 1,
             "completion_mask": placed(mask.long(), starts, S, 0, 0),
             "tau_ids": placed(tau_ids, starts, S, 0, 0)}
    trainer = LPOLoss(case["temperatures"], case["beta"], case["variant"], sequence,
                      case["exact_sequence"])
    if case["variant"] == "nll":
        ref_model.has_head = False
    return trainer, (model, ref_model, batch), leaves


def temperature_logps(logits, tokens, temperatures):
    return tempered_logps(torch.tensor(logits, dtype=getattr(torch, DTYPE)), torch.tensor(tokens),
                          temperatures).double().numpy()


def score(case, side):
    trainer, inputs, _ = trainer_and_inputs(case)
    chosen, rejected = trainer.scores(*inputs).detach().double().chunk(2)
    return (chosen if side == "chosen" else rejected).numpy()


def loss(case):
    trainer, inputs, _ = trainer_and_inputs(case)
    return trainer.compute(*inputs).detach().double().numpy()


def gradients(case):
    trainer, inputs, leaves = trainer_and_inputs(case)
    trainer.compute(*inputs).sum().backward()
    grads = {name: torch.zeros_like(x) if x.grad is None else x.grad for name, x in leaves.items()}
    return {side: {name: grad.double().chunk(2)[i].numpy() for name, grad in grads.items()}
            for i, side in enumerate(("chosen", "rejected"))}
