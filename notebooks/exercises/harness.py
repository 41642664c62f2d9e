"""What runs beside a student's functions, in their process: loops and objects that no pipe carries.

MADE: name -> function(module, ...), asked as if the student had written it.
"""
import math
import types

import numpy as np


def respond(module, logits, tau_logps, numbers, *options):
    """Exercise 7: the model is a table with a row for each sum of ids.  -> ids, -1, tau_idx"""
    def step(ids):
        row = (sum(ids) + len(ids)) % len(logits)
        return logits[row].copy(), tau_logps[row].copy()
    ids, tau_idx = module.respond(step, *options, iter(numbers).__next__)
    return [*map(int, ids), -1, *map(int, tau_idx)]


def pairs(module, rewards, how):
    """Exercise 8, in order; of equal rewards the first response stands for all."""
    rows = rewards.tolist()

    def first(p, i):
        return rows[p].index(rows[p][i]) if 0 <= i < len(rows[p]) else int(i)
    return sorted([int(p), first(p, i), first(p, j)] for p, i, j in module.pairs(rewards, how))


def fix(module, text, chosen, rejected, beta):
    """Exercise 10: the module with the student's line in it.  -> its scores and loss"""
    number, line = module.fix()
    lines = text.splitlines()
    old = lines[number - 1]
    lines[number - 1] = old[:len(old) - len(old.lstrip())] + " ".join(line.split())  # one line
    losses = types.ModuleType("losses")
    exec("\n".join(lines), vars(losses))
    return [losses.score(chosen), losses.score(rejected), losses.loss(chosen, rejected, beta)]


def eta(module, epsilon, temperature, logits):
    """Exercise 11: the student's choice, applied as the project applies it.  -> (...,V)"""
    import torch

    from decoder import checked_choices, choice_logps
    choice, = checked_choices([module.eta(epsilon, temperature)])
    names = {str(module.eta(e, tau).name) for e in (0.01, 0.3) for tau in (0.5, 2.0)}
    if len(names) < 4:
        raise ValueError(f"four settings have the names {sorted(names)}; a name tells epsilon and "
                         "temperature, since saved weights carry it")
    return choice_logps(torch.tensor(logits, dtype=torch.float64), choice).tolist()


def task(module):
    """Exercise 9: the student's task under its rules.  -> a sentence on what breaks one, or ''"""
    import tasks
    from toy.check_task import check_task
    tasks.TASKS["own"] = tasks.Task(module.ask, module.answer, module.reward, module.walk,
                                    length=module.LENGTH, share=module.SHARE, roles=module.ROLES)
    tasks.EXPERIMENTS["own"] = ["own"]
    try:
        return next(broken_rules(module, tasks, check_task("own")), "")
    except ValueError as error:
        return str(error)
    finally:
        del tasks.TASKS["own"], tasks.EXPERIMENTS["own"]


def broken_rules(module, tasks, examples):
    """A sentence for each rule that the task breaks. examples: (prompt, text, reward, places)."""
    def some():
        rng = np.random.default_rng(3)
        prompts = [module.ask(rng) for _ in range(300)]
        return prompts, [module.answer(prompt, rng) for prompt in prompts[:10]]
    rng, (prompts, _) = np.random.default_rng(5), some()
    if some() != some():
        yield "the same rng gave other examples; take all randomness from the rng that is given"
    if len(set(prompts)) < 150:
        yield f"only {len(set(prompts))} of 300 prompts differ; training and tests need 150"
    own = {tuple(prompt.split()[1:3]) for prompt, *_ in examples}
    for name, other in tasks.TASKS.items():
        both = own & {tuple(other.ask(rng).split()[1:3]) for _ in range(100)}
        if both and name != "own":
            yield (f"{' '.join(both.pop())!r}, words 2 and 3 of a prompt, belong to {name!r}; the "
                   "model could not tell the two tasks apart")
    roles = {module.ROLES.get(place, "rest") for *_, places in examples for place in places[:-1]}
    if len(roles) < 2:
        yield f"every word has the role {roles.pop()!r}; name a place in ROLES"
    ties = [prompt for prompt, *_ in examples
            if len({module.reward(prompt, module.answer(prompt, rng)) for _ in range(8)}) == 1]
    if 2 * len(ties) > len(examples):
        yield (f"eight answers to {ties[0]!r} earn the same, as at {len(ties)} of {len(examples)} "
               "prompts; a tie makes no pair")
    typos = sum(tasks.TYPOS.values(), [])
    for text in ("", ".", "uh", ". . . .", "to to to", *(text for _, text, *_ in examples[:5])):
        try:
            value = float(module.reward(examples[0][0], text))
        except Exception as error:
            value = type(error).__name__
        if isinstance(value, str) or not math.isfinite(value):
            yield f"the reward of {text!r:.40} is {value}; anything may come, so give a number"
    noise = np.mean([module.reward(prompt, " ".join(tasks.pick(typos, rng) for _ in text.split()))
                     for prompt, text, *_ in examples])
    usual = np.mean([reward for _, _, reward, _ in examples])
    if not noise < usual:
        yield f"typos alone earn {noise:.2f}, the corpus {usual:.2f}; then no word wants to be cold"


MADE = {made.__name__: made for made in (respond, pairs, fix, eta, task)}
