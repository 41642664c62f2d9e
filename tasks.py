"""The synthetic tasks: a noisy corpus for the base model, prompts, and exact rewards.

    repeats      now continue the fox finds moon . :       four clauses without repetition
    math         please sum up 3 4 9 1 :                   7 9 6 1 7 .   (running sums modulo 10)
    general      now list five rare birds for us :         five different birds
    story        kindly tell how fox finds the moon :      four clauses of different words
    constrained  please start each line with rare birds :  four clauses, each starting with a bird
    vote         hurry solve for 3 4 9 1 :                 7 working slowly 9 6 1 7 .

The corpus is noisy on purpose. Except in `general`, a noisy word comes from a `slot`: one word, the
mode, has probability 0.4, and nine others share the rest equally; 3 % of all are typos. In
some slots the mode is right and the others are wrong: a sum, an article, a required word. In others
the mode brings no variety and the others are as good: a noun, a verb. The distribution looks the
same in both, so its shape does not show whether a low or a high temperature is better. Nor does the
position, since clauses have four to nine words, five to eleven with articles.

A task is mainly four functions (see `Task` below): ask writes a prompt, answer a response of the
corpus, reward grades any response, and walk names the place of each word in the grammar.
"""
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

import tiktoken

# --- words: a slot chooses among ten, one mode and nine others ------------------------------------

NOUNS = "fox moon river lantern sailor garden owl castle piper comet".split()
PLAIN_VERBS = "finds paints follows hides greets".split()
TO_VERBS = "runs sings waves talks swims".split()  # "fox runs to moon"
VERBS = PLAIN_VERBS + TO_VERBS
DISFLUENCIES = "uh um er hm ah eh oh huh erm".split()  # what may replace "the"
DIGITS = list("0123456789")
RIGHT_WAY, TRAP = "carefully", "quickly"  # to work out a sum; the trap forgets the last digit
WAYS = [RIGHT_WAY, TRAP, *"slowly aloud twice patiently calmly neatly gladly backwards".split()]
CATEGORIES = {
    "birds": "robin heron wren swan finch crow".split(),
    "fruits": "plum pear fig peach cherry melon".split(),
    "trees": "oak elm birch willow cedar maple".split(),
    "tools": "hammer saw chisel rasp awl mallet".split(),
    "colours": "red blue green amber violet ivory".split(),
    "drums": "snare bongo conga tabla timpani djembe".split(),
    "fish": "trout salmon perch carp pike eel".split(),
    "metals": "iron gold tin zinc lead copper".split(),
    "boats": "canoe kayak barge ferry yacht raft".split(),
    "hats": "beret fedora bonnet fez turban cap".split(),
}
FILLERS = ["things", "stuff"]
TYPOS = {  # 3 % of the words of a slot
    "noun": "foxx mooon rivr lantren sialor gardne".split(),
    "verb": "fnids piants folows hieds grets rnus".split(),
    "article": "teh hte th thw te tge".split(),
    "category": "robbin plumm oakk hamer redd snair".split(),
    "digit": "0o 1l 2z 5s 8b 9q".split(),
    "way": "carefuly qiuckly slowyl aluod twcie calmyl".split(),
}
OPENERS, HURRY = ["please", "kindly", "now"], "hurry"
FLAVOURS = "fine rare famous lovely common curious".split()
PEOPLE = "me us them class friends visitors".split()
EVERY = "each every this your".split()
LINES = "line verse sentence row stanza".split()

OTHERS = ("the to and . : working sum up solve for list five tell how start end with continue "
          "learn from").split()

WORDS = [*NOUNS, *VERBS, *DISFLUENCIES, *DIGITS, *WAYS, *CATEGORIES,
         *sum(CATEGORIES.values(), []), *FILLERS, *sum(TYPOS.values(), []), *OPENERS, HURRY,
         *FLAVOURS, *PEOPLE, *EVERY, *LINES, *OTHERS]
