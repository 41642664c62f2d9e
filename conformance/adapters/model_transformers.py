"""Hugging Face's GPT2LMHeadModel with a decoder beside it, in batches padded on the left.

    python conformance/check_model.py conformance/adapters/model_transformers.py

How a trainer built on transformers would do it: attention mask and positions made from the padding,
responses flush right, trl_style.py's loss. `pairs` is left out, which the checker allows.
"""
import json
import sys
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

sys.path.append(str(Path(__file__).parent))
from trl_style import LPOLoss, tempered  # noqa: E402

DTYPE = "float64"  # check_model.py --dtype overwrites it


@lru_cache
def load_model(folder, dtype):
    return GPT2LMHeadModel.from_pretrained(folder).to(getattr(torch, dtype)).requires_grad_(False)


class Headed:
    """A policy as trl_style's loss calls it: the hidden state that it sees is decoder logits."""
    has_head = True

    def __init__(self, folder):
        d = json.loads((Path(folder) / "decoder.json").read_text(encoding="utf-8"))
        if any(isinstance(choice, dict) for choice in d["choices"]):
            raise NotImplementedError("choices with a memory")
        self.temperatures, self.sequence_level = d["choices"], d["level"] == "sequence"
        self.model = load_model(str(folder), DTYPE)
        dtype = torch.promote_types(getattr(torch, DTYPE), torch.float32)
        self.head = {name: w.to(dtype).requires_grad_() for name, w in
                     load_file(Path(folder) / "decoder.safetensors").items()}

    def __call__(self, batch):
        mask = batch["attention_mask"]
        outputs = self.model(batch["input_ids"], attention_mask=mask, output_hidden_states=True,
                             position_ids=positions(mask))
        hidden = outputs.hidden_states[-1].to(self.head["mlp.0.weight"].dtype)
        for name in ("mlp.0", "mlp.2"):
            hidden = F.silu(F.linear(hidden, *self.layer(name)))
        outputs.hidden_states = (F.linear(hidden, *self.layer("mlp.4")),)
        return outputs

    def layer(self, name):
        return self.head[f"{name}.weight"], self.head[f"{name}.bias"]


def positions(mask):
    """The first token of a row is at 0, wherever it is.  (R,S) -> (R,S)"""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def left_padded(rows, fill=0):
    """R lists -> (R,S)"""
    S = max(map(len, rows))
    return torch.tensor([[fill] * (S - len(row)) + list(row) for row in rows])


def batch_of(prompts, responses):
    """responses: (ids, tau_idx).  -> a batch in trl_style's layout"""
    rows = [[*prompt, *ids] for prompt, (ids, _) in zip(prompts, responses)]
    taus = [list(taus) * (len(ids) // len(taus)) for ids, taus in responses]  # one per token
    ends = torch.tensor([len(ids) for ids, _ in responses])
    ids = left_padded(rows)
    return {"input_ids": ids, "attention_mask": left_padded([[1] * len(row) for row in rows]),
            "prompt_ends": ids.shape[1] - ends - 1,
            "completion_mask": (torch.arange(ids.shape[1]) >= ids.shape[1] - ends[:, None]).long(),
            "tau_ids": F.pad(left_padded(taus), (ids.shape[1] - int(ends.max()), 0))}


@torch.no_grad()
def score(policy, prompts, responses):
    if not all(responses):
        raise ValueError("a response is empty; leave such rows out")
    model = Headed(policy)
    batch = batch_of(prompts, [(ids, [0]) for ids in responses])
    text, tau = LPOLoss(model.temperatures, 1.0, "latent", model.sequence_level).forward(model,
                                                                                         batch)
    mixture, answer = (text + tau).logsumexp(-1), []
    for b, ids in enumerate(responses):
        answer.append(dict(tau_logps=tau[b, -len(ids):].numpy(),
                           text_logps=text[b, -len(ids):].numpy(),
                           mixture_logps=mixture[b, -len(ids):].numpy()))
    return answer


@torch.no_grad()
def generate(policy, prompts, max_new_tokens, n, seed, select):
    model, generator = Headed(policy), torch.Generator().manual_seed(seed)
    eos = model.model.config.eos_token_id
    rows = [prompt for prompt in prompts for _ in range(n)]
    ids, mask = left_padded(rows), left_padded([[1] * len(row) for row in rows])
    words, taus = [], []
    for t in range(max_new_tokens):
        outputs = model({"input_ids": ids, "attention_mask": mask})
        if t == 0 or not model.sequence_level:
            odds = outputs.hidden_states[-1][:, -1].softmax(-1)  # (R,K)
            tau_idx = odds.argmax(-1) if select == "greedy" else \
                odds.multinomial(1, generator=generator)[:, 0]
        every = tempered(outputs.logits[:, -1], model.temperatures)  # (R,K,V)
        odds = every[torch.arange(len(every)), tau_idx].exp()
        words.append(odds.multinomial(1, generator=generator)[:, 0])
        ids, mask = torch.cat([ids, words[-1][:, None]], 1), F.pad(mask, (0, 1), value=1)
        taus.append(tau_idx)
    answer = []
    for ids, tau_idx in zip(torch.stack(words, 1).tolist(), torch.stack(taus, 1).tolist()):
        ids = ids[:ids.index(eos) + 1] if eos in ids else ids
        answer.append((ids, tau_idx[:1 if model.sequence_level else len(ids)]))
    return [answer[i:i + n] for i in range(0, len(answer), n)]


def train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches):
    model, ref_model = Headed(policy), Headed(reference or policy)
    ref_model.has_head = reference is not None
    for w in ref_model.head.values():
        w.requires_grad_(False)
    trainer = LPOLoss(model.temperatures, beta, variant, model.sequence_level)
    for _ in range(steps):
        rest = list(pairs)
        for size in micro_batches:
            some, rest = rest[:size], rest[size:]
            batch = batch_of([pair["prompt"] for pair in some] * 2,
                             [pair[side] for side in ("chosen", "rejected") for pair in some])
            (trainer.compute(model, ref_model, batch).sum() / len(pairs)).backward()
        with torch.no_grad():
            for w in model.head.values():
                w -= lr * w.grad
                w.grad = None
    return {name: w.detach().numpy() for name, w in model.head.items()}
