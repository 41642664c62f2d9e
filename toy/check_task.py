"""Twenty examples of a task, and in one sentence what is wrong with it, before anything is trained.

    python -m toy.check_task NAME     show examples of a task of yours
"""
import contextlib
import math
import sys

import numpy as np

from lpo import require
from tasks import EXPERIMENTS, PROMPT_LENGTH, TASKS, WORDS, places_of
from toy.evaluate import sample_prompts
from toy.files import program


def check_task(name, n=20):
    """n examples, (prompt, response, reward, places) each; ValueError says what does not fit."""
    require(name in TASKS, f"no task {name!r}; add it to TASKS, which has {', '.join(TASKS)}")
    task, rng, found = TASKS[name], np.random.default_rng(0), []

    def need(condition, message):
        require(condition, f"task {name!r}: {message}")

    def check_words(what, text):
        need(isinstance(text, str), f"the {what} is {text!r}; give a text")
        odd = [word for word in text.split() if word not in WORDS]
        need(not odd and text == " ".join(text.split()) or not text.strip(),
             f"the {what} has {odd[0] if odd else text!r}; give words of WORDS, one space between "
             "two")

    def number(what, measure, prompt, text):
        value = measure(prompt, text)
        need(isinstance(value, (int, float, np.number)) and math.isfinite(value),
             f"{what} is {value!r} for {text!r}; give a finite number")
        return float(value)

    need(task.share >= 1 and task.length >= 2, f"share is {task.share} and length {task.length}; "
                                               "give at least 1 and 2")
    for _ in range(n):
        prompt = task.ask(rng)
        check_words("prompt", prompt)
        asked = len(prompt.split())
        need(asked == PROMPT_LENGTH, f"the prompt {prompt!r} has {asked} words; give "
                                     f"{PROMPT_LENGTH}")
        text = task.answer(prompt, rng)
        check_words("answer", text)
        words = text.split()
        need(0 < len(words) < task.length,
             f"the answer {text!r} has {len(words)} words; give one or more, and a length above "
             f"(it is {task.length}, with the end of text)")
        reward = number("reward", task.reward, prompt, text)
        for metric, measure in task.metrics.items():
            number(metric, measure, prompt, text)
        places = []
        with contextlib.suppress(StopIteration, AttributeError, TypeError):
            places = places_of(task.walk(prompt), words)
        need(places and all(isinstance(place, str) for place in places),
             f"the walk does not go through {text!r}; give a generator that yields the name of "
             "every word's place, is sent the word, and goes on after the last")
        found.append((prompt, text, reward, places))

    # roles need existing places, criteria need metrics, and a vote needs both parts
    seen = {place for *_, places in found for place in places}
    need(seen >= set(task.roles),
         f"roles names {', '.join(sorted(set(task.roles) - seen))}, where no walk of {n} examples "
         f"led; its places are {', '.join(sorted(seen))}")
    need(len(task.criteria) in (0, 2) and set(task.criteria) <= set(task.metrics),
         f"criteria is {task.criteria}; give two of its metrics")
    need((task.answer_of is None) == (task.solution is None),
         "a vote needs both answer_of and solution")
    need(any(name in names for names in EXPERIMENTS.values()),
         "it is in no experiment; add it to EXPERIMENTS")
    return found


def check_experiment(name, two_criteria, **splits):
    """ValueError if a task of the experiment has a fault, or a split fewer prompts than given."""
    for task in EXPERIMENTS[name]:
        check_task(task)
        if two_criteria and (len(EXPERIMENTS[name]) > 1 or not TASKS[task].criteria):
            raise ValueError(f"--pairing top-k needs two criteria, and {name} has none; add "
                             "--experiments constrained")
    for split, n in splits.items():
        sample_prompts(name, split, n, np.random.default_rng(0))


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("give the name of a task: python -m toy.check_task NAME")
    with program():
        for prompt, text, reward, places in check_task(sys.argv[1]):
            roles = map(TASKS[sys.argv[1]].role_of, places)
            print(f"{prompt}\n  {text}\n  reward {reward:.3f}, roles {' '.join(roles)}\n")
