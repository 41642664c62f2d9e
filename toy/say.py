"""Try the trained model: responses in the terminal, each word on the colour of its temperature.

    python -m toy.say "please tell how fox finds the moon :"
    python -m toy.say "hurry solve for 3 4 9 1 :" --n 8 --temperature 0.6
    python -m toy.say "fox finds" --experiment mix --level sequence --numbers

The darker a word's background, the colder its temperature, as in the figures. Where there are no
colours (NO_COLOR is set, or the output is not a terminal) the temperature is printed after the
word.

The model is that of the last run of train_toy.py in the folder, the decoder that of its first loss
and of the prompt's experiment. The model continues any words that it knows; only prompts of
a task have a reward.
"""
import argparse
import functools
import itertools
import os
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch

from decoder import LEVELS, generate
from lpo import require
from tasks import EOS, EXPERIMENTS, TASKS, WORDS, decode, encode, split_of
from toy import figures, files
from toy.models import new_model, restored
from toy.options import Parser
from toy.samplers import choice_of, label

EXAMPLES = 4000  # prompts of each task, to learn which words follow each other
WIDTH = 92       # columns, before a line is broken


# --- the prompt -----------------------------------------------------------------------------------


def known_words(prompt):
    """The prompt with one space between words; ValueError with the vocabulary on unknown words."""
    words = prompt.split()
    require(words, 'the prompt is empty; give one, as in "please tell how fox finds the moon :"')
    unknown = list(dict.fromkeys(word for word in words if word not in WORDS))
    require(not unknown, f"the model does not know {', '.join(map(repr, unknown))}. It knows these "
                         "words, the corpus's typos among them; put spaces between them, also "
                         "before a full stop and a colon:\n" +
                         textwrap.fill(" ".join(WORDS), WIDTH, break_on_hyphens=False))
    return " ".join(words)


def pairs_of(prompt):
    """Where each word is, and the next one; after the last there is none."""
    words = prompt.split()
    return set(zip(itertools.count(), words, [*words[1:], None]))


@functools.cache
def neighbours(task):
    """All pairs of neighbouring words in the prompts of a task."""
    rng = np.random.default_rng(0)
    return set().union(*(pairs_of(TASKS[task].ask(rng)) for _ in range(EXAMPLES)))


def task_of(prompt):
    """The task that has such prompts, or None."""
    return next((name for name in TASKS if pairs_of(prompt) <= neighbours(name)), None)


# --- the trained model ----------------------------------------------------------------------------


def load(folder, task, experiment=None, level=None):
    """What answers the prompts of a task.  -> GPT, AdaptiveDecoder, its experiment, config (dict)

    ValueError says how to make what the folder lacks.
    """
    folder = Path(folder)
    require((folder / "results.json").exists(),
            f"{folder} has no trained run. `python train_toy.py --out {folder}` makes one in a few "
            "minutes; `python train_toy.py --quick`, a poor one in out/quick in under a minute")
    results = figures.load(folder / "results.json")
    config = results["config"]
    there = config["experiments"]
    if experiment is None:
        fits = [name for name, members in EXPERIMENTS.items() if task in members]
        experiment = (fits or there)[0]
    require(experiment in there, f"this run has no {experiment!r}; add --experiment "
                                 f"{' or '.join(there)}")
    level = level or next(name for name in LEVELS if name in config["levels"])
    require(level in config["levels"], f"this run has no {level} level")
    decoder_file = results["decoders"][f"{experiment} {level} {config['variants'][0]}"]
    for file in (results["base"], decoder_file):
        require((folder / file).exists(), f"{folder / file} is missing; run train_toy.py again")
    base = new_model(config["n_layer"], config["n_head"], config["n_embd"])
    try:
        base.load_state_dict(files.read(folder / results["base"])["model"])
    except RuntimeError:
        raise ValueError("tasks.py or model.py has changed since this run; run train_toy.py "
                         "again") from None
    choices = map(choice_of, config["choices"])
    model, decoder = restored(base, files.read(folder / decoder_file), choices, level)
    return model, decoder, experiment, config


# --- what is printed ------------------------------------------------------------------------------


def has_colours(stream, environment):
    """Whether to write colours: to a terminal that shows them, unless NO_COLOR is set."""
    shows = os.name != "nt" or "WT_SESSION" in environment  # Windows' older consoles do not
    return (stream is not None and stream.isatty() and shows and not environment.get("NO_COLOR")
            and environment.get("TERM") != "dumb")


