"""The command line of train_toy.py: one frozen dataclass, whose fields are the flags."""
import argparse
from dataclasses import dataclass, field, fields, replace

import torch

from decoder import LEVELS, checked_temperatures
from lpo import VARIANTS
from model import GPTConfig
from tasks import EXPERIMENTS


def option(default, help, choices=None):
    return field(default=default, metadata=dict(help=help, choices=choices))


@dataclass(frozen=True)
class Config:
    experiments: tuple = option(tuple(EXPERIMENTS), "comma-separated", tuple(EXPERIMENTS))
    levels: tuple = option(LEVELS, "a temperature a token, or one a response", LEVELS)
    variants: tuple = option(("latent",), "losses, comma-separated", (*VARIANTS, "nll"))
    temperatures: tuple = option((0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2), "choices, comma-separated")
    beta: float = option(0.5, "larger stays closer to the reference")
    lr: float = option(2e-3, "the decoder's learning rate in round one; then it falls linearly")
    rounds: int = option(6, "times sample -> pair -> update")
    prompts: int = option(120, "training prompts a round")
    responses: int = option(8, "responses a training prompt")
    steps: int = option(20, "updates a round, each on all its pairs")
    pairing: str = option("best-worst", "which responses make pairs; top-k: constrained only",
                          ("best-worst", "top-k", "all"))
    top_k: int = option(3, "k of --pairing top-k")
    reference: str = option("round", "what sampled the round's pairs, or the first round's",
                            ("round", "initial"))
    decoder_reference: bool = option(False, "a decoder reference in joint and separate too")
    exact_sequence: bool = option(False, "the exact marginal in latent at the sequence level")
    model_lr: float = option(0.0, "learning rate of the language model; 0 keeps it frozen")
    seed: int = option(0, "the first seed")
    seeds: int = option(1, "decoders trained on each base model")
    base_seeds: int = option(1, "base models pretrained")
    device: str = option("auto", "cpu, cuda, or auto: a GPU when there is one")
    n_layer: int = option(2, "layers of the language model")
    n_head: int = option(4, "attention heads of the language model")
    n_embd: int = option(64, "hidden width of the language model")
    pretrain_steps: int = option(2000, "updates of the base model")
    pretrain_lr: float = option(6e-3, "peak learning rate of the base model")
    test_prompts: int = option(240, "held-out prompts an experiment")
    test_samples: int = option(8, "responses a held-out prompt")
    votes: int = option(32, "responses a held-out prompt of the vote")
    oracle_prompts: int = option(96, "validation prompts of the oracle's search")
    out: str = option("out", "folder of results, figures and finished stages")


QUICK = dict(pretrain_steps=200, rounds=2, prompts=24, test_prompts=24, test_samples=2, votes=8,
             oracle_prompts=6, out="out/quick")


class Parser(argparse.ArgumentParser):
    """One sentence on stderr and exit status 2, without the usage that hides it."""

    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())}; see --help\n")


def parse(argv, description):
    """Arguments -> Config. What cannot run is one sentence on stderr and exit status 2."""
    parser = Parser(description=description, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all of it in small, into out/quick")
    for f in fields(Config):
        default = ",".join(map(str, f.default)) if f.type is tuple else f.default
        choices = f.metadata["choices"]
        help = f.metadata["help"] + (f": {', '.join(choices)}" if choices else "")
        how = dict(action="store_true") if f.type is bool else dict(
            type=str if f.type is tuple else f.type, metavar="A,B" if f.type is tuple else "X")
        parser.add_argument("--" + f.name.replace("_", "-"), default=None, **how,
                            help=f"{help} (default {default})".replace("%", "%%"))
    given = {name: x for name, x in vars(parser.parse_args(argv)).items() if x is not None}
    try:
        for f in fields(Config):
            if f.type is tuple and f.name in given:
                parts = given[f.name].split(",")
                given[f.name] = tuple(part.strip() for part in parts if part.strip())
        values = given if not given.pop("quick") else QUICK | given
        return checked(Config(**values))
    except ValueError as error:
        parser.error(str(error))


def checked(cfg):
    """The Config with its device filled in; ValueError on a value that cannot run."""
    for f in fields(cfg):
        name, value, choices = "--" + f.name.replace("_", "-"), getattr(cfg, f.name), f.metadata
        values = value if f.type is tuple else (value,)
        if not isinstance(value, (int, float) if f.type is float else f.type):
            raise ValueError(f"{name} is {value!r}; give a {f.type.__name__}")
        if choices["choices"] and not (values and set(values) <= set(choices["choices"])):
            raise ValueError(f"{name} is {', '.join(map(str, values)) or 'empty'}; choose from "
                             f"{', '.join(choices['choices'])}")
        if choices["choices"] and len(set(values)) < len(values):
            raise ValueError(f"{name} is {', '.join(map(str, values))}; name each once")
        least = {"seed": 0, "model_lr": 0}.get(f.name, 1 if f.type is int else 0)
        if f.type in (int, float):
            open_end = f.type is float and f.name != "model_lr"
            if not (least < value if open_end else least <= value) or not value < 1e18:
                raise ValueError(f"{name} is {value}; give a finite number "
                                 f"{'>' if open_end else '>='} {least}")
    try:
        cfg = replace(cfg, temperatures=tuple(map(float, cfg.temperatures)))
    except (ValueError, TypeError):
        raise ValueError(f"--temperatures is {cfg.temperatures}; give numbers") from None
    checked_temperatures(cfg.temperatures)
    GPTConfig(1, 1, cfg.n_layer, cfg.n_head, cfg.n_embd)
    if cfg.pairing == "top-k" and cfg.experiments != ("constrained",):
        raise ValueError("--pairing top-k needs two scores; add --experiments constrained")
    if cfg.responses < 2 or cfg.pairing == "top-k" and cfg.top_k > cfg.responses // 2:
        raise ValueError(f"--responses is {cfg.responses}; pairs need 2, top-k twice --top-k")
    if cfg.device == "auto":
        return replace(cfg, device="cuda" if torch.cuda.is_available() else "cpu")
    if cfg.device not in ("cpu", "cuda") or cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {cfg.device} is not there; choose cpu"
                         + (" or cuda" if torch.cuda.is_available() else ""))
    return cfg
