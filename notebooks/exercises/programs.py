"""Judges of exercises 7 to 11: a sampler, pairs, a task, a bug hunt, a setting of a sampler.

The sampler and the pairs are check_model.py's to judge, against enumerated odds and every
admissible answer; a task has rules (harness.py), a setting a definition that loops compute.
"""
import itertools
import math
import check_model
import gpt2
import numpy as np
import runner
import sampling

from notebooks.exercises import bug_hunt
from notebooks.exercises.judging import (NotYet, Question, Wrong, asked, judged, log,
                                         shown, stable)

INF = math.inf


# --- 7. the sampler -------------------------------------------------------------------------------

N_DRAWS, N_RESPONSES = 4000, 600
FALSE_ALARM = 1e-6  # of each function's judge


def likely(odds, counts, budget):
    """Whether counts could come from the odds.  (V,), (V,) -> bool"""
    n, budget = counts.sum(), budget / len(odds)
    return all(sampling.Trial("", int(hits), int(n), p).p_value() > budget
               for hits, p in zip(counts, odds))


def draw(theirs, student):
    for words, logps in (("a quarter and three quarters", np.log([0.25, 0.75])),
                         ("four words, one impossible", np.log([0.5, 0.3, 0.2, 1e-300])),
                         ("certainty", np.array([-INF, 0.0]))):
        logps[logps < -600] = -INF
        answer = asked(theirs, "draws", logps, N_DRAWS, 7)
        if not all(type(x) is int and 0 <= x < len(logps) for x in answer):
            raise Wrong(f"{words}: {answer[0]!r:.40} came, expected an index below {len(logps)}")
        odds, counts = np.exp(logps), np.bincount(answer, minlength=len(logps))
        if not likely(odds, counts, FALSE_ALARM / 3):
            raise Wrong(f"{words}: shares {shown(counts / N_DRAWS)} of {N_DRAWS} draws, expected "
                        f"{shown(odds)}", draw_hint(odds, counts))


def draw_hint(odds, counts):
    V = len(odds)
    known = {"the most likely one, always: draw from the probabilities": np.eye(V)[odds.argmax()],
             "all alike, the probabilities do not enter": np.full(V, 1 / V),
             "all possible ones alike": (odds > 0) / (odds > 0).sum(),
             "log-probabilities used as probabilities: take the exponential":
                 np.nan_to_num(np.clip(-log(odds), 0, 1e9)) / max(
                     np.clip(-log(odds), 0, 1e9).sum(), 1e-9)}
    return next((hint for hint, other in known.items() if likely(other, counts, FALSE_ALARM)), None)


def respond(theirs, student):
    for kind, select in itertools.product(("token", "sequence"), ("sample", "greedy")):
        try:
            check_model.check_generate(theirs, kind, select, N_RESPONSES, "float64",
                                       FALSE_ALARM / 4, check_model.KINDS[kind]["prompts"][:2])
        except runner.Skip:
            raise NotYet from None
        except runner.Miss as miss:
            if theirs.ended:
                raise Wrong(theirs.ended) from None
            hint = miss.evidence() if callable(miss.evidence) else miss.evidence
            raise Wrong(f"{kind} level, {select}: {miss}", hint) from None
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise Wrong(f"the answer does not fit: {runner.words(error)}",
                        "give a pair: a list of token ids, a list of indices of temperatures") \
                from None


# --- 8. pairs with ties ---------------------------------------------------------------------------


def pairs(theirs, student):
    missed, hints = [], []
    for how, name in itertools.product(("best-worst", "all"), check_model.REWARDS["all"]):
        try:
            check_model.check_pairs(theirs, how, name, "float64")
        except runner.Skip:
            raise NotYet from None
        except runner.Miss as miss:
            if theirs.ended:
                raise Wrong(theirs.ended) from None
            missed.append(f"{how}, {name}: {miss}")
            hints.append(miss.evidence)
        except (TypeError, ValueError) as error:
            raise Wrong(f"the answer does not fit: {runner.words(error)}",
                        "give a list of (prompt, chosen, rejected)") from None
    if missed:
        raise Wrong(missed[0], max(hints, key=lambda hint: (hint is not None, hints.count(hint))))


# --- 9. a task of one's own -----------------------------------------------------------------------


def task(theirs, student):
    broken = asked(theirs, "task")
    if broken:
        raise Wrong(broken)


# --- 10. the bug hunt -----------------------------------------------------------------------------


