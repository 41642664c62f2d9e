"""The base model: a small GPT, pretrained on the noisy corpus of all tasks, and kept in a file."""
import math

import torch
import torch.nn.functional as F

from model import GPT, GPTConfig
from stages import code_of, randomness
from tasks import EOS, PROMPT_LENGTH, TASKS, VOCAB_SIZE, corpus, encode

# Examples of each task in a pretraining step: arithmetic needs the most practice.
MIXTURE = dict(repeats=5, math=16, general=4, story=6, constrained=6, vote=22)


def new_model(cfg):
    context = PROMPT_LENGTH + max(len(task.roles) for task in TASKS.values())
    return GPT(GPTConfig(VOCAB_SIZE, context, cfg.n_layer, cfg.n_head, cfg.n_embd)).to(cfg.device)


def learn(model, optimizer, batches):
    """One step on the responses in all batches.  (B_i,T_i) each -> loss, nats a token"""
    loss, count = 0.0, 0
    for idx in batches:
        logits, _ = model(idx[:, :-1].clamp(min=0))
        logits, target = logits[:, PROMPT_LENGTH - 1:], idx[:, PROMPT_LENGTH:]
        loss = loss + F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1,
                                      reduction="sum")
        count = count + (target >= 0).sum()
    optimizer.zero_grad()
    (loss / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach() / count


def pretrain(cfg, base_seed, tick):
    """Train a base model on the noisy corpus, responses only.  -> weights and no rows"""
    gen, rng = randomness("cpu", "pretrain", base_seed)
    model, data = new_model(cfg), {}
    for name, count in MIXTURE.items():
        tick(0.0, f"writing the corpus: {name}")
        pairs = corpus(name, min(cfg.pretrain_steps * count, 20000), rng)
        data[name] = torch.tensor([encode(prompt) + encode(text) + [EOS] for prompt, text in pairs])
    # two batches a step, of short and of long responses: less padding than in one
    halves = [[name for name in data if (data[name].shape[1] < 20) == short] for short in (1, 0)]
    lr, graph, batches = torch.zeros((), dtype=torch.float64, device=cfg.device), None, []
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.1,
                                  capturable=cfg.device != "cpu")
    for step in range(cfg.pretrain_steps):
        cosine = 0.51 + 0.49 * math.cos(math.pi * step / cfg.pretrain_steps)
        lr.fill_(cfg.pretrain_lr * min(1, (step + 1) / 50) * cosine)
        rows = [batch([data[name][torch.randint(len(data[name]), (MIXTURE[name],), generator=gen)]
                       for name in names]) for names in halves]
        batches = batches or [idx.to(cfg.device) for idx in rows]
        for idx, drawn in zip(batches, rows):
            idx.copy_(drawn, non_blocking=True)
        if step == 3 and cfg.device != "cpu":  # several hundred small kernels: recorded once
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                loss = learn(model, optimizer, batches)
        if graph is None:
            loss = learn(model, optimizer, batches)
        else:
            graph.replay()
        if step % 20 == 0:
            tick(step / cfg.pretrain_steps, f"loss {loss.item():.3f}")
    return dict(state=model.cpu().state_dict(), rows=[])


def batch(parts):
    """Sequences of several tasks below each other, padded with -1.  (B_i,T_i) -> (B,T)"""
    T = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, T - part.shape[1]), value=-1) for part in parts])


def base_key(cfg):
    """All that a base model depends on, its seed apart (JSON-able)."""
    options = {name: value for name, value in vars(cfg).items()
               if name.startswith(("pretrain", "n_", "device"))}
    return [options, MIXTURE, code_of("model.py", "tasks.py", "pretrain.py")]


def base_model(cfg, base_seed, run):
    """The base model of a seed: pretrained now, or read back if an earlier run kept it."""
    result = run(f"base{base_seed}", base_key(cfg), lambda: pretrain(cfg, base_seed, run.tick))
    model = new_model(cfg)
    model.load_state_dict(result["state"])
    return model
