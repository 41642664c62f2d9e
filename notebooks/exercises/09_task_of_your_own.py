"""Exercise 9: a task of your own. About 40 minutes, after notebook 4 (its exercise 3 shows one).

    Task(ask, answer, reward, walk, length, share, roles)      an entry of tasks.TASKS

Invent a task with a place that wants cold and a place that wants hot. The rules that it is held to:
toy/check_task finds nothing wrong; the same rng gives the same examples; of 300 prompts 150 differ;
words 2 and 3 of a prompt are no other task's; two roles occur; eight answers to a prompt differ in
reward, at most prompts; any text earns a finite number; and a text of nothing but typos earns less
than the corpus does. Words are those of tasks.WORDS, prompts have eight. tasks.slot(mode, words,
kind, rng) writes a noisy place, tasks.pick(words, rng) an even one.

Whether a decoder gains on it, the main job tells: put the entry into tasks.py as README.md says and
run `python train_toy.py --experiments NAME`.

    python notebooks/exercises/check.py 9
"""
import tasks

LENGTH = 0  # of the longest answer, in tokens, its end of text included
SHARE = 6   # of the examples in a pretraining step
ROLES = {}  # place -> role, for the places that are not "rest"


def ask(rng):
    """-> a prompt, eight words with a space between two"""
    raise NotImplementedError


def answer(prompt, rng):
    """-> a response as the noisy corpus has it"""
    raise NotImplementedError


def reward(prompt, text):
    """-> a finite number, whatever the text"""
    raise NotImplementedError


def walk(prompt):
    """A generator: yields the place of each word, is sent the word, and goes on after the last."""
    raise NotImplementedError
