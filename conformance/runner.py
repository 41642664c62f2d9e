"""Runs code that is not ours, and reports on it: for check.py, check_model.py and the exercises.

Their module runs in a process of its own, which only answers questions: comparing, counting and
the exit status are ours. So a crash, `sys.exit`, a changed numpy or modules named as ours change
no verdict. This protects against accidents, not against intent.
"""
import argparse
import fnmatch
import hashlib
import importlib.util
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np

VERSION, HERE = "0.3.0", Path(__file__).resolve().parent
ANSWER = "--answer-questions"  # the command line of the other process


class Miss(Exception):
    """What is wrong, on one line. evidence: what a cause is found from, or None."""

    def __init__(self, line, evidence=None):
        super().__init__(line)
        self.evidence = evidence


class Skip(Exception):
    """Not answered, which is allowed."""


def require(fits, line):
    if not fits:
        raise Miss(line)


def real(x):
    """Numbers as a float64 array; numpy would read "1" and True, too."""
    x = np.asarray(x)
    if x.dtype == bool or not np.can_cast(x.dtype, float, "same_kind"):
        raise TypeError(f"real numbers expected, not {x.dtype}")
    return x.astype(float)


# ---- their module, in another process ----------------------------------------------------------

class Process:
    """functions: the names of theirs, or None if the module could not be loaded
    ended: why it answers no more, or None
    """

    def __init__(self, page, name, dtype, seconds):
        """page: the program that calls `serve`"""
        self.replies, self.ended = queue.Queue(), None
        self.seconds = seconds if seconds < 1e6 else None  # no clock knows infinity
        self.process = subprocess.Popen([sys.executable, "-u", page, ANSWER], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, start_new_session=True)
        threading.Thread(target=self.listen, daemon=True).start()
        path = [folder for folder in sys.path if Path(folder).resolve() != HERE]
        kind, what = self.exchange("the import", (name, dtype, path))
        self.functions = what if kind == "gave" else None
        self.ended = what if kind == "raised" else self.ended

    def ask(self, function, *given):
        """-> "gave", lists and numbers; "raised", words; "skipped", None; or "ended", words"""
        return tuple(self.exchange(function, (function, *given)))

    def exchange(self, who, message):
        """Send one message and wait for the reply to it."""
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
            reply = self.replies.get(timeout=self.seconds)
        except OSError:  # the process has ended
            reply = None
        except queue.Empty:
            self.ended = f"{who} gave no answer within {self.seconds:g} s (see --timeout)"
            return "ended", self.ended
        if reply is None:
            self.ended = f"{who} ended the process"
            return "ended", self.ended
        return json.loads(reply)  # not pickle, which could run code of theirs

    def listen(self):
        for line in self.process.stdout:
            self.replies.put(line)
        self.replies.put(None)

    def stop(self):
        """End the process and whatever it started."""
        end_group(self.process.pid, self.process.kill)
        self.process.wait()


