"""Ask a trained model something, and see at which temperature each word was drawn.

    python -m toy.say "please tell how fox finds the moon :"
    python -m toy.say "hurry solve for 3 4 9 1 :" --n 8 --temperature 0.6
    python -m toy.say "fox finds" --experiment mix --level sequence --numbers

The darker a word's ground, the colder it was drawn, as in the figures. Where there are no colours
(NO_COLOR is set, the output is no terminal) each word's temperature is written behind it.

The model is that of the last run of train_toy.py in the folder: its first base model, its first
loss, and the decoder of the experiment that the prompt belongs to. It continues any words that it
knows; only prompts that a task asks have a reward.
"""
import argparse
import functools
import os
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

import tasks
from decoder import LEVELS, AdaptiveDecoder, generate
from lpo import require
from tasks import EOS, EXPERIMENTS, PROMPT_LENGTH, TASKS, WORDS, decode, encode, split_of
from toy import plots, rows, stages
from toy.options import Config, Parser
from toy.pretrain import new_model
from toy.samplers import choice_of, label
from toy.stages import Job

ASKED = 4000  # prompts of each task, to see what it asks
SPLITS_SAID = {"train": "as in training", "validation": "held out", "test": "held out"}
WIDTH = 92    # columns, before a line is broken
CLASSES = {   # the vocabulary, as a reader looks for words
    "nouns": tasks.NOUNS, "verbs": tasks.VERBS, "digits": tasks.DIGITS,
    "openers": [*tasks.OPENERS, tasks.HURRY], "flavours": tasks.FLAVOURS, "people": tasks.PEOPLE,
    "lines": [*tasks.EVERY, *tasks.LINES], "ways": tasks.WAYS, "categories": list(tasks.CATEGORIES),
    **tasks.CATEGORIES, "fillers": tasks.FILLERS, "for \"the\"": tasks.DISFLUENCIES,
    "typos": sum(tasks.TYPOS.values(), [])}


# --- the prompt -----------------------------------------------------------------------------------


def vocabulary():
    """Every word once, a class a line; what has no class comes last."""
    listed = dict(CLASSES, others=WORDS)
    lines, seen = [], set()
    for name, words in listed.items():
        words = [word for word in dict.fromkeys(words) if word not in seen]
        seen |= set(words)
        lines.append(textwrap.fill(" ".join(words), WIDTH, initial_indent=f"  {name:11}",
                                   subsequent_indent=" " * 13, break_on_hyphens=False))
    return "\n".join(lines)


def known_words(prompt):
    """The prompt, its words one space apart; ValueError names words that the model lacks."""
    words = prompt.split()
    require(words, 'the prompt is empty; give one, as in "please tell how fox finds the moon :"')
    unknown = dict.fromkeys(word for word in words if word not in WORDS)
    require(not unknown, f"the model knows no {', '.join(map(repr, unknown))}. Its words, each "
                         f"between spaces, the full stop and the colon too:\n{vocabulary()}")
    return " ".join(words)


def places_and_pairs(prompt):
    """Each two words that follow each other, and where."""
    words = prompt.split()
    return set(zip(range(len(words)), words, words[1:]))


@functools.cache
def neighbours(ask):
    """All pairs of neighbours in what a task asks, found by letting it ask."""
    rng = np.random.default_rng(0)
    return set().union(*(places_and_pairs(ask(rng)) for _ in range(ASKED)))


def task_of(prompt):
    """The task that asks such prompts, of eight words, or None."""
    for name, task in TASKS.items():
        if (len(prompt.split()) == PROMPT_LENGTH
                and places_and_pairs(prompt) <= neighbours(task.ask)):
            return name
    return None


def no_reward(prompt):
    """Why a prompt of no task has no reward."""
    n = len(prompt.split())
    if n != PROMPT_LENGTH:
        return f"it has {n} word{'s' * (n > 1)}, prompts of tasks have {PROMPT_LENGTH}"
    return "no task asks this"


# --- the trained model ----------------------------------------------------------------------------


def saved(folder):
    """The results of the folder's last run; ValueError says how to make one."""
    found = Path(folder) / "results.json"
    quick = Path(folder) / "quick"
    here = f" There is a quick one: add --out {quick}." if (quick / "results.json").exists() else ""
    out = "" if str(folder) == "out" else f" --out {folder}"
    require(found.exists(), f"{folder} has no trained run.{here} `python train_toy.py{out}` makes "
                            "one in a few minutes, `python train_toy.py --quick --out out/quick` "
                            "in under a minute (then add --out out/quick here)")
    return rows.load(found)


