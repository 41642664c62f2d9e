"""Files, seeds and progress: what the programs need besides the method.

A file is written under a temporary name and renamed, so a killed run leaves none half-written.
"""
import contextlib
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import uuid
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent  # the project's folder


@contextlib.contextmanager
def program():
    """Errors that a user can fix, and Ctrl-C, end a program with one sentence."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path that the console cannot write
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # head or a pager has read enough
        os._exit(1)  # without another try to write what is left
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: the same command goes on from what is finished")


# --- files ----------------------------------------------------------------------------------------


def write(path, data):
    """Write bytes, or text as UTF-8, whole or not at all; ValueError if that is impossible."""
    path = Path(path)
    beside = path.with_name(f"{path.name}-{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(beside, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; make room or choose another "
                         "folder, then run the same command again") from None
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never written
            beside.unlink()


def read(path):
    """What `kept` wrote; ValueError on a damaged file. Pickled code is never run."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.testzip() is not None:
                raise ValueError("a checksum is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads to
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {str(error)[:60]!r}); delete "
                         "it and run again") from None


def kept(path, make):
    """make()'s result, a dict, with the environment that made it; from the file if there is one."""
    if not path.exists():
        buffer = io.BytesIO()
        torch.save(make() | dict(environment=environment()), buffer)
        write(path, buffer.getvalue())
    return read(path)


def digest(options, *sources):
    """Ten letters that stand for options (JSON-able) and for the project's files that use them."""
    texts = [(ROOT / source).read_text(encoding="utf-8") for source in sources]
    return hashlib.sha256(json.dumps([options, texts]).encode()).hexdigest()[:10]


def keys(options):
    """What names the files of a main job's base model and of its decoders.  dict -> two digests

    Options that only choose what is trained or evaluated have no part in it.
    """
    def chosen(*starts):
        return {name: x for name, x in options.items() if name.startswith(starts)}
    of_base = digest(chosen("seed", "device", "n_", "pretrain"), "model.py", "tasks.py",
                     "toy/models.py", "toy/files.py", "fast/record.py")
    of_decoders = digest([of_base, chosen("choices", "beta", "lr", "rounds", "prompts", "responses",
                                          "steps", "pairing", "top_k", "reference", "decoder_ref",
                                          "model_lr")],
                         "lpo.py", "decoder.py", "train_toy.py", "toy/evaluate.py",
                         "toy/samplers.py", "fast/generate.py")
    return of_base, of_decoders


def environment():
    """What made the numbers. The commit is None outside a clone of this project."""
    command = ["git", "--git-dir", ".git", "describe", "--always", "--dirty", "--abbrev=10"]
    commit = None
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no clone
        commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                                check=True).stdout.strip()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(python=platform.python_version(), torch=str(torch.__version__), gpu=gpu,
                machine=platform.machine(), threads=torch.get_num_threads(), commit=commit)


# --- seeds ----------------------------------------------------------------------------------------


def randomness(device, *purpose):
    """Generators of torch and numpy for one part of a job, seeded from its purpose alone."""
    seed = zlib.crc32(repr(purpose).encode())
    torch.manual_seed(seed)  # initial weights have no generator argument
    return torch.Generator(device).manual_seed(seed), np.random.default_rng(seed)


# --- progress -------------------------------------------------------------------------------------


class Progress:
    """How far something is: one live line on a terminal, elsewhere a line every 15 seconds."""

    def __init__(self, label, total):
        self.label = label
        self.total = total
        self.start = self.shown = time.monotonic()

    def __call__(self, done, text=lambda: ""):
        """done of the total are finished; text is called only when a line is written."""
        now = time.monotonic()
        live = sys.stderr is not None and sys.stderr.isatty()
        if sys.stderr is None or now - self.shown < (0.1 if live else 15):
            return
        self.shown = now
        left = int((now - self.start) * (self.total - done) / done)
        line = (f"{self.label}  {done}/{self.total}  {done / (now - self.start):.1f}/s  "
                f"{left // 60}:{left % 60:02d} left  {text()}")
        width = shutil.get_terminal_size().columns - 1  # a longer line could not be overwritten
        print(f"\r{line[:width].ljust(width)}" if live else line, end="" if live else "\n",
              file=sys.stderr, flush=True)


def say(text):
    """A line that stays, in place of a live one."""
    if sys.stderr is not None and sys.stderr.isatty():
        print("\r".ljust(shutil.get_terminal_size().columns) + "\r", end="", file=sys.stderr)
    print(text, flush=True)