def coloured(text, shade, true_colour):
    """Text on a background of a shade from 0 to 1, in escape codes."""
    rgb = [round(255 * x) for x in figures.SHADES(shade)[:3]]
    background = "2;{};{};{}".format(*rgb)
    if not true_colour:  # the nearest of 6 x 6 x 6
        steps = (0, 95, 135, 175, 215, 255)
        red, green, blue = (min(range(6), key=lambda i: abs(steps[i] - x)) for x in rgb)
        background = f"5;{16 + 36 * red + 6 * green + blue}"
    ink = 16 if figures.ink_on(shade) == "black" else 231
    return f"\x1b[48;{background};38;5;{ink}m{text}\x1b[0m"


def lines_of(words, choices, mark, lead):
    """A response as text: the lead, then one clause per line, long ones broken."""
    lines, room = [], 0
    for word, choice in zip(words, choices):
        text, width = mark(word, choice)
        if room <= width:
            lines.append([])
            room = WIDTH - len(lead)
        lines[-1].append(text)
        room = 0 if word == "." else room - width - 1
    return lead + ("\n" + " " * len(lead)).join(map(" ".join, lines))


def main(argv):
    parser = Parser(prog="python -m toy.say", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="+", help="the prompt, in quotes or not")
    parser.add_argument("--n", type=int, default=3, help="responses (%(default)s)")
    parser.add_argument("--experiment", choices=EXPERIMENTS, help="whose decoder answers (that of "
                        "the prompt's task)")
    parser.add_argument("--level", choices=LEVELS, help="one choice per token or per response "
                        "(token)")
    parser.add_argument("--temperature", metavar="X", help="also show a fixed one or a sampler, as "
                        "in top_p=.9")
    parser.add_argument("--numbers", action="store_true", help="print each word's temperature")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--out", default="out", help="folder of the run (%(default)s)")
    args = parser.parse_args(argv)
    require(args.n >= 1, f"--n is {args.n}; give 1 or more")
    require(0 <= args.seed < 2 ** 63, f"--seed is {args.seed}; give 0 to 2^63 - 1")
    prompt = known_words(" ".join(args.prompt))
    task, n_words = task_of(prompt), len(prompt.split())
    model, decoder, experiment, config = load(os.path.expanduser(args.out), task, args.experiment,
                                              args.level)
    context = model.config.block_size
    require(n_words < context, f"the prompt has {n_words} words; give fewer than {context}")
    length = TASKS[task].length if task else context - n_words
    policies = {f"{experiment} decoder, {decoder.level} level": (dict(decoder=decoder),
                                                                 config["choices"])}
    if args.temperature is not None:
        fixed = choice_of(args.temperature)
        name = f"fixed: {figures.name_of(label(fixed))}"
        policies[name] = dict(temperature=fixed), [label(fixed)]

    choices = list(dict.fromkeys(sum((labels for _, labels in policies.values()), [])))
    shade_of = figures.shades(choices)
    colours = has_colours(sys.stdout, os.environ)
    true_colour = os.environ.get("COLORTERM") in ("truecolor", "24bit")

    def mark(word, choice, numbers=args.numbers or not colours):
        """A word as it is printed, and its width."""
        text = f"{word}({figures.name_of(choice)})" if numbers else word
        return coloured(text, shade_of(choice), true_colour) if colours else text, len(text)

    use = "used in training" if split_of(prompt) == "train" else "held out"
    print(f"{prompt}\n  " + (f"a prompt of {task}, {use}" if task else
                             "no task has such prompts, so there is no reward"))
    for name, (policy, labels) in policies.items():
        rollout = generate(model, [encode(prompt)] * args.n, length, eos=EOS,
                           generator=torch.Generator().manual_seed(args.seed), **policy)
        texts = [decode(ids[mask].tolist()) for ids, mask in zip(rollout.tokens, rollout.mask)]
        rewards = [TASKS[task].reward(prompt, text) for text in texts] if task else []
        print(f"\n{name}" + (f", mean reward {np.mean(rewards):.2f}" if len(rewards) > 1 else ""))
        for i, text in enumerate(texts):
            used = [0] if rollout.tau_idx is None else rollout.tau_idx[i].tolist()
            used = used * len(text.split()) if len(used) == 1 else used
            print(lines_of(text.split(), [labels[k] for k in used], mark,
                           f"{rewards[i]:6.2f}  " if task else "     -  "))
    if colours:
        print("\ntemperature  " + " ".join(mark(f" {figures.name_of(choice)} ", choice, False)[0]
                                           for choice in choices))


if __name__ == "__main__":
    with files.program():
        main(sys.argv[1:])
