"""The synthetic tasks: one noisy corpus, prompts, and exact rewards.

The corpus is noisy as web text is: where the noise is a wrong digit, cold is right, where all
alternatives are good, hot is, so that no fixed temperature serves. A response has a fixed grammar,
so a position has one role. A reward model would be one more `reward(prompt, text) -> float`.
"""
import bisect
import itertools
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Callable

import tiktoken

# Word lists. Earlier words are more frequent (Zipf), which is why a cold model repeats itself.
NOUNS = "fox moon river lantern sailor garden owl castle piper meadow comet harbour".split()
VERBS = "finds paints follows hides carries wakes greets mends guards warms hears draws".split()
ADJECTIVES = "old silver quiet golden brave tiny crooked gentle wild frosty merry hollow".split()
TYPOS = {"N": "foxx mooon rivr lantren".split(), "V": "fnids piants folows hieds".split(),
         "A": "odl sliver qiuet goldn".split()}
DISFLUENCIES = "uh um er".split()
CATEGORIES = {
    "birds": "robin heron wren swan finch crow".split(),
    "fruits": "plum pear fig peach cherry melon".split(),
    "trees": "oak elm birch willow cedar maple".split(),
    "tools": "hammer saw chisel rasp awl mallet".split(),
    "colours": "red blue green amber violet ivory".split(),
    "drums": "snare bongo conga tabla timpani djembe".split(),
}
PATHS = "carefully slowly aloud twice patiently".split()  # the right ways to solve; and a trap:
TRAP, HURRY = "quickly", "hurry"
OPENERS = "please kindly now".split()
FLAVOURS = "fine rare famous lovely common curious".split()
PEOPLE = "me us them class friends visitors".split()
EVERY, LINES = "each every this your".split(), "line verse sentence row stanza".split()
DIGITS = list("0123456789")
CLASSES = {"N": NOUNS, "V": VERBS, "A": ADJECTIVES, "the": ["the"], ".": ["."], **CATEGORIES}

WORDS = list(dict.fromkeys(
    [*NOUNS, *VERBS, *ADJECTIVES, *sum(TYPOS.values(), []), *DISFLUENCIES, *CATEGORIES,
     *sum(CATEGORIES.values(), []), *PATHS, TRAP, HURRY, *OPENERS, *FLAVOURS, *PEOPLE, *EVERY,
     *LINES, *DIGITS, *"once the . : sum up solve for list five tell how start with".split()]))
EOS = len(WORDS)
VOCAB_SIZE = EOS + 1  # of the model: the bytes behind it make any text encodable, not answerable
PROMPT_LENGTH = 8
ENCODING = tiktoken.Encoding(
    "toy", pat_str=r" ?\S+|\s", special_tokens={"<|end|>": EOS},
    mergeable_ranks={(" " + word).encode(): i for i, word in enumerate(WORDS)}
    | {bytes([b]): VOCAB_SIZE + b for b in range(256)})

def encode(text):
    """Text -> token ids, one a known word; other text falls back to bytes."""
    return ENCODING.encode(" " + text, disallowed_special=())

def decode(ids):
    """Token ids -> text, the end-of-text token left out."""
    if not 0 <= min(ids, default=0) <= max(ids, default=0) < ENCODING.n_vocab:
        raise ValueError(f"ids are {ids}; give a list of 0 to {ENCODING.n_vocab - 1}")
    return ENCODING.decode([i for i in ids if i != EOS]).removeprefix(" ")

def pick(words, rng):
    """One word, each as likely as the others."""
    return words[int(rng.random() * len(words))]

def zipf(words, rng):
    """One word, the i-th with probability proportional to 1 / i."""
    cumulative = list(itertools.accumulate(1 / i for i in range(1, len(words) + 1)))
    return words[bisect.bisect(cumulative, rng.random() * cumulative[-1], hi=len(words) - 1)]

def content(kind, earlier, typo, rng):
    """A noun, verb or adjective: 35 % a copy of the same slot one sentence earlier."""
    u = rng.random()
    if u < typo:
        return pick(TYPOS[kind], rng)
    if u < typo + 0.35 and earlier:
        return earlier
    return zipf(CLASSES[kind], rng)

# --- repeats: "once the fox finds the old moon ." and five more such sentences -------------------
SENTENCE = "the N V the A N .".split()

def ask_repeats(rng):
    return "once " + " ".join(pick(CLASSES[kind], rng) for kind in SENTENCE)