def config_of(results):
    """The options of a run.  -> Config, on the CPU"""
    names = {f.name: f for f in fields(Config)}
    given = results["config"]
    require(given.keys() == names.keys(), "results.json is of another version; run train_toy.py "
                                          "again")
    values = {name: tuple(x) if names[name].type is tuple else x for name, x in given.items()}
    return replace(Config(**values), device="cpu")


def chosen_job(cfg, prompt_task, experiment=None, level=None):
    """Which decoder answers.  -> Job; ValueError where the run has none such"""
    if experiment is None:
        of_task = [name for name, members in EXPERIMENTS.items() if prompt_task in members]
        experiment = (of_task or cfg.experiments)[0]
    require(experiment in cfg.experiments,
            f"this run has no {experiment!r}; add --experiment {' or '.join(cfg.experiments)}, or "
            f"train it: python train_toy.py --experiments {','.join(cfg.experiments)},{experiment}")
    level = level or ("token" if "token" in cfg.levels else cfg.levels[0])
    require(level in cfg.levels, f"this run has no {level} level; its levels: "
                                 f"{', '.join(cfg.levels)}")
    return Job(cfg.seed, experiment, level, cfg.variants[0], cfg.seed)


def load(folder, results, job):
    """The language model and the decoder of a run.  -> GPT, AdaptiveDecoder"""
    cfg = config_of(results)

    def kept(name):
        file = results["stages"][name].get("file", "")
        path = Path(folder) / "stages" / file
        require(path.is_file(), f"{folder} has lost what it kept of {name}; run train_toy.py again")
        return stages.read(path)["result"]
    model = new_model(cfg)
    decoder = AdaptiveDecoder(cfg.n_embd, map(choice_of, cfg.choices), job.level)
    trained = kept(job.name)
    try:
        model.load_state_dict(trained["model"] or kept(Job(job.base_seed).name)["state"])
    except RuntimeError:  # another vocabulary or a longer response
        raise ValueError("tasks.py or model.py has changed since this run; run train_toy.py again"
                         ) from None
    decoder.load_state_dict(trained["decoder"])
    return model, decoder


def answers(model, prompt, n, seed, length, **policy):
    """n responses by the plain loop.  -> n texts, Rollout"""
    rollout = generate(model, [encode(prompt)] * n, length, eos=EOS,
                       generator=torch.Generator().manual_seed(seed), **policy)
    lengths = rollout.mask.sum(1).tolist()
    return [decode(ids[:m]) for ids, m in zip(rollout.tokens.tolist(), lengths)], rollout


# --- what is written ------------------------------------------------------------------------------


def has_colours(stream, environment):
    """May colours be written: to a terminal that knows them, and nobody objects."""
    knows = os.name != "nt" or "WT_SESSION" in environment  # Windows' older consoles do not
    return (stream.isatty() and knows and not environment.get("NO_COLOR")
            and environment.get("TERM") != "dumb")


def coloured(text, shade, true_colour):
    """Text on a ground of a shade from 0 to 1, in escape codes."""
    rgb = [round(255 * x) for x in plots.SHADES(shade)[:3]]
    if true_colour:
        ground = "2;{};{};{}".format(*rgb)
    else:  # the nearest of 6 x 6 x 6
        steps = (0, 95, 135, 175, 215, 255)
        red, green, blue = (min(range(6), key=lambda i: abs(steps[i] - x)) for x in rgb)
        ground = f"5;{16 + 36 * red + 6 * green + blue}"
    ink = 16 if plots.ink_on(shade) == "black" else 231
    return f"\x1b[48;{ground};38;5;{ink}m{text}\x1b[0m"


def marked(word, choice, shade_of, colours, numbers, true_colour=False):
    """A word as it is written, and its width."""
    text = f"{word}({plots.labels([choice])[0]})" if numbers else word
    return coloured(text, shade_of(choice), true_colour) if colours else text, len(text)


def clauses(words):
    """The numbers of the words in each line: a clause a line."""
    lines = [[]]
    for number, word in enumerate(words):
        lines[-1].append(number)
        if word == "." and number + 1 < len(words):
            lines.append([])
    return lines


