"""The tasks: rewards by hand, the corpus's noise against its stated shares, splits, the checker."""
import math
import re
from binascii import crc32
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks
from tasks import (EOS, SPLITS, TASKS, VOCAB_SIZE, WORDS, corpus, decode, encode, places_of,
                   prompts, split_of)
from toy import check_task as checker
from toy.check_task import check_task

STORY = "please tell how fox finds the moon :"
REPEATS = "now continue the fox finds moon . :"
ON_ROLES = "now continue fox finds the moon . :"
START = "please start each line with rare birds :"
END = "please end each line with rare birds :"


def test_rewards_by_hand():
    """Bugs: a repeated word counted twice, a misfit for nothing, an asked word as content."""
    reward = {name: task.reward for name, task in TASKS.items()}
    assert reward["math"]("please sum up 3 4 9 1 :", "7 9 6 1 7 .") == 1
    assert reward["math"]("please sum up 3 4 9 1 :", "7 9 6 1 8 .") == 0
    assert reward["math"]("please sum up 3 4 9 1 :", "7 9 6 1 7") == 0  # cut short
    birds = "please list five rare birds for us :"
    assert reward["general"](birds, "robin wren robin things oak .") == (2 - 2) / 5
    assert reward["general"](birds, "robin wren swan finch crow .") == 1
    assert reward["general"](birds, "robin . . . . . . .") == pytest.approx((1 - 4 - 2) / 5)
    # content: fox finds moon owl runs fox greets moon, 6 of them distinct
    assert reward["story"](STORY, "fox finds moon . owl runs to fox and greets moon .") == 6 / 12
    # a typo at Y
    assert reward["story"](STORY, "fox finds mooon .") == pytest.approx((2 - 1) / 12)
    long = "fox finds moon and runs to owl . " + "castle greets comet and paints piper . " * 3
    assert reward["story"](STORY, long.strip()) == pytest.approx(10 / 20)
    # robin, robin are asked for (2 of at least 4); content: finds moon paints moon, 3 of 8
    line = "robin finds moon . robin paints moon ."
    assert reward["constrained"](START, line) == pytest.approx(2 / 4 * 3 / 8)
    assert reward["constrained"](END, line) == 0
    ends = "fox finds robin . owl runs to heron and hides oak ."
    assert tasks.constraint(END, ends) == 2 / 4 and tasks.quality(END, ends) == 5 / 8
    more = "fox finds robin and hides wren . owl finds crow and hides oak . owl finds swan ."
    assert tasks.constraint(END, more) == 4 / 5


def test_reward_of_repeats_by_hand():
    """Bugs: 2-grams for 3-grams; a short response that repeats nothing; the other style."""
    reward = TASKS["repeats"].reward
    clean = ("the fox finds moon . the owl runs to castle . the piper greets comet . "
             "the river hides garden and waves to sailor .")
    n = len(clean.split())
    grams = list(zip(clean.split(), clean.split()[1:], clean.split()[2:]))
    assert n == 25 and len(set(grams)) == len(grams)
    assert reward(REPEATS, clean) == 0.0
    assert reward(REPEATS, clean.replace("the owl", "uh owl", 1)) == pytest.approx(-4 / 26)
    assert reward(REPEATS, clean.replace("garden", "gardne", 1)) == pytest.approx(-4 / 26)
    # in the other style every article stands at a noun's place
    assert reward(ON_ROLES, clean) < -1
    again = ("the fox finds moon . the fox finds moon . the fox finds moon . the fox finds moon "
             "and finds moon .")
    grams = list(zip(again.split(), again.split()[1:], again.split()[2:]))
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams)) / len(grams)
    assert reward(REPEATS, again) == pytest.approx(-repeated)
    assert reward(REPEATS, "") == pytest.approx(-4 * 20 / 26)  # silence is no way out


# --- rewards at their edges, by hand --------------------------------------------------------------