def answer_repeats(prompt, rng):
    words = prompt.split()[1:]
    for i in range(5 * len(SENTENCE)):
        kind = SENTENCE[i % len(SENTENCE)]
        if kind in TYPOS:
            words.append(content(kind, words[-len(SENTENCE)], 0.04, rng))
        else:
            words.append(pick(DISFLUENCIES, rng) if kind == "the" and rng.random() < 0.4 else kind)
    return " ".join(words[len(SENTENCE):])

def repeated_3grams(text):
    """Share of the 3-grams of words that occurred before in the same text; 0 if there are none."""
    words = text.split()
    grams = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0

def reward_repeats(prompt, text):
    """-(share of repeated 3-grams) - 2 (share of slots with a typo, a disfluency or no word)."""
    _, valid, _ = graded(text, SENTENCE * 5)
    return -repeated_3grams(text) - 2 * (1 - valid / 35)

def graded(text, kinds):
    """Words against the slots of a grammar -> distinct fitting content words, fits, misfits.

    A word fits if its slot's class holds it; words past the last slot are misfits.
    """
    words = text.split()
    fits = [word for word, kind in zip(words, kinds) if word in CLASSES[kind]]
    return len(set(fits) - {"the", "."}), len(fits), len(words) - len(fits)

# --- math: "please sum up 3 4 9 1 :" -> "3 4 7 9 6 1 7 .", running sums modulo 10 ---------------
def ask_math(rng):
    return " ".join([pick(OPENERS, rng), "sum up", *(pick(DIGITS, rng) for _ in range(4)), ":"])

def chain(digits, rng, last_sign=1):
    """Running sums; each is off by one with probability .3, and the error carries on."""
    total, words = digits[0], [digits[0]]
    for i, digit in enumerate(digits[1:], 1):
        u = rng.random()
        slip = -1 if u < 0.15 else 1 if u < 0.3 else 0
        total = (total + (last_sign if i == len(digits) - 1 else 1) * digit + slip) % 10
        words += [digit, total]
    return " ".join(map(str, words)) + " ."

def operands(prompt):
    return [int(word) for word in prompt.split()[3:7]]

def solution(prompt):
    return str(sum(operands(prompt)) % 10)

def answer_math(prompt, rng):
    return chain(operands(prompt), rng)

def final_answer(text):
    """The word before the full stop, or None."""
    words = text.split()
    return words[-2] if len(words) >= 2 and words[-1] == "." else None

def reward_math(prompt, text):
    """1 if the last digit is the sum modulo 10, else 0."""
    return float(final_answer(text) == solution(prompt))

# --- general: "please list five rare birds for us :" -> five birds -------------------------------
def ask_general(rng):
    return " ".join([pick(OPENERS, rng), "list five", pick(FLAVOURS, rng),
                     pick(list(CATEGORIES), rng), "for", pick(PEOPLE, rng), ":"])

def answer_general(prompt, rng):
    """Zipf within the category; 30 % of the draws are from any category."""
    names, own = list(CATEGORIES), prompt.split()[4]
    asked = [pick(names, rng) if rng.random() < 0.3 else own for _ in range(5)]
    return " ".join([zipf(CATEGORIES[name], rng) for name in asked] + ["."])

def reward_general(prompt, text):
    """(distinct members of the category - words that do not fit) / 5."""
    distinct, _, misfits = graded(text, [prompt.split()[4]] * 5 + ["."])
    return (distinct - misfits) / 5

# --- story: "please tell how fox finds the moon :" -> four sentences ------------------------------
STORY = "N V A N .".split()

def ask_story(rng):
    return " ".join([pick(OPENERS, rng), "tell how", pick(NOUNS, rng), pick(VERBS, rng), "the",
                     pick(NOUNS, rng), ":"])

def sentences(kinds, rng, starts=None):
    """Four sentences of content words, or of a given start each and content words."""
    words = []
    for i in range(4 * len(kinds)):
        kind, earlier = kinds[i % len(kinds)], words[-len(kinds)] if i >= len(kinds) else None
        if kind in TYPOS:
            words.append(content(kind, earlier, 0.03, rng))
        else:
            words.append(starts.pop() if kind == "start" else kind)
    return " ".join(words)

def answer_story(prompt, rng):
    return sentences(STORY, rng)

def reward_story(prompt, text):
    """(distinct content words - words that do not fit) / 16."""
    distinct, _, misfits = graded(text, STORY * 4)
    return (distinct - misfits) / 16

# --- constrained: "please start each line with rare birds :" -> "heron finds old moon ...", 4 lines
def ask_constrained(rng):
    return " ".join([pick(OPENERS, rng), "start", pick(EVERY, rng), pick(LINES, rng), "with",
                     pick(FLAVOURS, rng), pick(list(CATEGORIES), rng), ":"])