def block(words, choices, mark, lead):
    """A response as lines: the lead, then a clause a line, below each other."""
    lines = []
    for numbers in clauses(words):
        line, width = "", 0
        for number in numbers:
            text, n = mark(words[number], choices[number])
            if width + n >= WIDTH - len(lead):
                lines.append(line)
                line, width = "", 0
            line += text + " "
            width += n + 1
        lines.append(line)
    indent = " " * len(lead)
    return "\n".join((indent if i else lead) + line.rstrip() for i, line in enumerate(lines))


def parsed(argv):
    parser = Parser(prog="python -m toy.say", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", nargs="+", help="what is asked, in quotes or not")
    parser.add_argument("--n", type=int, default=3, metavar="X", help="responses (%(default)s)")
    parser.add_argument("--experiment", choices=EXPERIMENTS, help="whose decoder answers (that of "
                        "the prompt's task)")
    parser.add_argument("--level", choices=LEVELS, help="a temperature a token, or one a response "
                        "(token)")
    parser.add_argument("--temperature", metavar="X", help="a fixed one beside it, or a sampler, "
                        "as in top_p=.9")
    parser.add_argument("--numbers", action="store_true", help="write each word's temperature")
    parser.add_argument("--seed", type=int, default=0, metavar="X", help="(%(default)s)")
    parser.add_argument("--out", default="out", metavar="X", help="folder of the run (%(default)s)")
    args = parser.parse_args(argv)
    if args.n < 1:
        parser.error(f"--n is {args.n}; give a whole number >= 1")
    return args


def policies(cfg, job, decoder, temperature):
    """{what it is called: (what `generate` takes, the labels of its choices)}"""
    found = {f"{job.experiment} decoder, {job.level} level": (dict(decoder=decoder), cfg.choices)}
    if temperature is not None:
        fixed = choice_of(temperature)
        name = plots.labels([label(fixed)])[0]
        found[f"fixed: {name}"] = dict(temperature=fixed), [label(fixed)]
    return found


def longest(model, prompt, task):
    """How many tokens a response may have; ValueError where the context has no room."""
    n, context = len(prompt.split()), model.config.block_size
    require(n < context, f"the prompt has {n} words and the model's context {context}; shorten it")
    lengths = [TASKS[task].length] if task else [t.length for t in TASKS.values()]
    return min(context - n, max(lengths))


def show(name, its_choices, prompt, task, texts, rollout, mark):
    """Print a policy's responses, each behind its reward."""
    rewards = [TASKS[task].reward(prompt, text) for text in texts] if task else []
    mean = f", mean reward {np.mean(rewards):.2f}" if len(rewards) > 1 else ""
    print(f"\n{name}{mean}")
    for number, text in enumerate(texts):
        words = text.split()
        drawn = [0] if rollout.tau_idx is None else rollout.tau_idx[number].tolist()
        if len(drawn) == 1:  # one for all words
            drawn = drawn * len(words)
        lead = f"{rewards[number]:6.2f}  " if task else "     -  "
        print(block(words, [its_choices[k] for k in drawn[:len(words)]], mark, lead))


def main(argv):
    args = parsed(argv)
    prompt = known_words(" ".join(args.prompt))
    results = saved(args.out)
    cfg, task = config_of(results), task_of(prompt)
    job = chosen_job(cfg, task, args.experiment, args.level)
    model, decoder = load(args.out, results, job)
    asked = policies(cfg, job, decoder, args.temperature)
    choices = list(dict.fromkeys(x for _, labels in asked.values() for x in labels))
    if not any(isinstance(choice, str) for choice in choices):
        choices.sort()
    colours = has_colours(sys.stdout, os.environ)
    mark = functools.partial(marked, shade_of=plots.shades(choices), colours=colours,
                             numbers=args.numbers or not colours,
                             true_colour=os.environ.get("COLORTERM") in ("truecolor", "24bit"))
    about = f"a prompt of {task}, {SPLITS_SAID[split_of(prompt)]}" if task else (
        f"no reward: {no_reward(prompt)}")
    print(f"{prompt}\n  {about}")
    for name, (policy, its_choices) in asked.items():
        texts, rollout = answers(model, prompt, args.n, args.seed, longest(model, prompt, task),
                                 **policy)
        show(name, its_choices, prompt, task, texts, rollout, mark)
    if colours:
        key = [mark(f" {name} ", x, numbers=False)[0] for name, x in
               zip(plots.labels(choices), choices)]
        print("\ntemperature  " + " ".join(key))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
