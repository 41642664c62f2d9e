"""Exercise 9, a task of your own: a solution.

The question: both places are slots, a mode of probability 0.4 and nine others alike. At a noun the
mode is right and the others are errors; at a verb all are as good, and variety earns.
"""
import tasks

LENGTH = 10
SHARE = 6
ROLES = {"echo": "echo"}


def ask(rng):
    nouns = [tasks.pick(tasks.NOUNS, rng) for _ in range(4)]
    return " ".join([tasks.pick(tasks.OPENERS, rng), "start with", *nouns, ":"])


def answer(prompt, rng):
    """Each noun of the prompt, which wants cold, after a verb, which wants hot."""
    words = []
    for noun in prompt.split()[3:7]:
        words += [tasks.slot(tasks.VERBS[0], tasks.VERBS, "verb", rng),
                  tasks.slot(noun, tasks.NOUNS, "noun", rng)]
    return " ".join([*words, "."])


def reward(prompt, text):
    """Share of right nouns times share of different verbs."""
    words = text.split()
    right = sum(a == b for a, b in zip(words[1:8:2], prompt.split()[3:7])) / 4
    return right * len(set(words[:8:2]) & set(tasks.VERBS)) / 4


def walk(prompt):
    for _ in range(4):
        yield "verb"
        yield "echo"
    while True:
        yield "stop"
