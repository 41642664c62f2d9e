"""What runs beside a student's functions, in their process: loops and objects that no pipe carries.

MADE: name -> function(module, ...), asked as if the student had written it.
"""
import functools
import math
import types

import gpt2
import numpy as np
import oracle

from notebooks.exercises import bug_hunt


def draws(module, logps, n, seed):
    """n draws from (V,) log-probabilities.  -> n indices"""
    rng = np.random.default_rng(seed)
    return [module.draw(np.array(logps), rng) for _ in range(n)]


def generate(module, folder, prompts, max_new_tokens, n, seed, select):
    """The student's `respond` as check_model.py asks for it."""
    policy, rng = gpt2.load(folder), np.random.default_rng(seed)

    def responses(prompt):
        @functools.cache
        def forward(ids):
            logits, hidden = (x[0, -1] for x in gpt2.forward(policy, np.array([[*prompt, *ids]])))
            return logits, oracle.log_softmax(gpt2.decoder_logits(policy.decoder, hidden))

        def step(ids):
            return tuple(x.copy() for x in forward(tuple(map(int, ids))))
        return [module.respond(step, policy.choices, policy.level, select, policy.eos,
                               max_new_tokens, rng)
                for _ in range(n)]
    return [responses(prompt) for prompt in prompts]


def task(module):
    """The student's task under the rules of exercise 9.  -> a sentence on what breaks one, or ''"""
    import tasks
    from toy.check_task import check_task
    name, rng = "own", np.random.default_rng(2)
    prompt = module.ask(rng)  # what is not written yet says so
    module.reward(prompt, module.answer(prompt, rng))
    module.walk(prompt)
    tasks.TASKS[name] = tasks.Task(module.ask, module.answer, module.reward, module.walk,
                                   length=module.LENGTH, share=module.SHARE, roles=module.ROLES)
    tasks.EXPERIMENTS[name] = [name]
    try:
        examples = check_task(name)
        broken = (sentence for rule in RULES for sentence in [rule(module, tasks, examples)])
        return next(filter(None, broken), "")
    except ValueError as error:
        return str(error)
    finally:
        del tasks.TASKS[name], tasks.EXPERIMENTS[name]


def repeatable(module, tasks, examples):
    def some():
        rng = np.random.default_rng(3)
        asked = [module.ask(rng) for _ in range(10)]
        return [(prompt, module.answer(prompt, rng)) for prompt in asked]
    if some() != some():
        return "the same rng gave other examples: draw from the rng that is given and nothing else"


def many_prompts(module, tasks, examples):
    rng = np.random.default_rng(4)
    n = len({module.ask(rng) for _ in range(300)})
    if n < 150:
        return f"300 prompts have {n} different ones; give 150, to be split into train and test"


def unlike_others(module, tasks, examples):
    rng, own = np.random.default_rng(5), {tuple(p.split()[1:3]) for p, *_ in examples}
    for name, other in tasks.TASKS.items():
        if name != "own":
            both = own & {tuple(other.ask(rng).split()[1:3]) for _ in range(100)}
            if both:
                return (f"{' '.join(both.pop())!r}, words 2 and 3 of a prompt, ask for {name!r} "
                        "already: the model could not tell the two apart")


def two_roles(module, tasks, examples):
    roles = {module.ROLES.get(place, "rest") for *_, places in examples for place in places[:-1]}
    if len(roles) < 2:
        return (f"every word has the role {roles.pop()!r}; give two, one that wants cold and one "
                "that wants hot")


def unequal_rewards(module, tasks, examples):
    rng, varied = np.random.default_rng(6), 0
    for prompt, *_ in examples:
        varied += len({module.reward(prompt, module.answer(prompt, rng)) for _ in range(8)}) > 1
    if varied < len(examples) / 2:
        return (f"eight answers to a prompt earn all the same at {len(examples) - varied} of "
                f"{len(examples)} prompts: a tie is no pair, and there is nothing to learn")


def any_text(module, tasks, examples):
    rng = np.random.default_rng(7)
    odd = ["", ".", "uh", ". . . .", "working", "to to to"]
    odd += [" ".join(tasks.pick(tasks.WORDS, rng) for _ in range(12)) for _ in range(20)]
    for text in odd:
        try:
            value = module.reward(examples[0][0], text)
        except Exception as error:
            return (f"the reward of {text!r:.40} raised {type(error).__name__}: a hot model writes "
                    "anything, and it must earn a number")
        if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
            return f"the reward of {text!r:.40} is {value!r}; give a finite number"


def noise_is_worse(module, tasks, examples):
    rng, typos = np.random.default_rng(8), sum(tasks.TYPOS.values(), [])
    of_typos = [module.reward(prompt, " ".join(tasks.pick(typos, rng) for _ in text.split()))
                for prompt, text, *_ in examples]
    usual = np.mean([reward for _, _, reward, _ in examples])
    if not np.mean(of_typos) < usual:
        return (f"a text of nothing but typos earns {np.mean(of_typos):.2f}, the corpus "
                f"{usual:.2f}: then no word wants to be cold")


RULES = (repeatable, many_prompts, unlike_others, two_roles, unequal_rewards, any_text,
         noise_is_worse)


def hunt(module, student):
    """What the student says of the page with a bug.  -> a name"""
    losses = types.ModuleType(f"losses_{student}")
    exec(bug_hunt.page(student), vars(losses))
    return module.bug(losses)


def setting(module, epsilon, temperature, logits):
    """The student's choice, applied as the project applies it.  -> (...,V) log-probabilities"""
    import torch

    from lpo import checked_choices, word_logps
    choice, = checked_choices([module.eta(epsilon, temperature)])
    if not callable(choice):
        raise TypeError(f"eta gave {choice!r:.40}; give a function of logits with a name")
    names = {str(module.eta(e, tau).name) for e in (0.01, 0.3) for tau in (0.5, 2.0)}
    if len(names) < 4:
        raise ValueError(f"four settings have the names {sorted(names)}; a name tells epsilon and "
                         "temperature, since saved weights carry it")
    return word_logps(torch.tensor(logits, dtype=torch.float64), choice).tolist()


MADE = {made.__name__: made for made in (draws, generate, task, hunt, setting)}
