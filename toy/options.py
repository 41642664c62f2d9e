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

from lpo import require


def option(default, help, zero=False, choices=None):
    """A field. zero: the number may be 0, not only above; choices: the only values allowed."""
    return field(default=default, metadata=dict(help=help, zero=zero, choices=choices))


class Parser(argparse.ArgumentParser):
    """One sentence on stderr and exit status 2, without the usage that would hide it."""

    def error(self, message):
        self.exit(2, f"error: {' '.join(message.split())}; see --help\n")


def flag(name):
    return "--" + name.replace("_", "-")


def separated(text):
    return tuple(part.strip() for part in text.split(",") if part.strip())


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
        how = dict(type=f.type, metavar="X")
        if f.type is bool:
            how = dict(action="store_true")
        elif f.type is tuple:
            how = dict(type=separated, metavar="A,B")
        parser.add_argument(flag(f.name), default=argparse.SUPPRESS, **how, help=(
            f"{f.metadata['help']}{choices} (default {default})".replace("%", "%%")))
    given = vars(parser.parse_args(argv))
    values = (quick if given.pop("quick", False) else {}) | given
    cfg = kind(**values)
    try:
        for f in fields(kind):
            check_value(f, getattr(cfg, f.name))
        cfg = replace(cfg, out=os.path.expanduser(cfg.out))
        if hasattr(cfg, "device"):
            cfg = replace(cfg, device=checked_device(cfg.device))
        return check(cfg)
    except ValueError as error:
        parser.error(str(error))


def check_value(f, value):
    """ValueError on a value that the field does not allow."""
    values = value if f.type is tuple else (value,)
    name, shown, choices = flag(f.name), ",".join(map(str, values)), f.metadata["choices"]
    require(not choices or values and set(values) <= set(choices),
            f"{name} is {shown!r}; choose from {', '.join(choices or ())}")
    require(len(set(values)) == len(values), f"{name} is {shown}; give each once")
    if f.type in (int, float):
        least = ">= 0" if f.metadata["zero"] else "> 0"
        require(0 < value < 1e18 or value == 0 and f.metadata["zero"],
                f"{name} is {value}; give a finite number {least}")


def checked_device(device):
    """auto becomes cuda or cpu."""
    require(device in ("auto", "cpu", "cuda"), f"--device {device} is not supported; choose cpu or "
                                               "cuda")
    there = torch.cuda.is_available()
    require(there or device != "cuda", "--device cuda: no CUDA device found; choose cpu")
    if device == "auto":
        return "cuda" if there else "cpu"
    return device
