"""The command line of train_toy.py: one frozen dataclass, whose fields are the flags."""
import argparse
from dataclasses import dataclass, field, fields, replace

import torch

from decoder import LEVELS, AdaptiveDecoder
from lpo import VARIANTS
from model import GPTConfig
from tasks import EXPERIMENTS, TASKS
from toy.samplers import choice_of, label

PAIRINGS = ("best-worst", "top-k", "all")


def option(default, help, choices=None):
    return field(default=default, metadata=dict(help=help, choices=choices))


@dataclass(frozen=True)
class Config:
    experiments: tuple = option(tuple(EXPERIMENTS), "comma-separated", tuple(EXPERIMENTS))
    levels: tuple = option(LEVELS, "a temperature a token, or one a response", LEVELS)
    variants: tuple = option(("latent",), "losses, comma-separated", (*VARIANTS, "nll"))
    choices: tuple = option((0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2), "temperatures, or samplers as in "
                            "top_p=.9 or min_p=.05@3 (toy/samplers.py), comma-separated")
    beta: float = option(0.5, "larger stays closer to the reference")
    lr: float = option(2e-3, "the decoder's learning rate in round one; then it falls linearly")
    rounds: int = option(6, "times sample -> pair -> update")
    prompts: int = option(120, "training prompts a round")
    responses: int = option(8, "responses a training prompt")
    steps: int = option(20, "updates a round, each on all its pairs")
    pairing: str = option("best-worst", "which responses make pairs; top-k: by two criteria",
                          PAIRINGS)
    top_k: int = option(3, "k of --pairing top-k")
    reference: str = option("round", "what sampled the round's pairs, or the first round's",
                            ("round", "initial"))
    decoder_reference: bool = option(False, "a decoder reference in joint and separate too")
    exact_sequence: bool = option(False, "the exact marginal in latent at the sequence level")
    model_lr: float = option(0.0, "learning rate of the language model; 0 keeps it frozen")
    seed: int = option(0, "the first seed")
    seeds: int = option(1, "decoders trained on each base model")
    base_seeds: int = option(1, "base models pretrained")
    device: str = option("auto", "cpu, cuda, or auto: a CUDA GPU when there is one")
    n_layer: int = option(2, "layers of the language model")
    n_head: int = option(4, "attention heads of the language model")
    n_embd: int = option(64, "hidden width of the language model")
    pretrain_steps: int = option(1600, "updates of the base model")
    pretrain_lr: float = option(4e-3, "peak learning rate of the base model")
    test_prompts: int = option(240, "held-out prompts an experiment")
    test_samples: int = option(8, "responses a held-out prompt")
    votes: int = option(32, "responses a held-out prompt of a task that is voted on")
    oracle_prompts: int = option(96, "validation prompts of the oracle's search")
    out: str = option("out", "folder of results, figures and finished stages")


QUICK = dict(pretrain_steps=200, rounds=2, prompts=24, test_prompts=24, test_samples=2, votes=8,
             oracle_prompts=6, out="out/quick")
KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False",
         tuple: "a tuple"}
MAY_BE_ZERO = ("seed", "model_lr")


class Parser(argparse.ArgumentParser):
    """One sentence on stderr and exit status 2, without the usage that hides it."""

    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())}; see --help\n")


def flag(name):
    return "--" + name.replace("_", "-")


def parse(argv, description):
    """Arguments -> Config. What cannot run is one sentence on stderr and exit status 2."""
    return read(argv, description, Config, "--quick", QUICK, checked)


