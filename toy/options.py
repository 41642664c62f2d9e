"""A program's command line, made from a dataclass: each field is a flag, made by `option`.

    @dataclass(frozen=True)
    class Config:
        beta: float = option(0.5, "larger stays closer to the reference")

    cfg = parse(Config, sys.argv[1:], __doc__, quick=dict(rounds=2))    # exits with one sentence
"""
import argparse
import os
from dataclasses import field, fields, replace

import torch

KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False",
         tuple: "values separated by commas"}


def option(default, help, zero=False, choices=None):
    """A field. zero: the number may be 0, not only above; choices: the only values allowed."""
    return field(default=default, metadata=dict(help=help, zero=zero, choices=choices))


class Parser(argparse.ArgumentParser):
    """One sentence on stderr and exit status 2, without the usage that would hide it."""

    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())}; see --help\n")


def flag(name):
    return "--" + name.replace("_", "-")


def parse(kind, argv, description, quick=None, check=lambda cfg: cfg):
    """Arguments -> a checked instance of the dataclass `kind`. quick: values of --quick.

    check: a function from an instance to the one to use; ValueError on what cannot run.
    """
    parser = Parser(description=description, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    if quick:
        parser.add_argument("--quick", action="store_true", help="a small run: " + ", ".join(
            f"{flag(name)} {value}" for name, value in quick.items()))
    for f in fields(kind):
        default = ",".join(map(str, f.default)) if f.type is tuple else f.default
        choices = f": {', '.join(f.metadata['choices'])}" if f.metadata["choices"] else ""
        how = dict(action="store_true") if f.type is bool else dict(
            metavar="A,B" if f.type is tuple else "X", type=str if f.type is tuple else f.type)
        parser.add_argument(flag(f.name), default=None, **how, help=(
            f"{f.metadata['help']}{choices} (default {default})".replace("%", "%%")))
    given = {name: x for name, x in vars(parser.parse_args(argv)).items() if x is not None}
    given = (quick if given.pop("quick", False) else {}) | given
    for f in fields(kind):
        if f.type is tuple and isinstance(given.get(f.name), str):
            given[f.name] = tuple(part.strip() for part in given[f.name].split(",") if part.strip())
    try:
        return check(checked(kind(**given)))
    except ValueError as error:
        parser.error(str(error))


def checked(cfg):
    """The same options, `out` without a tilde and `device` chosen; ValueError on a wrong value."""
    for f in fields(cfg):
        value, choices = getattr(cfg, f.name), f.metadata["choices"]
        values = value if f.type is tuple else (value,)
        shown = ",".join(map(str, values))
        if not isinstance(value, (int, float) if f.type is float else f.type):
            raise ValueError(f"{flag(f.name)} is {value!r}; give {KINDS[f.type]}")
        if choices and not (values and set(values) <= set(choices)):
            raise ValueError(f"{flag(f.name)} is {shown!r}; choose from {', '.join(choices)}")
        if len(set(values)) < len(values):
            raise ValueError(f"{flag(f.name)} is {shown}; give each once")
        if f.type in (int, float):
            if not (0 < value < 1e18 or value == 0 and f.metadata["zero"]):
                least = ">= 0" if f.metadata["zero"] else "> 0"
                raise ValueError(f"{flag(f.name)} is {value}; give a finite number {least}")
    changes = {}
    if hasattr(cfg, "out"):
        changes["out"] = os.path.expanduser(cfg.out)
    if hasattr(cfg, "device"):
        changes["device"] = checked_device(cfg.device)
    return replace(cfg, **changes)


def checked_device(device):
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device found; choose cpu")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device} is not supported; choose cpu or cuda")
    return device