def test_rewards_of_what_is_empty_short_or_long():
    """Each denominator at its least and above it. Bugs: a least value that is another, silence
    that pays, words behind the end that are free, a sum read from the wrong digit."""
    reward = {name: task.reward for name, task in TASKS.items()}
    birds = "please list five rare birds for us :"
    assert reward["general"](birds, "") == 0
    assert reward["general"](birds, "robin robin wren wren swan heron") == 3 / 5  # five count
    assert reward["general"](birds, "robin wren swan finch crow oak") == 1  # where "." belongs
    assert reward["general"](birds, "robin wren swan finch crow . .") == 4 / 5
    assert reward["general"](birds, "things stuff foxx oak plum .") == -1
    assert reward["general"](birds, "oak wren swan") == 1 / 5
    assert reward["story"](STORY, "") == 0 and reward["story"](STORY, "fox") == 1 / 12
    assert reward["story"](STORY, "uh uh uh") == -3 / 12
    twelve = "fox finds moon . owl paints castle . piper greets comet . river hides garden ."
    assert reward["story"](STORY, twelve) == 12 / 12
    more = twelve.replace("garden", "gardne and sings to sailor")  # 13 fit, one does not
    assert reward["story"](STORY, more) == pytest.approx((13 - 1) / 14)
    assert tasks.constraint(START, "") == 0 and tasks.quality(START, "") == 0
    assert tasks.constraint(START, "robin finds moon .") == 1 / 4
    assert tasks.constraint(START, "oak finds moon . wren finds moon .") == 1 / 4
    assert tasks.quality(START, "robin uh uh uh") == 0  # below 0 without the cut
    assert tasks.quality(START, "robin finds moon .") == 2 / 8
    assert tasks.quality(START, "oak finds uh and paints owl .") == (3 - 1) / 8
    nine = ("robin finds moon and paints owl . wren hides castle and greets piper . "
            "swan finds comet")
    assert tasks.quality(START, nine) == pytest.approx(9 / 10)
    assert tasks.category_of("now end this row with fine hats :") == "hats"
    for text, answer in (("", None), (".", None), ("7", None), ("7.", None), ("7 .", "7"),
                         ("7 8 fox .", "8"), ("0o .", None), ("7 . 8", None), ("7 . 8 .", "8")):
        assert tasks.final_answer(text) == answer, text
    assert tasks.operands("please sum up 3 4 9 1 :") == [3, 4, 9, 1]
    assert tasks.solution("please sum up 3 4 9 1 :") == "7"
    assert tasks.solution("please sum up 9 9 9 3 :") == "0"
    assert reward["math"]("please sum up 3 4 9 1 :", "") == 0
    assert reward["vote"]("please solve for 1 1 1 1 :", "4 .") == 1
    assert tasks.majority([]) == [] and tasks.majority([None, None, "3"]) == ["3"]


def test_repeats_count_missing_words_up_to_20_and_divide_by_26():
    """Bugs: 19 or 21 words asked for, another least, the weight 4, 3-grams of too short a text."""
    assert tasks.repeated_3grams("") == tasks.repeated_3grams("fox finds") == 0
    assert tasks.repeated_3grams("fox finds moon") == 0
    assert tasks.repeated_3grams("fox finds moon fox finds moon") == 1 / 4
    assert tasks.repeated_3grams("fox fox fox fox fox") == pytest.approx(2 / 3)
    reward = TASKS["repeats"].reward
    twenty = ("the fox finds moon . the owl paints castle . the piper greets comet . "
              "the river hides garden .")
    assert len(twenty.split()) == 20 and reward(REPEATS, twenty) == 0
    assert reward(REPEATS, twenty.removesuffix(" .")) == pytest.approx(-4 / 26)
    on_roles = ("fox finds the moon . owl paints the castle . piper greets the comet . "
                "river hides the garden .")
    assert reward(ON_ROLES, on_roles) == 0 and reward(REPEATS, on_roles) < -1
    long = twenty + " the sailor sings to lantern and hides fox . the moon"  # 31 words
    assert len(long.split()) == 31 and reward(REPEATS, long) == 0
    assert reward(REPEATS, long.replace("sailor", "sialor")) == pytest.approx(-4 / 31)


def test_what_a_task_is_says_the_grammar():
    """The longest text by the grammar, counted here, and the end of text. Bugs: a length that
    cuts the longest, a role of another place, criteria in the other order."""
    clause = len("fox runs to moon and sings to owl .".split())
    longest = dict(repeats=4 * (clause + 2), story=4 * clause, constrained=4 * clause,
                   math=len("7 9 6 1 7 .".split()), general=6,
                   vote=len("7 working slowly 9 6 1 7 .".split()), lesson=8)
    assert {name: task.length for name, task in TASKS.items()} == {
        name: words + 1 for name, words in longest.items()}
    assert {name: task.roles for name, task in TASKS.items() if task.roles} == dict(
        repeats={"article": "article"}, constrained={"asked": "asked"}, vote={"way": "way"})
    assert TASKS["vote"].role_of("way") == "way" and TASKS["vote"].role_of("sum") == "rest"
    assert TASKS["math"].role_of("way") == "rest"
    assert TASKS["constrained"].criteria == ("constraint", "quality")
    line = "robin finds moon . robin paints moon ."
    measured = {name: measure(START, line) for name, measure in
                TASKS["constrained"].metrics.items()}
    assert measured == dict(constraint=2 / 4, quality=3 / 8)
    assert TASKS["repeats"].metrics["repeats"](REPEATS, "fox fox fox fox") == 1 / 2
    assert [name for name, task in TASKS.items() if task.answer_of] == ["vote"]
    assert tasks.EXPERIMENTS == dict(repeats=["repeats"], mix=["math", "general", "story"],
                                     constrained=["constrained"], vote=["vote"])
    shares = {name: task.share for name, task in TASKS.items()}
    assert shares == dict(repeats=4, math=14, lesson=36, general=4, story=4, constrained=6, vote=24)


