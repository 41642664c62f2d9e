"""A stage is computed once: its result is kept in a file and read back while nothing it depends on
has changed. Files are written beside and renamed, so that a killed run leaves none half-written."""
import contextlib
import hashlib
import inspect
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
FORMAT = 2


# --- what a stage is of ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a stage computes. Its fields are columns of the table of results."""
    base_seed: int
    experiment: str | None = None  # None: the base model itself
    level: str | None = None       # None: every fixed temperature and the oracle
    variant: str | None = None
    seed: int | None = None        # of the decoder

    @property
    def name(self):
        parts = [f"base{self.base_seed}", self.experiment, self.variant]
        if self.level is not None:
            parts.append(f"{self.level}{self.seed}")
        return "-".join(part for part in parts if part is not None)

    @property
    def columns(self):
        return asdict(self)

    def seeds(self, purpose):
        """What seeds a purpose: variants of the loss share prompts and first samples."""
        return purpose, self.experiment, self.base_seed, self.level, self.seed


def randomness(device, *seeds):
    """A stage's own torch and numpy generators, seeded from its purpose and seeds alone."""
    seed = zlib.crc32(repr(seeds).encode())
    torch.manual_seed(seed)  # initial weights have no generator argument
    return torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)


def environment(device):
    """Where numbers are made: whoever reads them later wants to know."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None  # no git, or a folder without history
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return dict(python=platform.python_version(), torch=str(torch.__version__), device=device,
                machine=name, threads=torch.get_num_threads(), commit=commit)


def code_of(*parts):
    """The source of functions and of the project's files: what a stage depends on too."""
    return "".join((ROOT / part).read_text(encoding="utf-8") if isinstance(part, str)
                   else inspect.getsource(part) for part in parts)


# --- files ----------------------------------------------------------------------------------------


def write(path, data):
    """Write bytes or text beside path, then rename; ValueError where that cannot be done."""
    data = data.encode() if isinstance(data, str) else data
    beside = path.with_name(f"{path.name}-{os.getpid()}.tmp")  # another run may write the same file
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise ValueError(f"cannot write {path}: {error.strerror}; make room or choose another "
                         "folder with --out, then run the same command again") from None


def read(path):
    """The result kept in path. Pickled code is never run (weights_only)."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                raise ValueError("checksum")
        kept = torch.load(path, map_location="cpu", weights_only=True)
        if kept["format"] != FORMAT:
            raise ValueError(f"format {kept['format']}")
        if kept["stage"] != path.stem:
            raise ValueError(f"it holds {kept['stage']}")
    except Exception as error:  # torch raises whatever the damage makes it trip over
        raise ValueError(f"{path} is damaged, or of another program or configuration ("
                         f"{type(error).__name__}: {str(error)[:60]!r}); delete it and run again"
                         ) from None
    return kept


# --- a run of many stages -------------------------------------------------------------------------


@contextlib.contextmanager
def program():
    """Around a program: a wrong value or file, a missing package, Ctrl-C end it in a sentence."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command goes on from what is finished")


class Stages:
    """Runs the stages of a plan {name: expected cost} and says how far it is: one live line on a
    terminal, elsewhere (a log, a notebook) a plain one every 15 seconds."""

    def __init__(self, folder, plan, device="cpu"):
        self.folder = Path(folder)
        self.plan = plan
        self.environment = environment(device)
        self.finished = {}  # stage -> dict(seconds, environment, file)
        self.start = self.shown = time.monotonic()
        self.spent = 0.0  # of the plan's cost, in this run
        write(self.folder / "stages" / "probe", "find out now whether this folder can be written")
        (self.folder / "stages" / "probe").unlink(missing_ok=True)

    def __call__(self, name, key, compute):
        """compute() -> a dict, or the one kept for the same name and key (JSON-able)."""
        self.name = name
        depends = [key, torch.__version__, code_of("toy/stages.py")]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / "stages" / f"{name}-{digest}.pt"
        if path.exists():
            kept = read(path)
            self.say(f"{name}: kept from an earlier run")
        else:
            began = time.monotonic()
            kept = dict(format=FORMAT, stage=path.stem, environment=self.environment,
                        result=compute())
            kept["seconds"] = round(time.monotonic() - began, 2)
            buffer = io.BytesIO()
            torch.save(kept, buffer)
            write(path, buffer.getvalue())
            self.spent += self.plan[name]
            self.say(f"{name}: {kept['seconds']:.1f} s")
        self.finished[name] = dict(seconds=kept["seconds"], environment=kept["environment"],
                                   file=path.name)
        return kept["result"]

    def tick(self, fraction, text=""):
        """The current stage is so far. text: a text, or a function that makes it when it is shown,
        since a GPU has to be waited for before a number of it is known."""
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - self.shown < (0.1 if live else 15):
            return
        self.shown = now
        cost = self.plan[self.name]
        spent = self.spent + cost * fraction
        ahead = sum(cost for name, cost in self.plan.items() if name not in self.finished)
        left = "time left: measuring"  # until there is a step to judge by
        if spent > 0:
            seconds = int((now - self.start) * (ahead - cost * fraction) / spent)
            left = f"{seconds // 60}:{seconds % 60:02d} left"
        text = text() if callable(text) else text
        line = (f"[{len(self.finished) + 1}/{len(self.plan)}] {self.name} {fraction:4.0%}  {left}  "
                f"{text}")
        width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be overwritten
        print(f"\r\x1b[K{line[:width]}" if live else line, end="" if live else "\n",
              file=sys.stderr, flush=True)

    def say(self, text):
        """A line that stays."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(text, flush=True)


class Silent:
    """Where a stage reports to that nobody watches."""

    def tick(self, *_):
        pass

    say = tick
