"""A stage is computed once: its result is kept in a file and read back while nothing it depends on
has changed. Files are written beside and renamed, so that a killed run leaves none half-written."""
import contextlib
import hashlib
import inspect
import io
import json
import os
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

FORMAT = 1


def randomness(device, *stage):
    """A stage's own torch and numpy generators, seeded from its name and keys alone."""
    seed = zlib.crc32(repr(stage).encode())
    torch.manual_seed(seed)  # initial weights have no generator argument
    return torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)


def write(path, data):
    """Write bytes or text beside path, then rename; ValueError where that cannot be done."""
    data = data.encode() if isinstance(data, str) else data
    beside = path.with_name(path.name + ".tmp")
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
        if kept.get("stage", path.stem) != path.stem:
            raise ValueError(f"it holds {kept['stage']}")
    except Exception as error:  # torch raises whatever the damage makes it trip over
        raise ValueError(f"{path} is damaged, or of another program or configuration ("
                         f"{type(error).__name__}: {str(error)[:60]!r}); delete it and run again"
                         ) from None
    return kept["result"]


def code_of(*parts):
    """The source of functions and of files beside this one: what a stage depends on too."""
    return "".join(Path(__file__).with_name(part).read_text() if isinstance(part, str)
                   else inspect.getsource(part) for part in parts)


class Stages:
    """Runs the stages of a plan {name: expected cost} and says how far it is: one live line on a
    terminal, elsewhere (a log, a notebook) a plain one every 15 seconds."""

    def __init__(self, folder, plan):
        self.folder, self.plan, self.done, self.seconds = Path(folder), plan, [], {}
        self.start = self.shown = time.monotonic()
        self.spent = 0.0
        probe = self.folder / "stages" / f"probe-{os.getpid()}"
        write(probe, "find out now whether this folder can be written")
        probe.unlink()

    def __call__(self, name, key, compute):
        """compute() -> a dict, or the one kept for the same name and key (JSON-able)."""
        self.name = name
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / "stages" / f"{name}-{digest}.pt"
        began = time.monotonic()
        if path.exists():
            result = read(path)
            self.say(f"{name}: kept from an earlier run")
        else:
            result = compute()
            result["seconds"] = time.monotonic() - began
            buffer = io.BytesIO()
            torch.save(dict(format=FORMAT, stage=path.stem, result=result), buffer)
            write(path, buffer.getvalue())
            self.spent += self.plan[name]
            self.say(f"{name}: {result['seconds']:.1f} s")
        self.seconds[name] = round(result["seconds"], 2)
        self.done.append(name)
        return result

    def tick(self, fraction, text=""):
        """The current stage is so far."""
        now, live = time.monotonic(), sys.stderr.isatty()
        if now - self.shown < (0.1 if live else 15):
            return
        self.shown = now
        here = self.plan[self.name]
        rest = sum(cost for name, cost in self.plan.items() if name not in self.done)
        rest -= here * fraction
        spent = self.spent + here * fraction
        left = int((now - self.start) * rest / spent if spent else rest)
        line = (f"[{len(self.done) + 1}/{len(self.plan)}] {self.name} {fraction:4.0%} {text}  "
                f"{left // 60}:{left % 60:02d} left")
        print(f"\r\x1b[K{line[:120]}" if live else line, end="" if live else "\n",
              file=sys.stderr, flush=True)

    def say(self, text):
        """A line that stays."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(text, flush=True)