EOS = len(WORDS)
VOCAB_SIZE = EOS + 1  # of the model; tiktoken also needs all bytes, which follow
PROMPT_LENGTH = 8  # tokens
ENCODING = tiktoken.Encoding(
    "toy", pat_str=r" ?\S+|\s", special_tokens={"<|end|>": EOS},
    mergeable_ranks={(" " + word).encode(): i for i, word in enumerate(WORDS)}
    | {bytes([b]): VOCAB_SIZE + b for b in range(256)})


def encode(text):
    """Text -> token ids, one per known word; other text falls back to bytes."""
    return ENCODING.encode(" " + text, disallowed_special=())


def decode(ids):
    """Token ids -> text, the end-of-text token left out."""
    if not 0 <= min(ids, default=0) <= max(ids, default=0) < ENCODING.n_vocab:
        raise ValueError(f"ids are {ids}; give a list of 0 to {ENCODING.n_vocab - 1}")
    return ENCODING.decode([i for i in ids if i != EOS]).removeprefix(" ")


# --- the noise ------------------------------------------------------------------------------------


def pick(words, rng):
    """One of the words, each equally likely."""
    return words[int(rng.random() * len(words))]


MODE = 0.4  # probability of a slot's mode, if it is no typo


def slot(mode, words, kind, rng):
    """A noisy slot: 3 % a typo, else the mode with probability MODE, else another of the words."""
    if rng.random() < 0.03:
        return pick(TYPOS[kind], rng)
    if rng.random() < MODE:
        return mode
    return pick([word for word in words if word != mode], rng)


# --- clauses, of which three tasks are made: "fox runs to moon and finds owl ." -------------------


def walk_clauses(article=None, required=None):
    """The grammar, clause after clause: subject verb [to] object [and verb [to] object] full stop.

    A generator that yields the place of the next word and is sent the word written there. It moves
    on even if the word does not fit. article: which nouns, "subject" or "object",
    have an article. required: which nouns are words of a category instead.
    """
    while True:
        if article == "subject":
            yield "article"
        yield "required" if required == "subject" else "subject"
        for link in ("link", "stop"):  # after the first object "and" is possible
            if (yield "verb") in TO_VERBS:
                yield "to"
            if article == "object":
                yield "article"
            yield "required" if required == "object" else "object"
            if (yield link) == ".":
                break


def write_clauses(walk, rng, noun, verb, category=None):
    """Four clauses. Nouns and verbs keep one mode throughout, so a cold model repeats itself."""
    first_words = [members[0] for members in CATEGORIES.values()]
    slots = {"article": ("the", ["the", *DISFLUENCIES], "article"),
             "subject": (noun, NOUNS, "noun"),
             "verb": (verb, VERBS, "verb"),
             "object": (noun, NOUNS, "noun")}
    certain = {"to": "to", "stop": "."}
    if category is not None:
        slots["required"] = CATEGORIES[category][0], first_words, "category"
    words, place = [], next(walk)
    while words.count(".") < 4:
        if place in slots:
            word = slot(*slots[place], rng)
        elif place == "link":
            word = pick(["and", "."], rng)
        else:
            word = certain[place]
        words.append(word)
        place = walk.send(word)
    return " ".join(words)


def places_of(walk, words):
    """The places of n words, and of the word that would come next.  -> n + 1 names"""
    places = [next(walk)]
    for word in words:
        places.append(walk.send(word))
    return places


CONTENT = ("subject", "verb", "object")
FITTING = {"article": ["the"], "subject": NOUNS, "verb": VERBS, "to": ["to"], "object": NOUNS,
           "link": ["and", "."], "stop": ["."]}


def graded(walk, text):
    """The content words that fit their places, and the words that do not.  -> two lists

    Required words are in neither.
    """
    words = text.split()
    placed = list(zip(words, places_of(walk, words)))
    content = [word for word, place in placed if place in CONTENT and word in FITTING[place]]
    wrong = [word for word, place in placed if place != "required" and word not in FITTING[place]]
    return content, wrong