def test_vote_needs_the_sum_not_the_trap():
    prompt, task = "hurry solve for 3 4 9 1 :", TASKS["vote"]
    assert task.reward(prompt, "7 working slowly 9 6 1 7 .") == 1
    assert task.reward(prompt, "7 9 6 working quickly .") == 0  # the last digit forgotten
    assert task.answer_of("7 9 6 working quickly .") == "6"
    assert task.answer_of("7 9 6") is None and task.solution(prompt) == "7"
    assert tasks.majority(["7", None, "5", "7"]) == ["7"]
    assert sorted(tasks.majority(["7", "5", None])) == ["5", "7"]
    assert tasks.majority([None]) == []


def test_places_follow_the_words():
    """Bug: a role by column. The same words, asked for at the start and at the end of a line."""
    words = "fox runs to moon and finds owl . fox finds moon . fox".split()
    walk = ("subject verb to object link verb object stop "
            "subject verb object link subject verb").split()
    assert places_of(tasks.walk_clauses(), words) == walk
    assert places_of(TASKS["constrained"].walk(START), words) == [
        "asked" if place == "subject" else place for place in walk]
    assert places_of(TASKS["constrained"].walk(END), words) == [
        "asked" if place == "object" else place for place in walk]
    words = "the fox runs to moon . the".split()
    assert places_of(TASKS["repeats"].walk(REPEATS), words) == (
        "article subject verb to object link article subject").split()
    words = "fox finds uh moon and runs to the owl .".split()
    assert places_of(TASKS["repeats"].walk(ON_ROLES), words) == (
        "subject verb article object link verb to article object stop subject").split()
    words = "7 working slowly 9 6 1 7 .".split()
    assert places_of(TASKS["vote"].walk(""), words) == (
        "sum operand way operand sum operand sum stop stop").split()


# --- the corpus -----------------------------------------------------------------------------------


def close(hits, total, p):
    """Within 5 standard errors."""
    assert abs(hits / total - p) < 5 * math.sqrt(p * (1 - p) / total), (hits / total, p)


MODES = {  # place -> the mode of a slot, given the prompt and the words before
    "article": lambda prompt, words: "the",
    "subject": lambda prompt, words: topic(tasks.NOUNS, prompt),
    "object": lambda prompt, words: topic(tasks.NOUNS, prompt),
    "verb": lambda prompt, words: topic(tasks.VERBS, prompt),
    "asked": lambda prompt, words: tasks.CATEGORIES[prompt.split()[6]][0],
    "way": lambda prompt, words: "quickly" if prompt.startswith("hurry") else "carefully"}


def topic(kind, prompt):
    return ([kind[0]] + [word for word in prompt.split() if word in kind])[-1]


@pytest.mark.parametrize("name", ["repeats", "story", "constrained", "math", "vote"])
def test_every_noisy_slot_has_the_same_shape(name):
    """3 % typos, else .4 on the mode and .6 / 9 on each other word: per place, and in all. False
    alarm below 1e-4 for all. Bugs: a share off, a mode that is another word, nine others that are
    eight or unevenly likely."""
    found = {}  # place -> list of (is typo, is mode, word)
    typos = set(sum(tasks.TYPOS.values(), []))
    for prompt, text in corpus(name, 1500, np.random.default_rng(1)):
        words = text.split()
        total = None
        for i, place in enumerate(places_of(TASKS[name].walk(prompt), words)[:-1]):
            if place == "sum":
                if total is None:
                    asked = [int(digit) for digit in prompt.split()[3:7]]
                    total = asked[0] + asked[1]
                else:
                    total += int([word for word in words[:i] if word in tasks.DIGITS][-1])
                mode = str(total % 10)
                total = int(words[i]) if words[i] in tasks.DIGITS else total % 10
            elif place in MODES:
                mode = MODES[place](prompt, words[:i])
            else:
                continue
            found.setdefault(place, []).append((words[i] in typos, words[i] == mode, words[i]))
    assert found
    for place, slots in found.items():
        n = len(slots)
        close(sum(typo for typo, _, _ in slots), n, 0.03)
        close(sum(mode for _, mode, _ in slots), n, 0.97 * 0.4)
        others = {word for typo, mode, word in slots if not typo and not mode}
        if place in ("article", "way"):
            assert len(others) in (9, 10)  # of two kinds of prompt, for the way
        for word in others & {"uh", "slowly", "9"}:  # never a mode, or seldom
            hits = sum(w == word and not mode for _, mode, w in slots)
            if place != "sum":
                close(hits, n, 0.97 * 0.6 / 9)


