"""The diagram of the method, with both levels:  python -m results.diagram

It has no data. Blue is the token level and orange the sequence level, as in the figures.
"""
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from toy.figures import FIXED, SEQUENCE, SHADES, TOKEN, ink_on, plot, shades

FIGURES = Path(__file__).resolve().parent / "figures"
TAUS = (0.0, 0.4, 0.8, 1.2)
WORDS = ("robin", "finds", "owl", ".")  # a line that should start with a bird
SAMPLED = (0.0, 1.2, 0.8, 0.4)


def box(axis, x, y, text, width, edge="black", face="white", ink="black", height=9, **options):
    """A box around a text, its middle at (x, y)."""
    axis.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, fc=face, ec=edge,
                                  lw=1.3, boxstyle="round,pad=0,rounding_size=1.5"))
    axis.text(x, y, text, ha="center", va="center", color=ink, **dict(fontsize=10) | options)


def arrow(axis, *points, colour="black"):
    """Through points, with its head at the last."""
    xs, ys = zip(*points)
    axis.plot(xs[:-1], ys[:-1], color=colour, lw=1.4)
    axis.annotate("", points[-1], points[-2], arrowprops=dict(
        arrowstyle="-|>", color=colour, lw=1.4, shrinkA=0, shrinkB=0))


def temperature_box(axis, x, y, text, tau, width):
    shade = shades(TAUS)(tau)
    box(axis, x, y, text, width, face=SHADES(shade), ink=ink_on(shade), edge="none", height=7)


def one_word(axis, y):
    """From the text so far to a word."""
    box(axis, 10, y, "prompt and\nthe words so far", 19)
    box(axis, 33, y, "language model,\nfrozen", 18, edge=FIXED, face="#EEEEEE")
    box(axis, 56, y + 11, "AdaptiveDecoder", 20)
    box(axis, 78, y + 11, "$P(\\tau_k \\mid h)$", 15)
    temperature_box(axis, 98, y + 11, "$\\tau$ = 0.8", 0.8, 11)
    box(axis, 98, y - 9, "softmax($l\\,/\\,\\tau$)", 19)
    box(axis, 119, y - 9, "word", 11, weight="bold")
    arrow(axis, (19.5, y), (24, y))
    arrow(axis, (42, y + 2), (44, y + 2), (44, y + 11), (46, y + 11))
    axis.text(43, y + 8, "hidden state $h$", ha="right", va="bottom", fontsize=9.5)
    arrow(axis, (42, y - 2), (44, y - 2), (44, y - 9), (88.5, y - 9))
    axis.text(66, y - 8.3, "logits $l$", ha="center", va="bottom", fontsize=9.5)
    arrow(axis, (66, y + 11), (70.5, y + 11))
    arrow(axis, (85.5, y + 11), (92.5, y + 11))
    axis.text(89, y + 12, "sample", ha="center", va="bottom", fontsize=8)
    arrow(axis, (98, y + 7.5), (98, y - 4.5))
    arrow(axis, (107.5, y - 9), (113.5, y - 9))
    axis.text(110.5, y - 8.2, "sample", ha="center", va="bottom", fontsize=8)
    arrow(axis, (119, y - 13.5), (119, y - 19), (10, y - 19), (10, y - 4.5), colour=FIXED)
    axis.text(64, y - 18.5, "again, until the end of text", ha="center", va="bottom", fontsize=9.5,
              color=FIXED)


def level(axis, x, y, name, says, colour):
    """Four words, and a decision for each or one for all."""
    axis.text(x - 7, y + 12, f"{name} level", color=colour, weight="bold", fontsize=10.5)
    axis.text(x + 16, y + 12, says, fontsize=9.5)
    box(axis, x - 1, y, "prompt", 12, height=7)
    arrow(axis, (x + 5, y + 2), (x + 8, y + 4), colour=colour)
    places = [x + 13 + 12 * i for i in range(len(WORDS))]
    for at, word in zip(places, WORDS):
        box(axis, at, y - 9, word, 10, height=7)
        arrow(axis, (at, y + 0.5), (at, y - 5.5), colour=colour)
    if name == "sequence":
        temperature_box(axis, sum(places) / len(places), y + 4,
                        "$\\tau$ = 0.8 for the whole response", 0.8, 46)
        return
    for at, tau in zip(places, SAMPLED):
        temperature_box(axis, at, y + 4, f"$\\tau$ = {tau:g}", tau, 10)
    for at in places[:-1]:  # a word is read before the next decision
        arrow(axis, (at + 5, y - 8), (at + 9, y + 0.5), colour=colour)


def method(_=None):
    """Hidden state, decoder, temperature, word; below, the two levels."""
    figure = Figure(figsize=(9.6, 5.6))
    axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axis.set(xlim=(-1, 127), ylim=(-36, 40))
    axis.set_axis_off()
    one_word(axis, 20)
    level(axis, 7, -20, "token", "one decision per token", TOKEN)
    level(axis, 72, -20, "sequence", "one decision per response", SEQUENCE)
    return figure


if __name__ == "__main__":
    for path in plot(None, FIGURES, {"method": method}):
        print(path)
