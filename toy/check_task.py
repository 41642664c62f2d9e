"""Twenty examples of a task, and in one sentence what is wrong with it, before anything is trained.

    python -m toy.check_task NAME     show examples of a task of yours
"""
import math
import sys

import numpy as np

from tasks import EXPERIMENTS, PROMPT_LENGTH, TASKS, VOCAB_SIZE, decode, encode, places_of
from toy.evaluate import sample_prompts
from toy.files import program

EXAMPLES = 20


def check_task(name, n=EXAMPLES):
    """n examples, (prompt, response, reward, places) each; ValueError says what does not fit."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; add it to TASKS, which has {', '.join(TASKS)}")
    task, rng, found = TASKS[name], np.random.default_rng(0), []
    if task.share < 1 or task.length < 2:
        raise ValueError(f"task {name!r}: share is {task.share} and length {task.length}; give at "
                         "least 1 and 2")
    for _ in range(n):
        prompt = task.ask(rng)
        check_words(name, "prompt", prompt)
        if len(encode(prompt)) != PROMPT_LENGTH:
            raise ValueError(f"task {name!r}: the prompt {prompt!r} has {len(encode(prompt))} "
                             f"words; give {PROMPT_LENGTH}")
        text = task.answer(prompt, rng)
        check_words(name, "answer", text)
        words = text.split()
        if not 0 < len(words) < task.length:
            raise ValueError(f"task {name!r}: the answer {text!r} has {len(words)} words; give one "
                             f"or more, and a length above (it is {task.length}, with the end of "
                             "text)")
        reward = checked_number(name, "reward", task.reward, prompt, text)
        for metric, measure in task.metrics.items():
            checked_number(name, metric, measure, prompt, text)
        places = checked_places(name, task, prompt, words)
        found.append((prompt, text, reward, places))
    check_fields(name, task, {place for *_, places in found for place in places})
    return found


def check_words(name, what, text):
    if not isinstance(text, str):
        raise ValueError(f"task {name!r}: the {what} is {text!r}; give a text")
    if not text.strip():
        return  # no words: reported elsewhere
    unknown = [decode([i]) for i in encode(text) if i >= VOCAB_SIZE]
    if unknown or decode(encode(text)) != text or "  " in text or text != text.strip():
        odd = next((word for word in text.split() if len(encode(word)) > 1), text)
        raise ValueError(f"task {name!r}: the {what} has {odd!r}; give words of WORDS, one space "
                         "between two")


def checked_number(name, what, measure, prompt, text):
    value = measure(prompt, text)
    if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise ValueError(f"task {name!r}: {what} is {value!r} for {text!r}; give a finite number")
    return float(value)


def checked_places(name, task, prompt, words):
    try:
        places = places_of(task.walk(prompt), words)
    except (StopIteration, AttributeError, TypeError):
        raise ValueError(f"task {name!r}: the walk does not go through {' '.join(words)!r}; give a "
                         "generator that yields the place of every word, is sent the word, and "
                         "goes on after the last") from None
    if not all(isinstance(place, str) for place in places):
        raise ValueError(f"task {name!r}: the walk yields {places}; give names of places")
    return places


def check_fields(name, task, places):
    """Roles need existing places, criteria need metrics, and a vote needs both parts."""
    strange = set(task.roles) - places
    if strange:
        raise ValueError(f"task {name!r}: roles names {', '.join(sorted(strange))}, where no walk "
                         f"of {EXAMPLES} examples led; its places are {', '.join(sorted(places))}")
    if task.criteria and (len(task.criteria) != 2 or not set(task.criteria) <= set(task.metrics)):
        raise ValueError(f"task {name!r}: criteria is {task.criteria}; give two of its metrics")
    if (task.answer_of is None) != (task.solution is None):
        raise ValueError(f"task {name!r}: a vote needs both answer_of and solution")
    if not any(name in names for names in EXPERIMENTS.values()):
        raise ValueError(f"task {name!r} is in no experiment; add it to EXPERIMENTS")


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