# --- repeats: "now continue the fox finds moon . :" and four more clauses in its style ------------


def ask_repeats(rng):
    clause = [pick(NOUNS, rng), pick(PLAIN_VERBS, rng), pick(NOUNS, rng)]
    clause.insert(0 if rng.random() < 0.5 else 2, "the")
    return " ".join([pick(OPENERS, rng), "continue", *clause, ". :"])


def walk_repeats(prompt):
    """The prompt shows where the article is: before subjects or before objects."""
    return walk_clauses(article="subject" if prompt.split()[2] == "the" else "object")


def last_of(kind, prompt):
    """The last word of the prompt that is among `kind`: its topic."""
    return [word for word in prompt.split() if word in kind][-1]


def answer_repeats(prompt, rng):
    return write_clauses(walk_repeats(prompt), rng, last_of(NOUNS, prompt), last_of(VERBS, prompt))


def repeated_3grams(text):
    """Share of the 3-grams of words that occurred before in the same text; 0 if there are none."""
    words = text.split()
    grams = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def reward_repeats(prompt, text):
    """-(share of repeated 3-grams) - 4 (words that do not fit or are missing) / max(words, 26).

    Typos do not fit, nor does "uh" for "the". Four clauses have at least 20 words.
    """
    _, wrong = graded(walk_repeats(prompt), text)
    n = len(text.split())
    return -repeated_3grams(text) - 4 * (len(wrong) + max(20 - n, 0)) / max(n, 26)


# --- story: "please tell how fox finds the moon :" and four clauses -------------------------------


def ask_story(rng):
    return " ".join([pick(OPENERS, rng), "tell how", pick(NOUNS, rng), pick(PLAIN_VERBS, rng),
                     "the", pick(NOUNS, rng), ":"])


def walk_story(prompt):
    return walk_clauses()


def answer_story(prompt, rng):
    return write_clauses(walk_story(prompt), rng, last_of(NOUNS, prompt), last_of(VERBS, prompt))


def distinct_share(content, wrong, least):
    """(distinct content words - wrong words) / max(content words + wrong words, least)."""
    return (len(set(content)) - len(wrong)) / max(len(content) + len(wrong), least)


def reward_story(prompt, text):
    """(distinct content words - words that do not fit) / max(all such words, 12)."""
    return distinct_share(*graded(walk_story(prompt), text), least=12)


# --- constrained: "please start each line with rare birds :" or "... end ...", and four clauses ---


def ask_constrained(rng):
    return " ".join([pick(OPENERS, rng), pick(["start", "end"], rng), pick(EVERY, rng),
                     pick(LINES, rng), "with", pick(FLAVOURS, rng), pick(list(CATEGORIES), rng),
                     ":"])


def category_of(prompt):
    """The category that the prompt names."""
    return next(word for word in prompt.split() if word in CATEGORIES)


def walk_constrained(prompt):
    """The prompt says which words are required: the subject of each line, or its objects."""
    return walk_clauses(required="subject" if prompt.split()[1] == "start" else "object")


def answer_constrained(prompt, rng):
    return write_clauses(walk_constrained(prompt), rng, NOUNS[0], VERBS[0], category_of(prompt))


def constraint(prompt, text):
    """Required words that are of the category / max(required words, 4)."""
    words, members = text.split(), CATEGORIES[category_of(prompt)]
    placed = zip(words, places_of(walk_constrained(prompt), words))
    hits = [word in members for word, place in placed if place == "required"]
    return sum(hits) / max(len(hits), 4)


def quality(prompt, text):
    """(distinct content words - words that do not fit) / max(all such words, 8), but at least 0."""
    return max(distinct_share(*graded(walk_constrained(prompt), text), least=8), 0.0)


def reward_constrained(prompt, text):
    """constraint x quality: in a product neither can be given up for the other."""
    return constraint(prompt, text) * quality(prompt, text)


# --- math: "please sum up 3 4 9 1 :" -> "7 9 6 1 7 .", running sums modulo 10 and next operands ---


