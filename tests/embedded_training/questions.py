"""Questions about a drawn scene, in families: a family makes a question of a scene, or says that it cannot.

A new family is a function and a line in `FAMILIES`. Right and wrong options come from the same words, so that the text
alone does not give the answer away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from embedded_training.scene import CELLS, COLOURS, LETTERS, SHAPES, Scene, Thing

DIRECTIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}  # rows, columns
MARGIN = 30  # pixels by which "further left" and the like must hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question before its options are laid out."""

    text: str
    answer: str
    others: tuple[str, ...]  # wrong options, in random order
    about: tuple[Thing, ...]  # what must be seen to answer
    fact: str  # the sentence that answers it
    rivals: tuple[Thing, ...] = ()  # the things that `others` name, where the answer lies in comparing with them


# --- what a thing can be called -----------------------------------------------------------------------------------


def reference(scene: Scene, thing: Thing, rng: Random, *, colour: bool = True, kind: bool = True) -> str | None:
    """Name ``thing`` so that only it can be meant, or None. ``colour`` and ``kind`` say what may be given away."""
    if thing.is_letter:
        return f"the letter {thing.kind}" if kind else None
    names = []
    if kind and _only(scene.shapes, thing, "kind"):
        names.append(f"the {thing.kind}")
    if colour and _only(scene.shapes, thing, "colour"):
        names.append(f"the {thing.colour} shape")
    if kind and colour and sum(other.name == thing.name for other in scene.things) == 1:
        names.append(f"the {thing.name}")
    return rng.choice(names) if names else None


def _only(things: Sequence[Thing], thing: Thing, attribute: str) -> bool:
    return sum(getattr(other, attribute) == getattr(thing, attribute) for other in things) == 1


def _shuffled(names: Sequence[str], rng: Random, *, without: str) -> tuple[str, ...]:
    rest = [name for name in dict.fromkeys(names) if name != without]
    return tuple(rng.sample(rest, len(rest)))


def _some(things: Sequence[Thing], rng: Random) -> Iterator[Thing]:
    yield from rng.sample(things, len(things))


# --- the families: a scene -> a question, or None where the scene does not allow one --------------------------------


def colour_of(scene: Scene, rng: Random) -> Question | None:
    for thing in _some(scene.shapes, rng):
        if name := reference(scene, thing, rng, colour=False):
            return Question(
                text=f"What colour is {name}?",
                answer=thing.colour,
                others=_shuffled(tuple(COLOURS), rng, without=thing.colour),
                about=(thing,),
                fact=f"{_start(name)} is {thing.colour}.",
            )
    return None


def shape_of(scene: Scene, rng: Random) -> Question | None:
    for thing in _some(scene.shapes, rng):
        if name := reference(scene, thing, rng, kind=False):
            return Question(
                text=f"Which shape is {thing.colour}?",
                answer=thing.kind,
                others=_shuffled(SHAPES, rng, without=thing.kind),
                about=(thing,),
                fact=f"{_start(name)} is a {thing.kind}.",
            )
    return None


def letter_of(scene: Scene, rng: Random) -> Question | None:
    for thing in _some(scene.letters, rng):
        if len(scene.letters) == 1:
            text, fact = "Which letter is in the picture?", f"The letter {thing.kind} is in the picture."
        elif _only(scene.letters, thing, "colour"):
            text, fact = f"Which letter is {thing.colour}?", f"The letter {thing.kind} is {thing.colour}."
        else:
            continue
        others = _shuffled(tuple(LETTERS), rng, without=thing.kind)
        return Question(text=text, answer=thing.kind, others=others, about=(thing,), fact=fact)
    return None


def letter_colour(scene: Scene, rng: Random) -> Question | None:
    thing = rng.choice(scene.letters)
    return Question(
        text=f"What colour is the letter {thing.kind}?",
        answer=thing.colour,
        others=_shuffled(tuple(COLOURS), rng, without=thing.colour),
        about=(thing,),
        fact=f"The letter {thing.kind} is {thing.colour}.",
    )