def bug(theirs, student):
    name = asked(theirs, "hunt", student)
    if name not in bug_hunt.NAMES:
        raise Wrong(f"{name!r:.60} is no name of a bug",
                    "give one of the five, as a text: " + ", ".join(bug_hunt.NAMES))
    if name != bug_hunt.bug_of(student):
        raise Wrong(f"{name!r} is not what is wrong with the page of student {student}",
                    "guessed? Work out the page's scores of short responses by hand and compare")


# --- 11. a sampler setting ------------------------------------------------------------------------


def eta_of(epsilon, temperature, logits, **mistake):
    """eta sampling, row by row.  -> like logits"""
    logits = np.asarray(logits, float)
    rows = [eta_of_row(epsilon, temperature, row, **mistake)
            for row in logits.reshape(-1, logits.shape[-1])]
    return np.array(rows).reshape(logits.shape)


def eta_of_row(epsilon, temperature, logits, ends=np.minimum, log_of=np.log, temper_first=False,
               normalise=True, temper=True, root=True, entropy=None):
    """Of (V,) logits; the options are mistakes."""
    own = stable(logits, 1.0)
    p = np.exp(stable(logits, temperature) if temper_first else own)
    if entropy is None:
        entropy = -sum(x * log_of(x) for x in p if x > 0)
    cut = ends(epsilon, (math.sqrt(epsilon) if root else epsilon) * math.exp(-entropy))
    kept = p >= cut
    if not kept.any():
        return np.full(len(p), math.nan)
    logits = np.where(kept, logits, -INF)
    if not normalise:
        return np.where(kept, stable(own, temperature if temper else 1.0), -INF)
    return stable(logits, temperature if temper else 1.0)


def shared_entropy(epsilon, temperature, logits):
    rows = np.exp([stable(row, 1.0) for row in np.reshape(logits, (-1, np.shape(logits)[-1]))])
    total = -sum(x * math.log(x) for x in rows.ravel() if x > 0)
    return eta_of(epsilon, temperature, logits, entropy=total)


def entropy_nan(epsilon, temperature, logits, kept=True):
    """0 log 0 as NaN, which nothing is below, nor above: all is kept, or nothing."""
    logits = np.asarray(logits, float)
    if logits.ndim > 1 or np.isfinite(logits).all():
        return eta_of(epsilon, temperature, logits)
    return stable(logits, temperature) if kept else np.full(len(logits), math.nan)


ETA = {
    "the larger of the two bounds; eta is the smaller":
        lambda *given: eta_of(*given, ends=np.maximum),
    "the entropy in bits; exp(-H) wants natural logarithms":
        lambda *given: eta_of(*given, log_of=np.log2),
    "the temperature comes before the cut: cut on the model's own distribution, then temper":
        lambda *given: eta_of(*given, temper_first=True),
    "the temperature is not applied to what is left": lambda *given: eta_of(*given, temper=False),
    "what is left is not renormalised": lambda *given: eta_of(*given, normalise=False),
    "the square root of epsilon is missing": lambda *given: eta_of(*given, root=False),
    "epsilon alone: that is an epsilon cut, without the entropy":
        lambda *given: eta_of(*given, ends=lambda a, b: a),
    "one entropy for all rows: sum over the words alone, dim=-1": shared_entropy,
    "0 log 0 is NaN for a word that cannot come, and with it the entropy; it counts 0": entropy_nan,
    "0 log 0 is NaN for a word that cannot come; it counts 0 in the entropy":
        lambda *given: entropy_nan(*given, kept=False)}


def eta(theirs, student):
    random = np.random.default_rng(11)
    five, of_five = np.log([0.5, 0.3, 0.15, 0.04, 0.01]), "p = .5 .3 .15 .04 .01"
    flat = np.concatenate([np.full(40, 0.5), [0.6]])
    questions = [
        (f"{of_five}, epsilon 0.2, temperature 1", 0.2, 1.0, five),
        (f"{of_five}, epsilon 0.2, temperature 2", 0.2, 2.0, five),
        (f"{of_five}, epsilon 0.2, temperature 0", 0.2, 0.0, five),
        (f"{of_five}, and a word of logit -inf", 0.1, 1.5, np.append(five, -INF)),
        ("41 words nearly alike, epsilon 0.9, temperature 1/2", 0.9, 0.5, flat),
        ("logits (2,3,6), epsilon 0.05, temperature 3", 0.05, 3.0,
         2 * random.normal(size=(2, 3, 6)))]
    asked(theirs, "setting", 0.2, 1.0, five.tolist())  # not yet, or a sentence on the object
    judged(theirs, "setting", [
        Question(words, (epsilon, temperature, logits.tolist()),
                 eta_of(epsilon, temperature, np.array(logits)))
        for words, epsilon, temperature, logits in questions], ETA)