def ask_math(rng):
    return " ".join([pick(OPENERS, rng), "sum up", *(pick(DIGITS, rng) for _ in range(4)), ":"])


def operands(prompt):
    return [int(word) for word in prompt.split()[3:7]]


def solution(prompt):
    return str(sum(operands(prompt)) % 10)


def chain(digits, slips=None):
    """Running sums with the next operands between them, as words.

    The right sum is the mode of its slot, and a wrong one is used in the next sum. slips: the rng
    of this noise, or None for right sums only.
    """
    total, words = digits[0], []
    for digit in digits[1:]:
        right = str((total + digit) % 10)
        words += [str(digit), right if slips is None else slot(right, DIGITS, "digit", slips)]
        total = int(words[-1] if words[-1] in DIGITS else right)
    return [*words[1:], "."]  # from the first sum on


def answer_math(prompt, rng):
    return " ".join(chain(operands(prompt), rng))


def walk_sums(prompt):
    """A generator like walk_clauses'; "working" and a way may come before any word."""
    for place in "sum operand sum operand sum stop".split():
        while (yield place) == "working":
            yield "way"
    while True:
        yield "stop"


def final_answer(text):
    """The last digit of a text that ends with a full stop, or None."""
    digits = [word for word in text.split() if word in DIGITS]
    return digits[-1] if digits and text.endswith(" .") else None


def reward_math(prompt, text):
    """1 if the text ends with a full stop and its last digit is the sum modulo 10, else 0."""
    return float(final_answer(text) == solution(prompt))


# --- vote: "hurry solve for 3 4 9 1 :" -> "7 working slowly 9 6 1 7 ." ----------------------------


def ask_vote(rng):
    opener = HURRY if rng.random() < 0.5 else pick(OPENERS, rng)
    digits = [pick(DIGITS[1:], rng) for _ in range(4)]  # a final 0 would make the trap right
    return " ".join([opener, "solve for", *digits, ":"])


def worked_out(digits, way, rng, slips=None):
    """The chain, with "working" and the way after its first or second sum.

    The trap leaves the last digit out.
    """
    words = chain(digits[:-1] if way == TRAP else digits, slips)
    where = pick([1, 3], rng)
    return " ".join([*words[:where], "working", way, *words[where:]])


def answer_vote(prompt, rng):
    """After `hurry` the mode of the ways is the trap, otherwise the right way.

    So after `hurry` the arg-max is wrong, while the nine other ways lead to the same right answer:
    if the sums are cold and the way is hot, a majority of samples is right.
    """
    mode = TRAP if prompt.startswith(HURRY) else RIGHT_WAY
    way = slot(mode, WAYS, "way", rng)
    return worked_out(operands(prompt), way, rng, slips=rng)


def majority(answers):
    """The most frequent answers, several on a tie; None does not vote."""
    counts = Counter(answer for answer in answers if answer is not None)
    return [answer for answer, n in counts.items() if n == max(counts.values())]


# --- lesson: "please learn from 3 4 9 1 :", clean sums, for pretraining only ----------------------


def ask_lesson(rng):
    return ask_math(rng).replace("sum up", "learn from")


def answer_lesson(prompt, rng):
    """Without noise: a model this small does not learn to add from noisy sums alone."""
    if rng.random() < 0.5:
        return " ".join(chain(operands(prompt)))
    return worked_out(operands(prompt), pick(WAYS, rng), rng)


# --- general: "please list five rare birds for us :" -> five birds --------------------------------


def ask_general(rng):
    return " ".join([pick(OPENERS, rng), "list five", pick(FLAVOURS, rng),
                     pick(list(CATEGORIES), rng), "for", pick(PEOPLE, rng), ":"])