def quarter(scene: Scene, rng: Random) -> Question | None:
    for thing in _some(scene.things, rng):
        if name := reference(scene, thing, rng):
            rows, columns = ("top", "bottom"), ("left", "right")
            names = [f"{row} {column}" for row in rows for column in columns]
            answer = f"{rows[thing.row * 2 // CELLS]} {columns[thing.column * 2 // CELLS]}"
            return Question(
                text=f"In which part of the picture is {name}?",
                answer=answer,
                others=_shuffled(names, rng, without=answer),
                about=(thing,),
                fact=f"{_start(name)} is in the {answer}.",
            )
    return None


def outermost(scene: Scene, rng: Random) -> Question | None:
    sides: dict[str, Callable[[Thing], int]] = {
        "furthest left": lambda thing: -thing.x,
        "furthest right": lambda thing: thing.x,
        "highest": lambda thing: -thing.y,
        "lowest": lambda thing: thing.y,
    }
    for side in rng.sample(tuple(sides), len(sides)):
        first, second = sorted(scene.shapes, key=sides[side], reverse=True)[:2]
        if sides[side](first) - sides[side](second) >= MARGIN:
            return Question(
                text=f"Which shape is {side}?",
                answer=first.name,
                others=_shuffled([thing.name for thing in scene.shapes], rng, without=first.name),
                about=(first,),
                fact=f"The {first.name} is {side}.",
            )
    return None


def count_shape(scene: Scene, rng: Random) -> Question | None:
    return _count(scene, rng, "kind", "{}s")


def count_colour(scene: Scene, rng: Random) -> Question | None:
    return _count(scene, rng, "colour", "{} shapes")


def _count(scene: Scene, rng: Random, attribute: str, wording: str) -> Question | None:
    times = Counter(getattr(thing, attribute) for thing in scene.shapes)
    values = [value for value in times if times[value] <= 5]
    # Most values occur once; weighing by the square evens the counts out, and whoever needs them even sorts them.
    value = rng.choices(values, [times[value] ** 2 for value in values])[0]
    answer = str(times[value])
    what = wording.format("crosse" if value == "cross" else value)
    return Question(
        text=f"How many {what} are there?",
        answer=answer,
        others=_shuffled("12345", rng, without=answer),
        about=tuple(thing for thing in scene.shapes if getattr(thing, attribute) == value),
        fact=f"The number of {what} is {answer}.",
    )


def larger(scene: Scene, rng: Random) -> Question | None:
    big, small = ([thing for thing in scene.shapes if thing.large is size] for size in (True, False))
    for one in _some(big, rng):
        kept = {thing.name: thing for thing in _some(small, rng) if _only(scene.shapes, thing, "name")}
        kept.pop(one.name, None)
        if kept and _only(scene.shapes, one, "name"):
            return Question(
                text="Which of these shapes is the largest?",
                answer=one.name,
                others=tuple(kept),
                about=(one,),
                rivals=tuple(kept.values()),
                fact=f"The {one.name} is the largest.",
            )
    return None


def side_of(scene: Scene, rng: Random) -> Question | None:
    for one in _some(scene.things, rng):
        for other in _some(scene.things, rng):
            across = rng.random() < 0.5
            distance = one.x - other.x if across else one.y - other.y
            if one is other or abs(distance) < MARGIN:
                continue
            if (name := reference(scene, one, rng)) and (anchor := reference(scene, other, rng)):
                words = ("left", "right") if across else ("above", "below")
                answer = words[distance > 0]
                where = f"to the {answer} of" if across else answer
                return Question(
                    text=f"Is {name} {words[0]} or {words[1]}{' of' if across else ''} {anchor}?",
                    answer=answer,
                    others=_shuffled(words, rng, without=answer),
                    about=(one, other),
                    fact=f"{_start(name)} is {where} {anchor}.",
                )
    return None


def neighbour(scene: Scene, rng: Random) -> Question | None:
    for anchor in _some(scene.things, rng):
        for direction in rng.sample(tuple(DIRECTIONS), len(DIRECTIONS)):
            down, right = DIRECTIONS[direction]
            cell = (anchor.row + down, anchor.column + right)
            beside = [thing for thing in scene.things if (thing.row, thing.column) == cell]
            if not beside or not (name := reference(scene, anchor, rng)):
                continue
            thing, where = beside[0], f"directly {direction} {name}"
            if thing.is_letter:
                text, answer, known = f"Which letter is {where}?", thing.kind, tuple(LETTERS)
            elif rng.random() < 0.5:
                text, answer, known = f"What colour is the shape {where}?", thing.colour, tuple(COLOURS)
            else:
                text, answer, known = f"Which shape is {where}?", thing.kind, SHAPES
            return Question(
                text=text,
                answer=answer,
                others=_shuffled(known, rng, without=answer),
                about=(anchor, thing),
                fact=f"{_start(where)} is {answer}.",
            )
    return None