def read(argv, description, kind, small_flag, small, checked):
    """Arguments -> checked(a kind's instance), whose fields are the flags, each made by `option`.

    small_flag stands for some other values. checked: ValueError on what cannot run.
    """
    parser = Parser(description=description, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(small_flag, dest="small", action="store_true",
                        help=f"all of it in small, into {small['out']}")
    for f in fields(kind):
        default = ",".join(map(str, f.default)) if f.type is tuple else f.default
        choices = f.metadata["choices"]
        help = f.metadata["help"] + (f": {', '.join(choices)}" if choices else "")
        help = f"{help} (default {default})".replace("%", "%%")
        if f.type is bool:
            parser.add_argument(flag(f.name), default=None, action="store_true", help=help)
        elif f.type is tuple:
            parser.add_argument(flag(f.name), default=None, metavar="A,B", help=help)
        else:
            parser.add_argument(flag(f.name), default=None, metavar="X", type=f.type, help=help)
    given = {name: x for name, x in vars(parser.parse_args(argv)).items() if x is not None}
    if given.pop("small"):
        given = small | given
    for f in fields(kind):
        if f.type is tuple and isinstance(given.get(f.name), str):
            parts = given[f.name].split(",")
            given[f.name] = tuple(part.strip() for part in parts if part.strip())
    try:
        return checked(kind(**given))
    except ValueError as error:
        parser.error(str(error))


def checked(cfg):
    """The Config with its device filled in; ValueError on a value that cannot run."""
    for f in fields(cfg):
        check_value(f, getattr(cfg, f.name))
    try:
        choices = tuple(map(choice_of, cfg.choices))
        AdaptiveDecoder(1, choices)
    except ValueError as error:
        raise ValueError(f"--choices: {error}") from None
    if choices == (0.0,):
        raise ValueError("--choices 0 writes one response a prompt, which makes no pair; give one "
                         "above 0 too")
    cfg = replace(cfg, choices=tuple(map(label, choices)))
    GPTConfig(1, 1, cfg.n_layer, cfg.n_head, cfg.n_embd)
    if cfg.pairing == "top-k":
        for experiment in cfg.experiments:
            names = EXPERIMENTS[experiment]
            if len(names) > 1 or not TASKS[names[0]].criteria:
                able = [e for e, names in EXPERIMENTS.items()
                        if len(names) == 1 and TASKS[names[0]].criteria]
                raise ValueError(f"--pairing top-k needs two criteria, and {experiment} has none; "
                                 f"add --experiments {','.join(able)}")
    if cfg.responses < 2 or cfg.pairing == "top-k" and cfg.top_k > cfg.responses // 2:
        raise ValueError(f"--responses is {cfg.responses}; pairs need 2, top-k twice --top-k")
    check_numpy()
    return replace(cfg, device=checked_device(cfg.device))


def check_value(f, value):
    """ValueError unless the value is one that the field may have."""
    values = value if f.type is tuple else (value,)
    choices = f.metadata["choices"]
    if not isinstance(value, (int, float) if f.type is float else f.type):
        raise ValueError(f"{flag(f.name)} is {value!r}; give {KINDS[f.type]}")
    if choices and not (values and set(values) <= set(choices)):
        raise ValueError(f"{flag(f.name)} is {', '.join(map(str, values)) or 'empty'}; choose from "
                         f"{', '.join(choices)}")
    if choices and len(set(values)) < len(values):
        raise ValueError(f"{flag(f.name)} is {', '.join(map(str, values))}; name each once")
    if f.type is int:
        least = 0 if f.name in MAY_BE_ZERO else 1
        if not least <= value < 1e18:
            raise ValueError(f"{flag(f.name)} is {value}; give a finite number >= {least}")
    if f.type is float:
        fits = 0 <= value if f.name in MAY_BE_ZERO else 0 < value
        if not fits or not value < 1e18:
            sign = ">=" if f.name in MAY_BE_ZERO else ">"
            raise ValueError(f"{flag(f.name)} is {value}; give a finite number {sign} 0")


def check_numpy():
    """Old torch with numpy 2, as pip may pick on an Intel Mac, would fail after all the work."""
    try:
        torch.zeros(1).numpy()
    except RuntimeError:
        raise ValueError(f"torch {torch.__version__} cannot use the installed numpy; run "
                         "`pip install 'numpy<2'`") from None


def checked_device(device):
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda is not there; choose cpu")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device} is not supported; choose cpu or cuda")
    return device
