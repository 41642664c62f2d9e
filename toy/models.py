"""The base model, a small GPT pretrained on the noisy corpus, and trained models from files."""
import copy
import math

import torch
import torch.nn.functional as F

from decoder import AdaptiveDecoder, device_of
from fast.record import Recorded
from lpo import require
from model import GPT, GPTConfig
from tasks import EOS, PROMPT_LENGTH, TASKS, VOCAB_SIZE, corpus, encode
from toy.files import Progress, randomness, say

SHORT = 20  # tokens of a response; short and long ones have batches of their own: less padding


def new_model(n_layer, n_head, n_embd):
    """An untrained model whose context holds the longest response."""
    context = PROMPT_LENGTH + max(task.length for task in TASKS.values())
    return GPT(GPTConfig(VOCAB_SIZE, context, n_layer, n_head, n_embd))


def batches(steps, rng, generator):
    """For each step, the batches of short and of long texts.  -> lists of (b,S), padded with -1"""
    short = [name for name, task in TASKS.items() if task.length < SHORT]
    long = [name for name in TASKS if name not in short]
    data = {}
    for name, task in TASKS.items():
        texts = corpus(name, min(steps * task.share, 20000), rng)
        rows = [encode(prompt) + encode(response) + [EOS] for prompt, response in texts]
        tokens = max(map(len, rows)) - PROMPT_LENGTH
        require(tokens <= task.length, f"task {name!r}: an answer has {tokens} tokens with the end "
                                       f"of text, and length is {task.length}; make it {tokens} or "
                                       "more")
        longest = max(TASKS[other].length for other in (short if name in short else long))
        width = PROMPT_LENGTH + longest
        data[name] = torch.tensor([row + [-1] * (width - len(row)) for row in rows])
    for _ in range(steps):
        step = []
        for names in (short, long):
            parts = []
            for name in names:
                rows = torch.randint(len(data[name]), (TASKS[name].share,), generator=generator)
                parts.append(data[name][rows])
            step.append(torch.cat(parts))
        yield step


def pretrain(cfg):
    """Train a base model from cfg's seed.  -> dict(model: its weights)"""
    generator, rng = randomness("cpu", "pretrain", cfg.seed)
    model = new_model(cfg.n_layer, cfg.n_head, cfg.n_embd).to(cfg.device)
    lr = torch.zeros((), dtype=torch.float32, device=cfg.device)
    fused = cfg.device == "cuda" or torch.__version__ >= "2.4"  # older ones cannot on a CPU
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.1,
                                  fused=fused, capturable=cfg.device == "cuda")

    def update(*parts):
        """One step on the responses in all parts.  -> loss, nats per token"""
        loss, count = 0.0, 0
        for idx in parts:
            logits, _ = model(idx[:, :-1].clamp(min=0))
            logits, target = logits[:, PROMPT_LENGTH - 1:], idx[:, PROMPT_LENGTH:]
            loss = loss + F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1,
                                          reduction="sum")
            count = count + (target >= 0).sum()
        loss = loss / count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    if cfg.device == "cuda":
        update = Recorded(update)  # several hundred small kernels, replayed as one
    progress = Progress("pretraining", cfg.pretrain_steps)
    for step, parts in enumerate(batches(cfg.pretrain_steps, rng, generator)):
        if cfg.device == "cpu":  # where shapes may change, columns of padding are left out
            parts = [idx[:, :(idx >= 0).sum(1).max()] for idx in parts]
        cosine = 0.51 + 0.49 * math.cos(math.pi * step / cfg.pretrain_steps)  # falls to 1/50
        lr.fill_(cfg.pretrain_lr * min(1, (step + 1) / 50) * cosine)
        loss = update(*(idx.to(cfg.device) for idx in parts))
        progress(step + 1, lambda: f"loss {loss.item():.3f}")
    say(f"base model: loss {loss.item():.3f} nats per token")
    return dict(model=model.cpu().state_dict())


def restored(base, trained, choices, level):
    """What train_toy.train returned, as modules beside `base`.  -> GPT, AdaptiveDecoder"""
    model = copy.deepcopy(base)
    if trained["model"]:
        model.load_state_dict(trained["model"])
    decoder = AdaptiveDecoder(base.config.n_embd, choices, level).to(device_of(base))
    decoder.load_state_dict(trained["decoders"][-1])
    return model, decoder
