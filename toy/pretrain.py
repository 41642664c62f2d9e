"""The base model: a small GPT, pretrained on the noisy corpus of all tasks, and kept in a file."""
import math

import numpy as np
import torch
import torch.nn.functional as F

from fast.generate import generate
from model import GPT, GPTConfig
from tasks import (EOS, HURRY, PROMPT_LENGTH, TASKS, TRAP, VOCAB_SIZE, corpus, decode, encode,
                   final_answer, operands, prompts, reward_math)
from toy.stages import Job, code_of, randomness

SHORT = 20  # tokens of a response: a step has a batch of short ones and one of long ones


def new_model(cfg):
    """An untrained model whose context holds the longest response."""
    context = PROMPT_LENGTH + max(task.length for task in TASKS.values())
    return GPT(GPTConfig(VOCAB_SIZE, context, cfg.n_layer, cfg.n_head, cfg.n_embd)).to(cfg.device)


def padded(texts, length):
    """(prompt, response) texts as ids with the end of text, padded with -1.  -> (n, length)"""
    rows = [encode(prompt) + encode(response) + [EOS] for prompt, response in texts]
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])


def learn(model, optimizer, batches):
    """One step on the responses in all batches.  (B_i,T_i) each -> loss, nats a token"""
    loss, count = 0.0, 0
    for idx in batches:
        logits, _ = model(idx[:, :-1].clamp(min=0))
        logits, target = logits[:, PROMPT_LENGTH - 1:], idx[:, PROMPT_LENGTH:]  # responses only
        loss = loss + F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1,
                                      reduction="sum")
        count = count + (target >= 0).sum()
    optimizer.zero_grad()
    (loss / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach() / count


def learning_rate(cfg, step):
    """Up in 50 steps, then half a cosine down to a fiftieth."""
    cosine = 0.51 + 0.49 * math.cos(math.pi * step / cfg.pretrain_steps)
    return cfg.pretrain_lr * min(1, (step + 1) / 50) * cosine


def pretrain(cfg, base_seed, tick):
    """Train a base model on the noisy corpus, responses only.  -> dict(state: weights, learned)"""
    gen, rng = randomness("cpu", *Job(base_seed).seeds("pretrain"))
    model = new_model(cfg)
    data = {}
    for name, task in TASKS.items():
        tick(0.0, f"writing the corpus: {name}")
        texts = corpus(name, min(cfg.pretrain_steps * task.share, 20000), rng)
        data[name] = padded(texts, PROMPT_LENGTH + task.length)
    # two batches a step, of short and of long responses: less padding than in one
    groups = [[name for name in data if TASKS[name].length < SHORT],
              [name for name in data if TASKS[name].length >= SHORT]]

    def next_batches():
        for names in filter(None, groups):
            parts = []
            for name in names:
                rows = torch.randint(len(data[name]), (TASKS[name].share,), generator=gen)
                parts.append(data[name][rows])
            width = max(part.shape[1] for part in parts)
            idx = torch.cat([F.pad(part, (0, width - part.shape[1]), value=-1) for part in parts])
            # a recorded step has one shape; elsewhere columns of padding alone are left out
            yield idx if on_gpu else idx[:, :(idx >= 0).sum(1).max()]

    on_gpu = cfg.device != "cpu"
    lr = torch.zeros((), dtype=torch.float64, device=cfg.device)  # which a replayed step reads
    kind = dict(capturable=True) if on_gpu else dict(fused=True)  # for a graph, or in one pass
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.1,
                                  **kind)
    graph = None
    for step in range(cfg.pretrain_steps):
        lr.fill_(learning_rate(cfg, step))
        drawn = list(next_batches())
        if graph is None:
            batches = [idx.to(cfg.device) for idx in drawn]
        else:  # into the tensors that were recorded
            for idx, new in zip(batches, drawn):
                idx.copy_(new, non_blocking=True)
        if step == 3 and on_gpu:  # several hundred small kernels: recorded once, then replayed
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = learn(model, optimizer, batches)
        if graph is not None:
            graph.replay()
        else:
            loss = learn(model, optimizer, batches)
        if step % 20 == 0:
            tick((step + 1) / cfg.pretrain_steps, f"loss {loss.item():.3f}")
    return dict(state=model.cpu().state_dict(), learned=learned(model))


def learned(model, n=200):
    """What a base model has learned: shares of about n validation prompts answered so at
    temperature 0. sums: right ones in math. trap: after `hurry` the way is the trap, and the last
    digit forgotten.
    """
    rng = np.random.default_rng(0)

    def answers(task, asked):
        rollout = generate(model, [encode(prompt) for prompt in asked], TASKS[task].length,
                           temperature=0.0, eos=EOS)
        return [decode(ids[mask].tolist()) for ids, mask in zip(rollout.tokens, rollout.mask)]
    asked = prompts("math", "validation", n, rng)
    sums = [reward_math(prompt, text) for prompt, text in zip(asked, answers("math", asked))]
    asked = [prompt for prompt in prompts("vote", "validation", 2 * n, rng) if HURRY in prompt][:n]
    trapped = [TRAP in text and final_answer(text) == str(sum(operands(prompt)[:-1]) % 10)
               for prompt, text in zip(asked, answers("vote", asked))]
    return dict(sums=float(np.mean(sums)), trap=float(np.mean(trapped)))


def base_key(cfg):
    """All that a base model depends on, its seed apart (JSON-able)."""
    options = {name: value for name, value in vars(cfg).items()
               if name.startswith(("pretrain", "n_", "device"))}
    return [options, code_of("model.py", "tasks.py", "toy/pretrain.py")]


def base_model(cfg, base_seed, run):
    """The base model of a seed: pretrained now, or read back if an earlier run kept it."""
    job = Job(base_seed)
    result = run(job.name, base_key(cfg), lambda: pretrain(cfg, base_seed, run.tick))
    model = new_model(cfg)
    model.load_state_dict(result["state"])
    shares = ", ".join(f"{what} {share:.1%}" for what, share in result["learned"].items())
    run.say(f"  learned: {shares}" + ("" if min(result["learned"].values()) > 0.95 else
            "; math and vote will show little, raise --pretrain-steps"))
    return model
