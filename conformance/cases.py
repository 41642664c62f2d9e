"""The cases of check.py: those of golden.json, random ones (`--fuzz`) and large ones (`--large`).

Inputs lie on a grid that float32 and bfloat16 represent exactly, so that a difference is the fault
of the arithmetic, never of reading. What lies under the mask is garbage on purpose. FORMAT.md
describes the fields and the rule by which large cases are made.
    python conformance/cases.py    prints losses and scores of the large cases, for other languages
"""
import json
import math
from pathlib import Path

import numpy as np

import oracle

GOLDEN = Path(__file__).with_name("golden.json")
SIDES = ("chosen", "rejected")
LM = ("lm_logits", "ref_lm_logits")


# ---- questions and answers: {label: array} -----------------------------------------------------

def answer(call, function, case):
    """What one of the four functions, theirs or the oracle's, answers; call: the function itself"""
    if function == "temperature_logps":
        return {side: call(case[side]["lm_logits"], case[side]["tokens"], case["temperatures"])
                for side in SIDES}
    if function == "score":
        return {side: call(case, side) for side in SIDES}
    return {"": call(case)} if function == "loss" else flat(call(case))


def wanted(case, function):
    """The right answer, empty where the function does not apply."""
    expected = case["expected"]
    return {"temperature_logps": expected["text_logps"], "score": expected["scores"] or {},
            "loss": {"": expected["losses"]}, "gradients": flat(expected["gradients"])}[function]


def flat(gradients):
    return {f"{side}.{name}": x for side, d in gradients.items() for name, x in d.items()}


def answered(case):
    """The case with the oracle's answers; text log-probabilities under the mask are NaN.

    scale: by how much its tolerance grows, since rounding errors are relative to the terms of a
    sum: the largest finite log-probability; of a large case the largest sum of them.
    """
    text, scale = {}, 1.0
    for side in SIDES:
        x = case[side]
        text[side] = oracle.temperature_logps(x["lm_logits"], x["tokens"], case["temperatures"])
        text[side][~x["mask"]] = math.nan
        for r in oracle.responses(case, side):
            terms = np.array([oracle.latent_terms(r, [t], r.column(t)) for t in r.positions()])
            largest = np.where(np.isfinite(terms), -terms, 0).max(2)  # (tokens, 2)
            scale = max(scale, largest.sum(0).max() if is_large(case) else largest.max())
    scores = None if case["variant"] == "nll" else {s: oracle.score(case, s) for s in SIDES}
    return {**case, "expected": {
        "scale": math.ceil(scale), "text_logps": text, "scores": scores,
        "losses": oracle.loss(case), "gradients": oracle.gradients(case)}}


# ---- golden.json -------------------------------------------------------------------------------

def golden():
    page = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return [arrays(case) for case in page["cases"]]


def arrays(x, name=""):
    """Lists of JSON as arrays; numpy reads "-inf" and null by itself."""
    if isinstance(x, dict):
        return {key: arrays(value, key) for key, value in x.items()}
    if not isinstance(x, list):
        return x
    if name == "temperatures":
        return [float(tau) for tau in x]
    return np.array(x, dtype={"tokens": int, "tau_idx": int, "mask": bool}.get(name, float))


# ---- a rule that makes numbers, the same in any language ---------------------------------------

def mixed(x):
    """A 32-bit integer turned into another.  (...) -> (...)"""
    x = np.asarray(x, dtype=np.uint64) & 0xFFFFFFFF
    for shift, factor in ((16, 0x9E3779B1), (15, 0x61C88647)):
        x ^= x >> shift
        x = x * factor & 0xFFFFFFFF
    return x ^ (x >> 16)


def numbers(stream, *shape):
    """Entry i, counted in row-major order, is mixed(i + mixed(stream)).  -> shape, of integers"""
    i = np.arange(math.prod(shape), dtype=np.uint64)
    return mixed(i + mixed(stream)).astype(np.int64).reshape(shape)


def grid(stream, *shape):
    """Multiples of 1/16 from -2 up to 2, exact in bfloat16."""
    return (numbers(stream, *shape) % 64 - 32) / 16


# ---- random cases: of one shape, so that a jit compiles rarely ---------------------------------

B, T, V, TAUS = 3, 5, 6, [0.9, 0.2, 1.4, 0.5]  # all sizes differ
BETAS = (0.1, 0.25, 0.5, 2.0)  # never 1, which would hide that beta is missing


def fuzz(seed, count):
    """Random cases of the golden ones' kinds, each named after one.

    They have no ties, so that whoever skips the golden case may skip these too. No answers yet.
    """
    kinds = [case for case in golden() if "moved" in case["name"] or "frozen" in case["name"]
             or case["variant"] == "nll"]
    for i in range(count):
        streams = iter(range(int(mixed(seed)) + 64 * i + 2 ** 20, 2 ** 63))
        kind = kinds[int(numbers(next(streams), 1)[0]) % len(kinds)]
        yield {
            **{name: kind[name] for name in ("variant", "level", "exact_sequence")},
            "name": f"{kind['name']}-fuzz-{seed}-{i}", "beta": BETAS[i % len(BETAS)],
            "temperatures": TAUS[:-1] + [0.0] if 0 in kind["temperatures"] else TAUS,
            **{side: fuzz_side(streams, kind, kind[side]["ref_decoder_logits"] is not None)
               for side in SIDES}}