def answer_general(prompt, rng):
    """Fillers are more likely than rare members, so no truncation removes only the fillers.

    Neither a low nor a high temperature is best.
    """
    members = CATEGORIES[category_of(prompt)]
    odds = {members[0]: 0.32, members[1]: 0.16, **dict.fromkeys(FILLERS, 0.1),
            **dict.fromkeys(members[2:], 0.08)}
    words = []
    for _ in range(5):
        typo = rng.random() < 0.03
        words.append(pick(TYPOS["category"], rng) if typo else
                     str(rng.choice(list(odds), p=list(odds.values()))))
    return " ".join([*words, "."])


def walk_general(prompt):
    for _ in range(5):
        yield "item"
    while True:
        yield "stop"


def reward_general(prompt, text):
    """(distinct members of the category - other words) / 5, the sixth word not counted."""
    words, members = text.split(), CATEGORIES[category_of(prompt)]
    wrong = [word for word in words[:5] if word not in members] + words[6:]
    return (len(set(words[:5]) & set(members)) - len(wrong)) / 5


# --- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    ask: Callable      # rng -> prompt of eight words
    answer: Callable   # prompt, rng -> response, with the noise of the corpus
    reward: Callable   # prompt, text -> float
    walk: Callable     # prompt -> generator: yields the place of a word, is sent the word
    length: int        # tokens of the longest response, end of text included
    share: int         # how many of its texts are in each pretraining step
    roles: dict = field(default_factory=dict)    # place -> role; other places have "rest"
    metrics: dict = field(default_factory=dict)  # name -> f(prompt, text), besides reward
    criteria: tuple = ()               # two metrics, for pairs by two criteria
    answer_of: Callable | None = None  # text -> what a majority counts; None: no votes
    solution: Callable | None = None   # prompt -> the right answer

    def role_of(self, place):
        return self.roles.get(place, "rest")


TASKS = {
    "repeats": Task(ask_repeats, answer_repeats, reward_repeats, walk_repeats, length=45, share=4,
                    roles={"article": "article"},
                    metrics={"repeats": lambda prompt, text: repeated_3grams(text)}),
    "math": Task(ask_math, answer_math, reward_math, walk_sums, length=7, share=14),
    "lesson": Task(ask_lesson, answer_lesson, reward_math, walk_sums, length=9, share=36),
    "general": Task(ask_general, answer_general, reward_general, walk_general, length=7, share=4),
    "story": Task(ask_story, answer_story, reward_story, walk_story, length=37, share=4),
    "constrained": Task(ask_constrained, answer_constrained, reward_constrained, walk_constrained,
                        length=37, share=6, roles={"required": "required"},
                        metrics={"constraint": constraint, "quality": quality},
                        criteria=("constraint", "quality")),
    "vote": Task(ask_vote, answer_vote, reward_math, walk_sums, length=9, share=24,
                 roles={"way": "way"}, answer_of=final_answer, solution=solution),
}
EXPERIMENTS = {"repeats": ["repeats"], "mix": ["math", "general", "story"],
               "constrained": ["constrained"], "vote": ["vote"]}
SPLITS = {"train": range(0, 6), "validation": range(6, 8), "test": range(8, 10)}


def split_of(prompt):
    """The split of a prompt, by a hash of its text, so that splits are always disjoint."""
    bucket = zlib.crc32(b"twins " + prompt.encode()) % 10  # the same in every run
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def prompts(task, split, n, rng):
    """n different prompts of a split; ValueError if there are fewer."""
    found, misses = {}, 0
    while len(found) < n:
        prompt = TASKS[task].ask(rng)
        misses += 1
        if split_of(prompt) == split and prompt not in found:
            found[prompt], misses = None, 0
        if misses > 5000 + 50 * len(found):
            raise ValueError(f"{task!r} has {len(found)} {split} prompts, not {n}; take fewer")
    return list(found)


def corpus(task, n, rng):
    """n (prompt, response) texts on training prompts, which may repeat."""
    pairs = []
    while len(pairs) < n:
        prompt = TASKS[task].ask(rng)
        if split_of(prompt) == "train":
            pairs.append((prompt, TASKS[task].answer(prompt, rng)))
    return pairs
