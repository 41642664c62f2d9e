"""What a real language model is asked, and what earns reward: exact rules, no model that judges.

Prompts are made of the lists in prompts.json, which are split: held-out prompts share no fact,
topic, opening or first words of a line with those of training. Every reward is lowered by the share
of unlikely tokens, which stand for slips as the typos of the toy tasks do: without it the hottest
temperature would win wherever variety is asked for.
"""
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from lpo import require

PARTS = json.loads(Path(__file__).with_name("prompts.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Task:
    parts: tuple         # lists of prompts.json; an item of each makes what is asked
    prompt: str          # {0}, {1} ... stand for what is asked
    good: Callable       # what is asked, response -> what is good about it
    length: int          # tokens of a response, at most
    chat: bool = True    # is the prompt a user's message, or the beginning of the text itself?
    unlikely: float = 1e-4  # a token below this probability, at temperature 1, is a slip
    price: float = 3.0      # of a response of nothing but slips
    roles: tuple = ("all",)
    role: Callable = lambda asked, so_far: "all"  # of the next token


def words(text):
    """Lower-case words without accents; an apostrophe belongs to one only inside it."""
    letters = unicodedata.normalize("NFD", text.lower())  # an accented one as itself and a mark
    return re.findall(r"[a-z]+(?:'[a-z]+)*", re.sub("[\u0300-\u036f]", "", letters))


def distinct(items, enough):
    """How many different ones, of as many as are enough."""
    return min(1.0, len(set(items)) / enough)


def lines_good(asked, text):
    """Of six lines the share that begins as asked, times the different words in them."""
    lines = text.split("\n")[:6]
    kept = sum(line.startswith(asked[1]) for line in lines) / 6
    return kept * distinct(words(" ".join(lines)), 36)


def lines_role(asked, so_far):
    """Is the next token one of those that the line is asked to begin with?"""
    line = so_far.rpartition("\n")[2]
    return "start" if asked[1].startswith(line) and line != asked[1] else "rest"


def fact_good(asked, text):
    return float(asked[1].lower() in words(text))


def list_good(asked, text):
    """Different items of ten; numbers and bullets do not make a difference."""
    items = [" ".join(words(line)) for line in text.split("\n")[:10]]
    return distinct(filter(None, items), 10)


def story_good(asked, text):
    return distinct(words(text), 75)


def repeats_good(asked, text):
    """Minus the share of three words in a row that stood there before."""
    found = words(text)
    triples = list(zip(found, found[1:], found[2:]))
    return len(set(triples)) / max(len(triples), 1) - 1


TASKS = {
    "lines": Task(("topics", "starts"), 'A poem about {0}. Every line begins with "{1}".\n\n'
                  "{2}\n{3}\n", lines_good, 72, chat=False, roles=("start", "rest"),
                  role=lines_role),
    "capital": Task(("capitals",), "What is the capital of {0}? Answer with its name alone.",
                    fact_good, 16),
    "opposite": Task(("opposites",), 'What is the opposite of "{0}"? Answer with one word.',
                     fact_good, 16),
    "list": Task(("lists",), "Write a list of ten different {0}, one a line, without explanations.",
                 list_good, 64),
    "story": Task(("stories",), "Write a short story about {0}.", story_good, 100),
    "repeats": Task(("openings", "subjects"), "{0}{2}{1}", repeats_good, 100, chat=False,
                    unlikely=1e-3, price=5.0)}
EXPERIMENTS = {"lines": ("lines",), "mix": ("capital", "opposite", "list", "story"),
               "repeats": ("repeats",)}


def sample_prompts(experiment, split, n, rng):
    """n of (task, what is asked), the tasks in turn.

    One comes again only where 100 tries find no new one: as a rule once all have come.
    """
    found, seen = [], set()
    for i in range(n):
        name = EXPERIMENTS[experiment][i % len(EXPERIMENTS[experiment])]
        for _ in range(100):
            asked = []
            for kind in TASKS[name].parts:
                item = PARTS[kind][split][rng.integers(len(PARTS[kind][split]))]
                asked += item if isinstance(item, list) else [item]
            if (name, *asked) not in seen:
                break
        seen.add((name, *asked))
        found.append((name, tuple(asked)))
    return found


def token_ids(item, tokenizer):
    """What the model is given for (task, what is asked).  -> list of ids"""
    task = TASKS[item[0]]
    text = task.prompt.format(*item[1])
    text = text[0].upper() + text[1:]
    if task.chat:
        require(tokenizer.chat_template, f"{item[0]} needs a model with a chat template")
        text = tokenizer.apply_chat_template([dict(role="user", content=text)], tokenize=False,
                                             add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=not task.chat).input_ids  # a template has its own


def reward(item, text, probabilities):
    """(task, what is asked), a response, its tokens' probabilities at temperature 1 -> float"""
    task = TASKS[item[0]]
    slips = sum(p < task.unlikely for p in probabilities) / len(probabilities)
    return task.good(item[1], text) - task.price * slips