def end_group(leader, otherwise):
    """SIGKILL to a process group; Windows has none."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (AttributeError, ProcessLookupError):
        otherwise()


class Here:
    """Their module in this process: as the other one has it, and for tests.

    made: functions of (module, ...) that are asked as if they were theirs
    """

    def __init__(self, module, made=None):
        self.module, self.made, self.ended = module, made or {}, None
        self.functions = [name for name, x in vars(module).items() if callable(x)]

    def ask(self, function, *given):
        try:
            if function in self.made:
                answer = self.made[function](self.module, *given)
            else:
                answer = getattr(self.module, function)(*given)
            return "gave", json.loads(json.dumps(answer, default=plain))
        except NotImplementedError:
            return "skipped", None
        except BaseException as error:  # sys.exit too: whatever their code raises is the result
            return "raised", words(error)


def plain(x):
    """What JSON does not know: arrays and numbers of numpy, and of what numpy can read."""
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"the answer holds {type(x).__name__}; give numbers, lists or arrays")
    return (array.astype(float) if array.dtype.kind == "f" else array).tolist()


def words(error):
    """On one line, whatever they wrote."""
    return ascii(f"{type(error).__name__}: {error}")[1:-1][:300]


def serve(made=None):
    """What the other process does: load their module, then answer until it is stopped."""
    stdin, replies, questions = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w"), queue.Queue()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what they print goes to stderr, not between our lines
    threading.Thread(target=receive, args=(stdin, questions), daemon=True).start()
    name, dtype, sys.path[:] = questions.get()
    sys.argv[:] = [name]
    for ours, module in list(sys.modules.items()):  # they may have their own of that name
        if Path(getattr(module, "__file__", None) or "/").parent == HERE and ours != "__main__":
            del sys.modules[ours]
    try:
        module = load_module(name)
        module.DTYPE = dtype
        theirs = Here(module, made)
        reply = "gave", theirs.functions
    except BaseException as error:
        reply = "raised", words(error)
    while True:
        print(json.dumps(reply), file=replies, flush=True)
        question = questions.get()  # none comes after a module that could not be loaded
        reply = theirs.ask(*question)


def receive(stdin, questions):
    """In a thread: whoever asks may be killed while theirs hangs."""
    try:
        while True:
            questions.put(pickle.load(stdin))
    finally:
        end_group(os.getpid(), lambda: os._exit(1))


def load_module(name):
    """By module name, the working directory included, or by the path of a .py file."""
    path = Path(name)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- questions and verdicts --------------------------------------------------------------------

def asked(theirs, function, *given):
    """Their answer; Skip or Miss if there is none."""
    kind, what = theirs.ask(function, *given)
    if kind == "skipped":
        raise Skip
    require(kind == "gave", what if kind == "ended" else f"{function} raised {what}")
    return what


def verdict(judge, theirs):
    """-> "pass", words, largest error or None; "MISS", line, evidence; or "skip", words, None

    judge: function of theirs that gives words and an error, or raises Miss or Skip
    """
    try:
        return "pass", *judge(theirs)
    except Skip as skip:
        return "skip", str(skip) or "not implemented", None
    except Miss as miss:
        return "MISS", str(miss), miss.evidence
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        return "MISS", f"the answer does not fit: {words(error)}", None


def run(theirs, questions, look_at, explain, args):
    """Print a line for each question and a summary.  -> exit status

    questions: (name, [(function, judge)]); look_at: {function: where a mistake of it may be};
    explain(evidence) -> [(cause, how many misses it explains)]
    """
    marks = {function: Counter() for function in look_at}
    worst, evidence, lines, needed = {}, [], [], set()
    for name, parts in questions:
        results, of_question = [], []
        needed |= {function for function, _ in parts}
        for function, judge in parts:
            if function in theirs.functions and not theirs.ended:
                status, line, more = verdict(judge, theirs)
                results.append((status, line))
                marks[function][status] += 1
                if status == "MISS":
                    of_question += [more] * (more is not None)
                elif more is not None:
                    worst[function] = max(more, worst.get(function, 0.0))
        evidence += of_question[:1]  # what follows from a wrong number is wrong, too
        if not results:  # of functions that they do not have
            continue
        status = next((s for s in ("MISS", "pass") if s in dict(results)), "skip")
        line = " ".join(line for s, line in results if s == status)
        lines.append(dict(name=name, status=status, line=line))
        print(f"{status}  {name}  {line}", flush=True)
        if theirs.ended:
            print(f"stopped here: {theirs.ended}")
            break
    count = Counter(line["status"] for line in lines)
    print(f"\n{count['pass']} passed, {count['MISS']} missed, {count['skip']} skipped, "
          f"in {args.dtype}")
    for function, n in marks.items():
        error = f", largest error {worst[function]:.1e}" if function in worst else ""
        missing = function in needed and function not in theirs.functions
        absent = "skipped, not supplied" if missing else "not asked"
        print(f"{function}: " + (f"{n['pass']} right, {n['MISS']} wrong, {n['skip']} skipped{error}"
                                 if n else absent))
    wrong = [function for function, n in marks.items() if n["MISS"]]
    right = [function for function, n in marks.items() if n["pass"] and not n["MISS"]]
    if wrong and not theirs.ended:
        print(f"verdict: {', '.join(right)}{' right, ' * bool(right)}{wrong[0]} wrong: look at "
              f"{look_at[wrong[0]]}")
    causes = explained(explain, evidence)
    for cause, n in causes:
        print(f"likely cause of {n} of {count['MISS']}: {cause}")
    status = 1 if count["MISS"] else 0 if count["pass"] else 2
    if not needed:
        print("nothing ran: --only and --skip leave no name (see --list)")
    elif status == 2:
        print(f"nothing ran: define at least one of {', '.join(look_at)} (see --help)")
    return reported(args, status, marks, lines, causes)


def reported(args, status, marks=(), lines=(), causes=()):
    """Write what --json asks for.  -> the status"""
    if args.json:
        report = dict(status=status, schema=1, kit=kit(), commit=commit(args.module),
                      module=args.module, dtype=args.dtype, marks=dict(marks), cases=lines,
                      causes=[dict(cause=cause, misses=n) for cause, n in causes])
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return status


def explained(explain, evidence):
    """[(cause, how many misses it explains)]. An error of the search costs the causes only."""
    try:
        return explain(evidence) if evidence else []
    except Exception as error:
        print(f"no cause: the search for one raised {words(error)}")
        return []


def kit():
    """The version of this kit and, since copies get changed, a digest of its files."""
    files = sorted(path for path in HERE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    content = b"".join(path.read_bytes() for path in files)
    return f"{VERSION} {hashlib.sha256(content).hexdigest()[:12]}"


def commit(module):
    """Of the repository that holds their module, "+" behind it if it is changed; or None."""
    folder = Path(module).resolve().parent if module.endswith(".py") else Path.cwd()
    command = "describe --always --abbrev=40 --exclude=* --dirty=+".split()
    try:
        return subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True,
                              check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# ---- the command line --------------------------------------------------------------------------

def parser(page, dtypes):
    """The options that both checkers have; page: the program's docstring."""
    options = argparse.ArgumentParser(description=page,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("module", nargs="?", help="module name, or path of a .py file")
    options.add_argument("--dtype", choices=dtypes, default="float64")
    options.add_argument("--only", metavar="PATTERN", nargs="+",
                         help="names that hold one of these; * stands for anything")
    options.add_argument("--skip", metavar="FILE", help="without the names in this file, one per "
                         "line; lines that begin with MISS will do")
    options.add_argument("--timeout", type=seconds, default=300, metavar="SECONDS",
                         help="for the import and for every single call; inf (default: 300)")
    options.add_argument("--list", action="store_true", help="print the names of the questions")
    options.add_argument("--json", metavar="FILE", help="write status, marks and causes to FILE")
    options.add_argument("--version", action="version", version=kit())
    return options


def seconds(text):
    if not float(text) > 0:
        raise argparse.ArgumentTypeError(f"{text} came; give a number of seconds above 0")
    return float(text)


def parse(options, argv, known):
    """The arguments, checked; known: every name that --skip may hold."""
    args = options.parse_args(argv)
    if args.module is None and not args.list:
        options.error("name a module or a .py file, or give --list")
    try:
        lines = Path(args.skip).read_text(encoding="utf-8").splitlines() if args.skip else []
    except OSError as error:
        options.error(f"--skip: {error}")
    try:
        if args.json and not args.list:
            Path(args.json).write_text("", encoding="utf-8")  # none of an earlier run stays
    except OSError as error:
        options.error(f"--json: {error}")
    args.skip = {line.split("#")[0].removeprefix("MISS").strip().split("  ")[0] for line in lines}
    for name in args.skip - {"", *known}:
        if "-fuzz-" not in name:
            options.error(f"--skip: nothing is named {name!r}; see --list")
    return args


def wanted(name, args):
    """Whether --only and --skip leave a question; --skip of a golden case skips its random ones."""
    kind = name.split("-fuzz-")[0]
    only = [fnmatch.fnmatchcase(name, f"*{pattern}*") for pattern in args.only or "*"]
    return any(only) and not {name, kind} & args.skip


def check(page, args, questions, look_at, explain):
    """A whole run, or a list of the questions.  -> exit status"""
    if args.list:
        for name, _ in questions:
            print(name)
        return 0
    theirs = Process(page, args.module, args.dtype, args.timeout)
    try:
        if theirs.functions is None:
            print(f"cannot import {args.module}: {theirs.ended}")
            return reported(args, 2)
        return run(theirs, questions, look_at, explain, args)
    finally:
        theirs.stop()


def program(main, made=None):
    """What a program does: answer questions, or main() with an end that has no traceback."""
    if sys.argv[1:] == [ANSWER]:
        serve(made)
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our lines has gone: there is no verdict
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    except KeyboardInterrupt:
        print("interrupted: no verdict", file=sys.stderr)
        status = 130
    sys.exit(status)