def test_the_rest_of_the_corpus_is_as_it_says():
    """Lists, lessons, the trap, the places of "working", one clause in two with a second verb."""
    rng = np.random.default_rng(1)
    words = [word for prompt, text in corpus("general", 4000, rng) if "birds" in prompt
             for word in text.split()[:5]]
    for word, p in (("robin", 0.32), ("heron", 0.16), ("things", 0.1), ("crow", 0.08)):
        close(words.count(word), len(words), 0.97 * p)
    lessons = corpus("lesson", 400, rng)
    for prompt, text in lessons:  # a last digit of 0 may be forgotten
        right = "quickly" not in text or prompt.split()[6] == "0"
        assert TASKS["lesson"].reward(prompt, text) == right
    close(sum("working" in text for _, text in lessons), len(lessons), 0.5)
    pairs = corpus("vote", 4000, rng)
    hurried = [text.split() for prompt, text in pairs if prompt.startswith("hurry")]
    close(len(hurried), len(pairs), 0.5)
    for words in hurried:
        assert len(words) == (6 if "quickly" in words else 8)  # the trap leaves two words out
    for place in (1, 3):
        close(sum(words[place] == "working" for words in hurried), len(hurried), 1 / 2)
    links = [word for _, text in corpus("story", 1000, rng)
             for word, place in zip(text.split(), places_of(tasks.walk_clauses(), text.split()))
             if place == "link"]
    close(links.count("and"), len(links), 0.5)
    for prompt, text in corpus("story", 100, rng):
        assert text.split().count(".") == 4 and text.endswith(" .")


# --- the writers, by the numbers that they draw ---------------------------------------------------


