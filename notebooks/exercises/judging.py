"""How a judge asks and compares: questions with known answers, and golden cases through check.py.

A judge asks a student's functions through `theirs` and returns nothing if they are right; else it
raises NotYet or Wrong, with the likely mistake as a hint. A hint is given where a known mistake,
computed beside the right answer, has the very numbers that came.
"""
import re
from typing import NamedTuple

import check
import numpy as np
import oracle
import runner
from cases import golden
from mistakes import causes, remark

ALLOWED = 1e-9


class NotYet(Exception):
    """Raises NotImplementedError."""


class Wrong(Exception):
    """What came and what was expected; hint: the likely mistake, or None."""

    def __init__(self, line, hint=None):
        super().__init__(line)
        self.hint = hint


def verdict(theirs, name, judge, student):
    """-> "right", "not yet" or "wrong", a line, a hint"""
    try:
        if theirs.ended:
            raise Wrong(theirs.ended)
        judge(theirs, student)
    except NotYet:
        return "not yet", "", None
    except Wrong as wrong:
        return "wrong", str(wrong), wrong.hint
    return "right", "", None


def asked(theirs, function, *given):
    """Their answer."""
    kind, what = theirs.ask(function, *given)
    if kind == "skipped":
        raise NotYet
    if kind == "ended":
        raise Wrong(what)
    absent = re.match(r"AttributeError: (?:module|'?types).* has no attribute '(\w+)'", what) \
        if kind == "raised" else None
    if absent:
        raise Wrong(f"there is no {absent[1]} in the file; keep the names of the exercise")
    if kind == "raised":
        raise Wrong(f"raised {what}")
    return what


# --- questions with a known answer ----------------------------------------------------------------


class Question(NamedTuple):
    words: str    # what is asked, as a student would say it
    given: tuple
    want: object  # numbers


def numbers(what):
    if what is None:
        raise Wrong("gave nothing; is a `return` missing?")
    try:
        return runner.real(what)
    except (TypeError, ValueError) as error:
        raise Wrong(f"gave {what!r:.60}: {error}") from None


def same(x, y):
    x, y = np.asarray(x, float), np.asarray(y, float)
    return x.shape == y.shape and np.allclose(x, y, rtol=ALLOWED, atol=ALLOWED, equal_nan=True)


def shown(x):
    """Numbers as text, four digits of each."""
    x = np.asarray(x, float)
    return f"{x:.4g}" if x.ndim == 0 else f"[{', '.join(map(shown, x))}]"


def difference(came, want):
    """What came and what was expected; of large arrays the first row that differs."""
    where = ""
    if came.size > 8:
        first = next(i for i in np.ndindex(came.shape[:-1]) if not same(came[i], want[i]))
        came, want, where = came[first], want[first], f"row {[*first]}: "
    return f"{where}came {shown(came)}, expected {shown(want)}"


def judged(theirs, function, questions, mistakes):
    """Every question; Wrong on the first that misses, with the mistake that explains most answers.

    mistakes: {hint: function of the same arguments}. One is named if it gives more than half of the
    wrong answers; of several the one that is also right where the student is.
    """
    missed, right = [], []  # (question, line, answer or the exception's name)
    for question in questions:
        try:
            came = numbers(asked(theirs, function, *question.given))
        except Wrong as wrong:
            if theirs.ended:
                raise
            missed.append((question, f"{question.words}: {wrong}", raised(str(wrong))))
            continue
        want = np.asarray(question.want, float)
        if came.shape != want.shape:
            line = f"{question.words}: came the shape {came.shape}, expected {want.shape}"
            missed.append((question, line, came))
        elif not same(came, want):
            line = f"{question.words}: {difference(came, want)}"
            missed.append((question, line, came))
        else:
            right.append((question, "", came))
    if not missed:
        return
    counts = {hint: sum(does(mistake, *of) for of in missed) for hint, mistake in mistakes.items()}
    known = {hint: n + sum(does(mistakes[hint], *of) for of in right)
             for hint, n in counts.items() if 2 * n > len(missed)}
    raise Wrong(missed[0][1], max(known, key=known.get, default=None))


def raised(line):
    return line.removeprefix("raised ").split(":")[0]


def does(mistake, question, line, came):
    """Whether a mistake gives what came."""
    try:
        with np.errstate(all="ignore"):
            other = mistake(*question.given)
    except Exception as error:
        return came == type(error).__name__ if isinstance(came, str) else False
    return not isinstance(came, str) and same(came, other)


# --- arrays, of the oracle's log-softmax ----------------------------------------------------------


def softmax(x):
    x = np.exp(np.asarray(x, float))
    return x / x.sum()


def log(x):
    with np.errstate(divide="ignore"):
        return np.log(x)


def stable(logits, tau):
    return oracle.choice_logps(np.asarray(logits, float), tau)


# --- golden cases, through check.py ---------------------------------------------------------------

CASES = golden()


def by_cases(theirs, function, cases, call):
    """All cases; Wrong with check.py's line on the first that misses and its likely cause.

    call(case) -> {label: array}: what check.py would get of the function.
    """
    wrongs, first, right = [], None, 0
    for case in cases:
        try:
            check.compare(function, case, {label: numbers(x) for label, x in call(case).items()},
                          "float64", {})
            right += 1
        except runner.Miss as miss:
            first = first or f"{case['name']}: {miss}"
            wrongs += [miss.evidence]
        except Wrong as wrong:
            if theirs.ended:
                raise
            first = first or f"{case['name']}: {function} {wrong}"
    if first:
        likely = causes(wrongs[:6], remark, few=6)
        raise Wrong(f"{right} of {len(cases)} golden cases right; {first}",
                    likely[0][0] if likely else None)


def on_paper_first(by_hand, then):
    """Two judges; where both find fault, the line is the first one's and the hint the second's."""
    try:
        by_hand()
    except Wrong as wrong:
        try:
            then()
        except Wrong as other:
            raise Wrong(str(wrong), wrong.hint or other.hint) from None
        raise
    then()


def rows_of(case, side):
    """Each response of a side without its padding, as the equations have it: arrays by name."""
    for r in oracle.responses(case, side):
        at = r.positions()
        text, ref_text = ([[oracle.text_logp(logits[t], r.tokens[t], tau)
                            for tau in r.temperatures] for t in at]
                          for logits in (r.logits, r.ref_logits))
        columns = [r.column(t) for t in at]
        taus, ref_taus = ([oracle.log_softmax(logits[c]) for c in columns]
                          if logits is not None else None
                          for logits in (r.tau_logits, r.ref_tau_logits))
        K = len(r.temperatures)
        yield {"tau_logps": np.array(taus), "tau_idx": np.array([r.tau_idx[c] for c in columns]),
               "text_logps": np.array(text), "ref_text_logps": np.array(ref_text),
               "ref_tau_logps": np.array(ref_taus or [[-np.log(K)] * K] * len(at))}


def of_variant(variant, level=None, reference=None):
    """Golden cases of one variant, by level and by whether the decoder has a reference."""
    return [case for case in CASES if case["variant"] == variant and not case["exact_sequence"]
            and level in (None, case["level"])
            and reference in (None, case["chosen"]["ref_decoder_logits"] is not None)]