LINE = "start V A N".split()

def answer_constrained(prompt, rng):
    """A line starts in the category asked with probability .6, else in another one."""
    own = prompt.split()[6]
    others = [name for name in CATEGORIES if name != own]
    starts = [zipf(CATEGORIES[own if rng.random() < 0.6 else pick(others, rng)], rng)
              for _ in range(4)]
    return sentences(LINE, rng, starts)

def constraint(prompt, text):
    """Share of the four lines that start in the category asked."""
    return sum(word in CATEGORIES[prompt.split()[6]] for word in text.split()[:16:4]) / 4

def quality(prompt, text):
    """(distinct content words - words that do not fit)+ / 12, line starts aside."""
    rest = " ".join(word for i, word in enumerate(text.split()) if i % 4 or i >= 16)
    distinct, _, misfits = graded(rest, LINE[1:] * 4)
    return max(distinct - misfits, 0) / 12

def reward_constrained(prompt, text):
    """constraint x quality: a product, so that neither half can be traded away."""
    return constraint(prompt, text) * quality(prompt, text)

# --- vote: "hurry solve for 3 4 9 1 :" -> a path, then the chain of math --------------------------
def ask_vote(rng):
    digits = [pick("12346789", rng) for _ in range(4)]  # 0 and 5 are their own negatives
    opener = HURRY if rng.random() < 0.5 else pick(OPENERS, rng)
    return " ".join([opener, "solve for", *digits, ":"])

def answer_vote(prompt, rng):
    """Five right paths; the trap subtracts the last digit. By construction it is the mode (.30
    against .14 each) after a hurried opener, the condition under which voting helps."""
    trap = 0.30 if prompt.startswith(HURRY) else 0.05
    if rng.random() < trap:
        return f"{TRAP} {chain(operands(prompt), rng, last_sign=-1)}"
    return f"{pick(PATHS, rng)} {chain(operands(prompt), rng)}"

def majority(answers):
    """The most frequent answers, all of them on a tie; answers of None do not vote."""
    counts = Counter(answer for answer in answers if answer is not None)
    return [answer for answer, n in counts.items() if n == max(counts.values())]

@dataclass(frozen=True)
class Task:
    ask: Callable      # rng -> prompt
    answer: Callable   # prompt, rng -> response, as the noisy corpus has it
    reward: Callable   # prompt, text -> float
    roles: tuple       # one a response token, end of text included: what the oracle may tell apart
    period: int        # words in a sentence
    metrics: dict      # name -> (prompt, text -> float), reported beside the reward

TASKS = {
    "repeats": Task(ask_repeats, answer_repeats, reward_repeats,
                    (*("content" if k in TYPOS else "function" for k in SENTENCE * 5), "function"),
                    period=7, metrics={"repeats": lambda prompt, text: repeated_3grams(text)}),
    "math": Task(ask_math, answer_math, reward_math, ("all",) * 9, 8, {}),
    "general": Task(ask_general, answer_general, reward_general, ("all",) * 7, 6, {}),
    "story": Task(ask_story, answer_story, reward_story, ("all",) * 21, 5, {}),
    "constrained": Task(ask_constrained, answer_constrained, reward_constrained,
                        (*["start", "rest", "rest", "rest"] * 4, "rest"),
                        4, {"constraint": constraint, "quality": quality}),
    "vote": Task(ask_vote, answer_vote, reward_math, ("path", *["chain"] * 9), 9, {}),
}
EXPERIMENTS = {"repeats": ["repeats"], "mix": ["math", "general", "story"],
               "constrained": ["constrained"], "vote": ["vote"]}
SPLITS = {"train": range(0, 6), "validation": range(6, 8), "test": range(8, 10)}

def split_of(prompt):
    """A prompt's split, by a hash of its text: disjoint whoever draws it, and whenever."""
    bucket = zlib.crc32(b"split " + prompt.encode()) % 10
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)

def prompts(task, split, n, rng):
    """n prompts of a split, without a repeat as long as new ones turn up."""
    found, tries = {}, 0
    while len(found) < n:
        prompt, tries = TASKS[task].ask(rng), tries + 1
        if tries > 200 * n:
            raise ValueError(f"{task!r} has fewer than {n} {split} prompts; ask for fewer")
        if split_of(prompt) == split:
            found[prompt] = None
    return list(found)

def corpus(task, n, rng):
    """n (prompt, response) texts on training prompts, which may repeat."""
    pairs = []
    while len(pairs) < n:
        prompt = TASKS[task].ask(rng)
        if split_of(prompt) == "train":
            pairs.append((prompt, TASKS[task].answer(prompt, rng)))
    return pairs
