"""Our own lpo.py, decoder.py and model.py behind the four functions of check_model.py.

    python conformance/check_model.py conformance/adapters/model_ours.py
"""
import sys
from functools import lru_cache
from pathlib import Path

import torch

HERE = Path(__file__).resolve()
sys.path += [str(HERE.parents[1]), str(HERE.parents[2])]
import decoder as decoding  # noqa: E402
import gpt2 as files  # noqa: E402  no more than the file format
import lpo  # noqa: E402
from model import GPT, GPTConfig  # noqa: E402
from toy import samplers  # noqa: E402

DTYPE = "float64"  # check_model.py --dtype overwrites it


def tensors(weights):
    return {name: torch.from_numpy(w) for name, w in weights.items()}


@lru_cache
def load_model(folder, dtype):
    """-> GPT, id of the end of text"""
    policy = files.load(folder)
    model = GPT(GPTConfig(*(policy.config[name] for name in ("vocab_size", "n_positions", "n_layer",
                                                             "n_head", "n_embd"))))
    model.load_hf_state_dict(tensors(policy.weights))
    return model.to(getattr(torch, dtype)).requires_grad_(False), policy.eos


def choice_of(x):
    """A temperature, or a setting of decoder.json as one of toy/samplers.py."""
    if not isinstance(x, dict):
        return x
    cut = samplers.min_p(x["min_p"]) if "min_p" in x else None
    return samplers.frequency(x["frequency_penalty"], x["temperature"], cut)


def load_decoder(folder, dtype):
    """-> AdaptiveDecoder, a new one each time: it is going to be trained"""
    policy = files.load(folder)
    n_hidden, n_embd = policy.decoder["mlp.0.weight"].shape
    decoder = decoding.AdaptiveDecoder(n_embd, map(choice_of, policy.choices), policy.level,
                                       n_hidden)
    decoder.load_state_dict({**tensors(policy.decoder),
                             "_extra_state": decoder.get_extra_state()})
    return decoder.to(torch.promote_types(getattr(torch, dtype), torch.float32))


def rollout(responses, level):
    """B of (ids, tau_idx) below each other, padding on the right.  -> Rollout"""
    B, T = len(responses), max(len(ids) for ids, _ in responses)
    tokens = torch.zeros(B, T, dtype=torch.long)
    tau_idx = torch.zeros(B, T if level == "token" else 1, dtype=torch.long)
    mask = torch.zeros(B, T, dtype=torch.bool)
    for b, (ids, of_ids) in enumerate(responses):
        tokens[b, :len(ids)] = torch.tensor(ids)
        tau_idx[b, :len(of_ids)] = torch.tensor(of_ids)
        mask[b, :len(ids)] = True
    return decoding.Rollout(tokens, mask, torch.zeros(B, dtype=torch.bool), tau_idx)


@torch.no_grad()
def score(policy, prompts, responses):
    decoder, (model, _) = load_decoder(policy, DTYPE), load_model(policy, DTYPE)
    lpo.require(all(responses), "a response is empty; leave such rows out")
    unused = [[0] * (len(ids) if decoder.level == "token" else 1) for ids in responses]
    rows = rollout([*zip(responses, unused)], decoder.level)
    r = decoding.response_logps(model, decoder, prompts, rows)
    mixture = lpo.marginal(r.text_logps, r.tau_logps)  # (B,T)
    answer = []
    for b, n in enumerate(map(len, responses)):
        answer.append(dict(tau_logps=r.tau_logps[b, :n].numpy(),
                           text_logps=r.text_logps[b, :n].numpy(),
                           mixture_logps=mixture[b, :n].numpy()))
    return answer


def generate(policy, prompts, max_new_tokens, n, seed, select):
    decoder, (model, eos) = load_decoder(policy, DTYPE), load_model(policy, DTYPE)
    rows = [prompt for prompt in prompts for _ in range(n)]
    sampled = decoding.generate(model, rows, max_new_tokens, decoder, tau_select=select, eos=eos,
                                generator=torch.Generator().manual_seed(seed))
    answer = [(ids[:length], of_ids[:length]) for ids, of_ids, length in
              zip(sampled.tokens.tolist(), sampled.tau_idx.tolist(), sampled.mask.sum(1).tolist())]
    return [answer[i:i + n] for i in range(0, len(answer), n)]


def pairs(rewards, how):
    from train_toy import make_pairs  # which imports more than the rest needs
    if how.startswith("top-"):
        first, second = rewards
        chosen, rejected = make_pairs(first, "top-k", second, k=int(how.removeprefix("top-")))
    else:
        chosen, rejected = make_pairs(rewards, how)
    N = rewards.shape[-1]
    return [(i // N, i % N, j % N) for i, j in zip(chosen, rejected)]


def train(policy, reference, pairs, variant, level, beta, lr, steps, micro_batches):
    decoder, (model, _) = load_decoder(policy, DTYPE), load_model(policy, DTYPE)
    ref_decoder = reference and load_decoder(reference, DTYPE)
    ref_model = reference and load_model(reference, DTYPE)[0]
    optimizer = torch.optim.SGD(decoder.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        rest = list(pairs)
        for size in micro_batches:
            batch, rest = rest[:size], rest[size:]
            prompts = [pair["prompt"] for pair in batch]
            sides = [decoding.response_logps(model, decoder, prompts,
                                             rollout([pair[side] for pair in batch], level),
                                             ref_model, ref_decoder)
                     for side in ("chosen", "rejected")]
            (lpo.lpo_loss(*sides, variant, beta).sum() / len(pairs)).backward()
        optimizer.step()
    return {name: w.detach().numpy() for name, w in decoder.named_parameters()}