def fuzz_side(streams, kind, reference):
    def below(n, *shape):
        return numbers(next(streams), *shape) % n

    def lm_logits():
        """From -V/2 up to V/2, no two of a column equal."""
        return numbers(next(streams), B, T, V).argsort(-1) - V / 2 + below(16, B, T, V) / 16

    L, K = T if kind["level"] == "token" else 1, len(TAUS)
    mask = below(10, B, T) < 7
    mask[~mask.any(1), -1] = True
    lm = lm_logits()
    side = {"lm_logits": lm,
            "ref_lm_logits": lm.copy() if "frozen" in kind["name"] else lm_logits(),
            "decoder_logits": grid(next(streams), B, L, K),
            "ref_decoder_logits": grid(next(streams), B, L, K) if reference else None,
            "tokens": np.where(below(2, B, T) == 1, lm.argmax(-1), below(V, B, T)),
            "tau_idx": below(K, B, L), "mask": mask}
    for name in LM:
        side[name][~mask] *= 512  # garbage
    return side


# ---- large cases: 16 temperatures, 50,257 tokens in the vocabulary (GPT-2's) or 300 in a response

LARGE_TAUS = [(5 * k % 16) / 8 for k in range(16)]  # 0 is the first, the others are not sorted
PEAK, STEP = 4.0, 1 / 128  # the largest logit, and what bfloat16 drops of PEAK + STEP
LONG, WIDE = (2, 300, 61), (1, 9, 50257)  # B, T, V
LARGE = [f"large-{name}" for name in (
    "tokens-joint-token", "tokens-joint-sequence", "tokens-separate-token",
    "tokens-separate-sequence", "tokens-latent-token", "tokens-latent-sequence",
    "tokens-latent-sequence-exact", "words-joint-token", "words-latent-token",
    "words-latent-sequence-exact", "merged-joint-token", "merged-latent-token")]


def large(dtype="float64"):
    """Cases without answers; in bfloat16 without `merged`, which would ask too much."""
    for i, name in enumerate(LARGE):
        _, what, variant, level, *exact = name.split("-")
        sizes = LONG if what == "tokens" else WIDE
        if what == "merged" and dtype == "bfloat16":
            continue
        case = {"name": name, "variant": variant, "level": level, "exact_sequence": bool(exact),
                "beta": 1 / 64 if what == "tokens" else 1 / 8, "temperatures": list(LARGE_TAUS)}
        for s, side in enumerate(SIDES):
            case[side] = large_side(16 * i + 8 * s, s, *sizes, level, i % 2 == 1, what == "merged")
        yield case


def large_side(stream, s, B, T, V, level, reference, merged):
    """stream .. stream + 7 are its numbers, s is 0 (chosen) or 1."""
    L, K = T if level == "token" else 1, len(LARGE_TAUS)
    lm = grid(stream, B, T, V)
    ref_lm = lm + grid(stream + 1, B, T, V) / 2
    peaks = numbers(stream + 2, B, T, 2) % V  # two tokens share the largest logit
    for logits in (lm, ref_lm):
        np.put_along_axis(logits, peaks, PEAK, axis=-1)
        if merged:  # the second peak is a little higher: a tie in bfloat16 only
            np.put_along_axis(logits, peaks[..., 1:], PEAK + STEP, axis=-1)
    anything = numbers(stream + 3, B, T) % V
    which = numbers(stream + 4, B, T) % 4  # half the tokens are the arg-max, a quarter a rival's
    tokens = np.choose(which, [lm.argmax(-1), lm.argmax(-1), peaks[..., 0], anything])
    tau_idx = numbers(stream + 5, B, L) % K
    if level == "token":
        tau_idx[:, ::3] = 0  # every third token at temperature 0
    lengths = T - s - 2 * np.arange(B)
    return {"lm_logits": lm, "ref_lm_logits": ref_lm,
            "decoder_logits": grid(stream + 6, B, L, K),
            "ref_decoder_logits": grid(stream + 7, B, L, K) if reference else None,
            "tokens": tokens, "tau_idx": tau_idx, "mask": np.arange(T) < lengths[:, None]}


def is_large(case):
    return case["chosen"]["lm_logits"].size > 10_000


def has_gaps(case):
    """Whether a response does not fill its row from column 0 on, without a hole, to its end."""
    masks = [row for side in SIDES for row in case[side]["mask"]]
    return any((np.diff(row.astype(int)) > 0).any() or not row[0] for row in masks)


if __name__ == "__main__":
    for case in large():
        expected = answered(case)["expected"]
        print(json.dumps({"name": case["name"], "losses": expected["losses"].tolist(),
                          **{side: expected["scores"][side].tolist() for side in SIDES}}))