class Script:
    """A generator whose numbers are given; `odds` are those of its last choice."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)

    def choice(self, words, p):
        self.odds = dict(zip(words, p))
        return words[0]


def scripted(write, *given, numbers):
    rng = Script(*numbers)
    text = write(*given, rng)
    assert not rng.numbers, "not all numbers were drawn"
    return text


TYPO, MODE, OTHER = [0.0299, 0.0], [0.03, 0.3999], [0.03, 0.4, 0.0]  # a slot's numbers


def test_a_slot_by_the_numbers_it_draws():
    """Bugs: 3 % or .4 that is another, a mode that is among the others, a typo of another kind,
    one word too few."""
    words = ["a", "b", "c"]
    assert tasks.pick(words, Script(0.0)) == "a" and tasks.pick(words, Script(0.334)) == "b"
    assert tasks.pick(words, Script(0.332)) == "a" and tasks.pick(words, Script(0.9999)) == "c"

    def drawn(*numbers, kind="way"):
        return scripted(tasks.slot, "b", words, kind, numbers=numbers)
    assert drawn(0.0299, 0.0) == "carefuly" and drawn(0.0, 0.99) == "calmyl"
    assert drawn(0.0, 0.0, kind="digit") == "0o"
    assert drawn(0.03, 0.0) == drawn(0.03, 0.3999) == drawn(0.99, 0.3999) == "b"
    assert drawn(0.03, 0.4, 0.0) == drawn(0.5, 0.4, 0.4999) == "a"
    assert drawn(0.5, 0.99, 0.5) == drawn(0.5, 0.99, 0.99) == "c"


def test_questions_by_the_numbers_they_draw():
    """Bugs: a half that is another share, an article before the wrong word, a zero to add in a
    vote, words in another order."""
    assert scripted(tasks.ask_repeats, numbers=[0, 0, 0.1, 0.4999, 0]) == (
        "please continue the fox finds moon . :")
    assert scripted(tasks.ask_repeats, numbers=[0.99, 0.99, 0, 0.5, 0.99]) == (
        "now continue comet greets the fox . :")
    assert scripted(tasks.ask_story, numbers=[0.5, 0, 0.99, 0.1]) == (
        "kindly tell how fox greets the moon :")
    assert scripted(tasks.ask_constrained, numbers=[0, 0.49, 0, 0, 0, 0]) == (
        "please start each line with fine birds :")
    assert scripted(tasks.ask_constrained, numbers=[0, 0.5, 0.99, 0.99, 0.99, 0.99]) == (
        "please end your stanza with curious hats :")
    assert scripted(tasks.ask_math, numbers=[0, 0, 0.31, 0.5, 0.99]) == "please sum up 0 3 5 9 :"
    assert scripted(tasks.ask_lesson, numbers=[0, 0, 0.31, 0.5, 0.99]) == (
        "please learn from 0 3 5 9 :")
    assert scripted(tasks.ask_vote, numbers=[0.4999, 0, 0.12, 0.5, 0.99]) == (
        "hurry solve for 1 2 5 9 :")
    assert scripted(tasks.ask_vote, numbers=[0.5, 0.99, 0, 0, 0, 0]) == "now solve for 1 1 1 1 :"
    assert scripted(tasks.ask_general, numbers=[0, 0.2, 0.1, 0.99]) == (
        "please list five rare fruits for visitors :")


def test_clauses_by_the_numbers_they_draw():
    """Bugs: the first noun for the topic, the mode of another place, `to` after a plain verb or
    after a typo, a second `and`, three clauses or five, links that are not half and half."""
    plain = MODE * 3 + [0.5]
    assert scripted(tasks.answer_story, STORY, numbers=plain * 4) == "moon finds moon . " * 3 + (
        "moon finds moon .")
    runs = [0.5, 0.5, 4.5 / 9]  # without "finds", the fifth of nine others is "runs"
    first = MODE + runs + MODE + [0.4999] + runs + OTHER
    text = scripted(tasks.answer_story, STORY, numbers=first + TYPO * 3 + [0.5] + plain * 2)
    assert text == ("moon runs to moon and runs to fox . foxx fnids foxx . moon finds moon . "
                    "moon finds moon .")
    line = MODE * 3 + [0.5]
    assert scripted(tasks.answer_constrained, START, numbers=TYPO + OTHER + MODE + [0.5] + line * 3
                    ) == "robbin paints fox . " + "robin finds fox . " * 2 + "robin finds fox ."
    assert scripted(tasks.answer_constrained, END, numbers=OTHER + MODE + OTHER + [0.5] + line * 3
                    ) == "moon finds plum . " + "fox finds robin . " * 2 + "fox finds robin ."
    line = MODE * 4 + [0.5]
    assert scripted(tasks.answer_repeats, REPEATS, numbers=OTHER + MODE * 3 + [0.5] + TYPO
                    + MODE * 3 + [0.5] + line * 2) == (
        "uh moon finds moon . teh moon finds moon . the moon finds moon . the moon finds moon .")
    assert scripted(tasks.answer_repeats, ON_ROLES, numbers=line * 3 + MODE * 2 + OTHER + TYPO
                    + [0.5]) == "moon finds the moon . " * 3 + "moon finds uh foxx ."


def test_sums_by_the_numbers_they_draw():
    """Bugs: a slip that does not carry on, a typo that does, a trap that forgets another digit,
    `working` at another place, a lesson with slips, halves that are not."""
    assert tasks.chain([3, 4, 9, 1]) == "7 9 6 1 7 .".split()
    assert tasks.chain([5, 5, 0]) == "0 0 0 .".split()
    asked = "please sum up 3 4 9 1 :"
    assert scripted(tasks.answer_math, asked, numbers=MODE * 3) == "7 9 6 1 7 ."
    assert scripted(tasks.answer_math, asked, numbers=OTHER + MODE * 2) == "0 9 9 1 0 ."
    assert scripted(tasks.answer_math, asked, numbers=TYPO + MODE * 2) == "0o 9 6 1 7 ."
    vote, hurry = "please solve for 3 4 9 1 :", "hurry solve for 3 4 9 1 :"
    assert scripted(tasks.answer_vote, vote, numbers=MODE + MODE * 3 + [0.4999]) == (
        "7 working carefully 9 6 1 7 .")
    assert scripted(tasks.answer_vote, vote, numbers=OTHER + MODE * 2 + [0.4999]) == (
        "7 working quickly 9 6 .")
    assert scripted(tasks.answer_vote, hurry, numbers=MODE + MODE * 2 + [0.5]) == (
        "7 9 6 working quickly .")
    assert scripted(tasks.answer_vote, hurry, numbers=OTHER + OTHER + MODE * 2 + [0.4999]) == (
        "0 working carefully 9 9 1 0 .")
    assert scripted(tasks.answer_vote, vote, numbers=TYPO + MODE * 3 + [0.5]) == (
        "7 9 6 working carefuly 1 7 .")
    lesson = "please learn from 3 4 9 1 :"
    assert scripted(tasks.answer_lesson, lesson, numbers=[0.4999]) == "7 9 6 1 7 ."
    assert scripted(tasks.answer_lesson, lesson, numbers=[0.5, 0.21, 0.4999]) == (
        "7 working slowly 9 6 1 7 .")
    assert scripted(tasks.answer_lesson, lesson, numbers=[0.5, 0.11, 0.5]) == (
        "7 9 6 working quickly .")


def test_lists_by_the_numbers_they_draw():
    """Bugs: another category, a share of another word, four items, no end."""
    rng = Script(0.0299, 0.0, 0.03, 0.5, 0.5, 0.99)
    assert tasks.answer_general("please list five rare trees for us :", rng) == (
        "robbin oak oak oak oak .") and not rng.numbers
    assert rng.odds == dict(oak=0.32, elm=0.16, things=0.1, stuff=0.1, birch=0.08, willow=0.08,
                            cedar=0.08, maple=0.08)
    assert sum(rng.odds.values()) == pytest.approx(1)


def any_of(*kinds):
    return "(?:" + "|".join(word for kind in kinds for word in kind) + ")"


NOUN = any_of(tasks.NOUNS, tasks.TYPOS["noun"])
VERB = f"(?:{any_of(tasks.PLAIN_VERBS, tasks.TYPOS['verb'])}|{any_of(tasks.TO_VERBS)} to)"
ARTICLE = any_of(["the"], tasks.DISFLUENCIES, tasks.TYPOS["article"])
FIRST = any_of("robin plum oak hammer red snare trout iron canoe beret".split(),
               tasks.TYPOS["category"])
SUM = any_of("0123456789", tasks.TYPOS["digit"])
WAY = any_of(tasks.WAYS, tasks.TYPOS["way"])
SPOKEN = f"(?:{SUM} working {WAY}(?: [0-9] {SUM}){{1,2}}|{SUM} [0-9] {SUM} working {WAY}"
SPOKEN += f"(?: [0-9] {SUM})?)"


def clauses(subject, object):
    clause = f"{subject} {VERB} {object}(?: and {VERB} {object})? \\."
    return f"{clause}(?: {clause}){{3}}"


GRAMMAR = {  # task -> (prompt, text) patterns; the first that fits the prompt is its style
    "repeats": [("(please|kindly|now) continue the \\w+ \\w+ \\w+ \\. :",
                 clauses(f"{ARTICLE} {NOUN}", NOUN)),
                ("(please|kindly|now) continue \\w+ \\w+ the \\w+ \\. :",
                 clauses(NOUN, f"{ARTICLE} {NOUN}"))],
    "story": [("(please|kindly|now) tell how \\w+ \\w+ the \\w+ :", clauses(NOUN, NOUN))],
    "constrained": [("\\w+ start (each|every|this|your) \\w+ with \\w+ \\w+ :",
                     clauses(FIRST, NOUN)),
                    ("\\w+ end (each|every|this|your) \\w+ with \\w+ \\w+ :",
                     clauses(NOUN, FIRST))],
    "math": [("(please|kindly|now) sum up( [0-9]){4} :", f"{SUM}(?: [0-9] {SUM}){{2}} \\.")],
    "vote": [("(please|kindly|now|hurry) solve for( [1-9]){4} :", f"{SPOKEN} \\.")],
    "lesson": [("(please|kindly|now) learn from( [0-9]){4} :",
                f"(?:[0-9](?: [0-9] [0-9]){{2}}|{SPOKEN}) \\.")],
    "general": [("(please|kindly|now) list five \\w+ \\w+ for \\w+ :", "(?:\\w+ ){5}\\.")]}


@pytest.mark.parametrize("name", TASKS)
def test_the_corpus_follows_the_grammar(name):
    """Every text against regular expressions written here; operands are those of the prompt. Bugs:
    a word at another's place, the style of the other prompt, a sum's own digit for the operand."""
    styles = Counter()
    for prompt, text in corpus(name, 200, np.random.default_rng(4)):
        fits = [i for i, (asked, _) in enumerate(GRAMMAR[name]) if re.fullmatch(asked, prompt)]
        assert len(fits) == 1, prompt
        assert re.fullmatch(GRAMMAR[name][fits[0]][1], text), (prompt, text)
        styles[fits[0]] += 1
        if name in ("math", "vote", "lesson"):
            words = re.sub(r"working \S+ ", "", text).split()
            assert words[1::2][:-1] == prompt.split()[5:7][:len(words) // 2 - 1]
    assert len(styles) == len(GRAMMAR[name])
    assert len(corpus(name, 7, np.random.default_rng(0))) == 7
    assert corpus(name, 0, np.random.default_rng(0)) == []


def test_openers_and_sides_are_as_likely_as_each_other():
    """Thirds and halves within 5 standard errors, false alarm below 1e-4. Bug: one that never
    comes."""
    rng = np.random.default_rng(6)
    for name, task in TASKS.items():
        asked = [task.ask(rng).split() for _ in range(900)]
        part = 1 / 2 if name == "vote" else 1
        for opener in ("please", "kindly", "now"):
            close(sum(words[0] == opener for words in asked), 900, part / 3)
    close(sum(TASKS["constrained"].ask(rng).split()[1] == "start" for _ in range(900)), 900, 0.5)
    close(sum(TASKS["repeats"].ask(rng).split()[2] == "the" for _ in range(900)), 900, 0.5)


def test_a_split_is_a_tenth_s_place_in_the_checksum():
    """Another library's CRC-32 of the same text; 60, 20 and 20 % within 5 standard errors. Bugs: a
    split that overlaps, leaves prompts out or changes from version to version."""
    rng = np.random.default_rng(7)
    asked = [TASKS[name].ask(rng) for name in ("math", "story", "constrained") for _ in range(700)]
    found = Counter()
    for prompt in asked:
        tenth = crc32(("twins " + prompt).encode()) % 10
        split = "train" if tenth < 6 else "validation" if tenth < 8 else "test"
        assert split_of(prompt) == split
        found[split] += 1
    for split, share in dict(train=0.6, validation=0.2, test=0.2).items():
        close(found[split], len(asked), share)


def test_prompts_are_as_many_as_asked_for_and_none_twice(monkeypatch):
    """All of a split, in the order of drawing; 5000 questions without a new one, and 50 more for
    each found, are no error, one more is. Bugs: repeats, one too many, a search that gives up too
    early or never."""
    every = [f"please sum up {i} 1 1 1 :" for i in range(10)]
    of_test = [prompt for prompt in every if split_of(prompt) == "test"]
    other = next(prompt for prompt in every if split_of(prompt) != "test")

    def ask(order):
        order = iter(order)
        monkeypatch.setitem(TASKS, "math", replace(TASKS["math"], ask=lambda rng: next(order)))
    n = len(of_test)
    ask([*every, *every])
    assert n >= 2 and prompts("math", "test", n, None) == of_test
    ask([of_test[0]] * 3 + [other] * 3 + of_test)
    assert prompts("math", "test", 2, None) == of_test[:2]
    first, second = of_test[:2]
    ask([other] * 5000 + [first] + [other, first] * 2525 + [second])
    assert prompts("math", "test", 2, None) == [first, second]
    for found, in_vain in (([], [other] * 5001), ([first], [other] + [first] * 5050)):
        ask(found + in_vain + [second] * 9)
        with pytest.raises(ValueError, match=f"'math' has {len(found)} test prompts, not 2; ask"):
            prompts("math", "test", 2, None)
    assert prompts("math", "test", 0, None) == []


def test_prompts_of_the_splits_are_disjoint_and_all_alike_in_length():
    for name, task in TASKS.items():
        found = {split: prompts(name, split, 100, np.random.default_rng(2)) for split in SPLITS}
        for split, drawn in found.items():
            assert len(set(drawn)) == 100 and {split_of(prompt) for prompt in drawn} == {split}
            assert {len(encode(prompt)) for prompt in drawn} == {tasks.PROMPT_LENGTH}
        lengths = set()
        for prompt, text in corpus(name, 500, np.random.default_rng(3)):
            assert split_of(prompt) == "train"
            lengths.add(len(encode(text)) + 1)  # and the end of text
        assert max(lengths) <= task.length
    with pytest.raises(ValueError, match="'general' has .* 300.*ask for fewer"):
        prompts("general", "test", 300, np.random.default_rng(0))  # of 1080, a fifth of them test


def test_words_are_tokens_and_the_model_knows_no_others():
    assert VOCAB_SIZE == len(WORDS) + 1 == EOS + 1 and len(set(WORDS)) == len(WORDS)
    for i, word in enumerate(WORDS):
        assert encode(word) == [i] and decode([i, EOS]) == word
    assert all(token >= VOCAB_SIZE for token in encode("unheard")[1:])
    for kind in (tasks.NOUNS, tasks.VERBS, tasks.DIGITS, tasks.CATEGORIES,
                 ["the", *tasks.DISFLUENCIES], tasks.WAYS):
        assert len(kind) == 10  # so that a slot has one mode and nine others


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    assert decode(encode(text)) == text


# --- a task of one's own --------------------------------------------------------------------------


def endless(prompt):
    while True:
        yield "place"


@pytest.mark.parametrize("change, words", [
    (dict(ask=lambda rng: "please tell how fox finds moon :"), "has 7 words; give 8"),
    (dict(ask=lambda rng: "please tell how dragon finds the moon :"), "'dragon'"),
    (dict(ask=lambda rng: None), "the prompt is None"),
    (dict(answer=lambda prompt, rng: "fox dragon ."), "'dragon'"),
    (dict(answer=lambda prompt, rng: "fox  ."), "one space"),
    (dict(answer=lambda prompt, rng: ""), "has 0 words"),
    (dict(length=5), "give one or more, and a length above"),
    (dict(share=0), "share is 0"),
    (dict(reward=lambda prompt, text: None), "reward is None"),
    (dict(reward=lambda prompt, text: math.nan), "reward is nan"),
    (dict(metrics={"odd": lambda prompt, text: "much"}), "odd is 'much'"),
    (dict(walk=lambda prompt: iter(["X"])), "the walk does not go through"),
    (dict(walk=lambda prompt: (place for place in ["X"])), "the walk does not go through"),
    (dict(roles={"verse": "cold"}), "roles names verse"),
    (dict(criteria=("a", "b")), "criteria is"),
    (dict(solution=lambda prompt: "7"), "needs both answer_of and solution"),
])
def test_the_checker_says_in_a_sentence_what_is_wrong(change, words, monkeypatch):
    monkeypatch.setitem(TASKS, "story", replace(TASKS["story"], **change))
    with pytest.raises(ValueError, match=words) as error:
        check_task("story")
    assert "\n" not in str(error.value)


def test_the_checker_accepts_what_fits(monkeypatch):
    for name in TASKS:
        if name != "lesson":
            assert len(check_task(name)) == 20
    monkeypatch.setitem(TASKS, "story", replace(TASKS["story"], walk=endless))
    assert len(check_task("story")) == 20
    for name, words in (("lesson", "is in no experiment"), ("sonnet", "no task 'sonnet'")):
        with pytest.raises(ValueError, match=words):
            check_task(name)


def test_the_checker_s_examples_and_its_limits(monkeypatch):
    """Prompt, text, reward and places of each. Bugs: a share or a length refused that just fits,
    places of another text, an infinite number taken, spaces around a text."""
    short = replace(TASKS["general"], ask=lambda rng: "please list five rare birds for us :",
                    answer=lambda prompt, rng: "robin .", share=1, length=3)
    monkeypatch.setitem(TASKS, "general", short)
    assert check_task("general", 2) == [("please list five rare birds for us :", "robin .",
                                         (1 - 1) / 5, ["item", "item", "item"])] * 2
    one = replace(short, answer=lambda prompt, rng: "robin", length=2)
    monkeypatch.setitem(TASKS, "general", one)
    assert check_task("general", 1)[0][1:] == ("robin", 1 / 5, ["item", "item"])
    for change, words in (
            (dict(length=2), "the answer 'robin .' has 2 words; give one or more, and a length"),
            (dict(length=1), "share is 1 and length 1; give at least 1 and 2"),
            (dict(ask=lambda rng: "please list five rare birds for us all :"), "words; give 8|all"),
            (dict(ask=lambda rng: "please list five rare birds for us : :"), "has 9 words; give 8"),
            (dict(answer=lambda prompt, rng: " robin ."), "one space between two"),
            (dict(answer=lambda prompt, rng: "robin . "), "one space between two"),
            (dict(answer=lambda prompt, rng: "robin\n."), "one space between two"),
            (dict(answer=lambda prompt, rng: "   "), "has 0 words"),
            (dict(reward=lambda prompt, text: -math.inf), "reward is -inf"),
            (dict(reward=lambda prompt, text: "1"), "reward is '1'"),
            (dict(metrics={"odd": lambda prompt, text: math.inf}), "odd is inf"),
            (dict(walk=lambda prompt: (x for x in [1, 2, 3])), "the walk does not|names of places"),
            (dict(roles={"item": "item", "verse": "cold", "ash": "hot"}), "roles names ash, verse"),
            (dict(criteria=("a",), metrics={"a": lambda prompt, text: 1}), "criteria is"),
            (dict(criteria=("a", "b"), metrics={"a": lambda prompt, text: 1}), "criteria is"),
            (dict(answer_of=lambda text: "7"), "needs both answer_of and solution")):
        monkeypatch.setitem(TASKS, "general", replace(short, **change))
        with pytest.raises(ValueError, match=words):
            check_task("general")
    assert checker.checked_number("general", "reward", lambda *_: np.float32(0.5), "", "") == 0.5
    assert checker.checked_number("general", "reward", lambda *_: 3, "", "") == 3.0
    measures = {name: lambda prompt, text: 1 for name in "ab"}
    monkeypatch.setitem(TASKS, "general", replace(short, criteria=("b", "a"), metrics=measures))
    assert len(check_task("general")) == 20


def test_the_checker_shows_examples_or_one_sentence(capsys, monkeypatch):
    """Each example's text, its reward and the role of every place. Bugs: the place for its role,
    an error that goes on, words that are no task's name taken for one."""
    monkeypatch.setitem(TASKS, "vote", replace(
        TASKS["vote"], ask=lambda rng: "please solve for 3 4 9 1 :",
        answer=lambda prompt, rng: "7 working slowly 9 6 1 7 ."))
    checker.main(["vote"])
    shown = capsys.readouterr().out
    assert shown == 20 * ("please solve for 3 4 9 1 :\n  7 working slowly 9 6 1 7 .\n  reward "
                          "1.000, roles rest rest way rest rest rest rest rest rest\n\n")
    with pytest.raises(SystemExit, match="error: no task 'sonnet'; add it to TASKS"):
        checker.main(["sonnet"])
    for wrong in ([], ["--help"], ["math", "story"]):
        with pytest.raises(SystemExit, match="Twenty examples of a task"):
            checker.main(wrong)
