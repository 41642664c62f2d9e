"""Exercise 9: a task of your own. About 40 minutes, after notebook 4.

Invent a task with a place that wants a low temperature and one that wants a high one. Go in steps,
and run the command after each:

1. `ask` returns a prompt of eight words of tasks.WORDS. Words 2 and 3 must not begin another task's
   prompts, and at least 150 of 300 prompts must differ.
2. `answer` returns a response as a noisy corpus has it. tasks.slot(mode, words, kind, rng) writes a
   noisy place, tasks.pick(words, rng) an even one. Set LENGTH. All randomness comes from rng.
3. `reward` returns a finite number for any text. Eight answers must differ in reward at most
   prompts, and typos alone must earn less than the corpus does.
4. `walk` yields the place of each word and is sent the word. ROLES names the places that may want
   another temperature than the rest; two roles must occur.

To see whether a decoder gains on your task, put the entry into tasks.py and run
`python train_toy.py --experiments NAME`.

Question: what makes the two places of your task twins (notebook 1)?

    python notebooks/exercises/check.py 9
"""
import tasks

LENGTH = 10  # of the longest answer, in tokens, its end of text included
SHARE = 6    # of the examples in a pretraining step
ROLES = {}   # place -> role, for the places that are not "rest"


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