def same_colour(scene: Scene, rng: Random) -> Question | None:
    for anchor in _some(scene.things, rng):
        twins = [thing for thing in scene.shapes if thing.colour == anchor.colour and thing is not anchor]
        if len(twins) != 1 or twins[0].kind == anchor.kind or not (name := reference(scene, anchor, rng, colour=False)):
            continue
        return Question(
            text=f"Which shape has the same colour as {name}?",
            answer=twins[0].kind,
            others=_shuffled([kind for kind in SHAPES if kind != anchor.kind], rng, without=twins[0].kind),
            about=(anchor, twins[0]),
            fact=f"The {twins[0].kind} has the same colour as {name}.",
        )
    return None


def present(scene: Scene, rng: Random) -> Question | None:
    thing = rng.choice(scene.shapes)
    shown = {other.name for other in scene.shapes}
    # Wrong options do not imitate the right one: what most options have in common would give it away unseen.
    absent = [f"{colour} {kind}" for colour in COLOURS for kind in SHAPES if f"{colour} {kind}" not in shown]
    return Question(
        text="Which of these is in the picture?",
        answer=thing.name,
        others=tuple(rng.sample(absent, 6)),
        about=tuple(other for other in scene.shapes if other.name == thing.name),
        fact=f"The {thing.name} is in the picture.",
    )


def _start(name: str) -> str:
    return name[0].upper() + name[1:]


# --- questions about words, without a picture ----------------------------------------------------------------------


def words(rng: Random) -> Question:
    """A question that text alone decides: a kind of word, the largest number, the next letter."""
    sorts = {"a colour": tuple(COLOURS), "a shape": SHAPES, "a letter": tuple(LETTERS), "a number": tuple("123456789")}
    form = rng.choice(("sort", "largest", "smallest", "next"))
    if form == "sort":
        sort = rng.choice(tuple(sorts))
        wrong = [word for other, known in sorts.items() if other != sort for word in rng.sample(known, 2)]
        answer, text = rng.choice(sorts[sort]), f"Which of these is {sort}?"
    elif form == "next":
        alphabet = "FGHIJKLMNOPQRSTUVWXYZ"
        place = rng.randrange(len(alphabet) - 1)
        answer, text = alphabet[place + 1], f"Which letter comes next after {alphabet[place]}?"
        wrong = [letter for letter in alphabet if letter not in alphabet[place : place + 2]]
    else:
        numbers = rng.sample("123456789", 5)
        answer = (max if form == "largest" else min)(numbers)
        wrong, text = numbers, f"Which number is the {form}?"
    others = _shuffled(wrong, rng, without=answer)
    return Question(text=text, answer=answer, others=others, about=(), fact=f"The answer is {answer}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of question, and how the benchmark's tables name it."""

    subject: str
    steps: str  # how many things must be found, in words; goes to the key `category`
    ask: Callable[[Scene, Random], Question | None]


FAMILIES = {
    "colour_of": Family(subject="attributes", steps="one look", ask=colour_of),
    "shape_of": Family(subject="attributes", steps="one look", ask=shape_of),
    "letter_of": Family(subject="reading", steps="one look", ask=letter_of),
    "letter_colour": Family(subject="reading", steps="one look", ask=letter_colour),
    "quarter": Family(subject="places", steps="one look", ask=quarter),
    "outermost": Family(subject="places", steps="many looks", ask=outermost),
    "count_shape": Family(subject="counting", steps="many looks", ask=count_shape),
    "count_colour": Family(subject="counting", steps="many looks", ask=count_colour),
    "larger": Family(subject="comparison", steps="many looks", ask=larger),
    "side_of": Family(subject="comparison", steps="two looks", ask=side_of),
    "neighbour": Family(subject="relations", steps="two looks", ask=neighbour),
    "same_colour": Family(subject="relations", steps="two looks", ask=same_colour),
    "present": Family(subject="presence", steps="many looks", ask=present),
}
