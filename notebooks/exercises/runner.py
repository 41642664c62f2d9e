"""A student's file in a process of its own: it may crash, hang, print or start other processes.

    answers(path, "posterior", questions, seconds)

gives one answer per question, or a sentence on why there is none. An answer is plain numbers, lists
and texts; {"raises": words}; or None, if the function is not written yet. The other process answers
in JSON, so that nothing of theirs runs here.
"""
import contextlib
import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path


def answers(path, function, questions, seconds):
    process = subprocess.Popen([sys.executable, __file__, str(path)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, start_new_session=True)
    try:
        replies, _ = process.communicate(pickle.dumps((function, questions)), min(seconds, 1e6))
    except subprocess.TimeoutExpired:
        return f"{function} gave no answer within {seconds:g} s (see --timeout)"
    finally:  # with all that it started
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
    return json.loads(replies) if replies else f"{function} ended the process"


def answer(module, function, given):
    """One answer, in JSON's types."""
    from notebooks.exercises.harness import MADE
    try:
        made = MADE.get(function)
        result = made(module, *given) if made else getattr(module, function)(*given)
        if result is None:
            raise TypeError("it returned None; is a `return` missing?")
        return json.loads(json.dumps(result, default=lambda x: x.tolist()))
    except NotImplementedError:
        return None
    except BaseException as error:  # sys.exit too: whatever their code raises is the result
        return {"raises": ascii(f"{type(error).__name__}: {error}")[1:-1][:300]}


def serve(path):
    """In the other process: read the questions and the file, and reply."""
    replies = os.fdopen(os.dup(1), "w")
    try:
        function, questions = pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):
        return  # whoever asks was interrupted
    os.dup2(2, 1)  # what they print goes to stderr, not among the replies
    spec = importlib.util.spec_from_file_location("checked", path)
    module = sys.modules["checked"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        reply = [answer(module, function, given) for given in questions]
    except BaseException as error:
        reply = f"the file cannot be read: {type(error).__name__}: {error}"
    json.dump(reply, replies)


if __name__ == "__main__":
    theirs = Path(sys.argv[1]).resolve()
    sys.path[:1] = [str(theirs.parent), str(Path(__file__).resolve().parents[2])]
    serve(theirs)
