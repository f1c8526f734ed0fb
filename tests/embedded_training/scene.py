"""Drawn scenes: a few flat-coloured shapes and letters on a plain ground, and the patches each of them covers.

A scene is 336 x 336 pixels, so LLaVA-1.5's pre-processing (shortest edge to 336, centre crop 336) leaves every pixel
where it is, and patch ``14 * i .. 14 * i + 13`` of the vision tower is exactly that square of the drawing. Things sit
in a 6 x 6 grid of cells (four by four patches each), at most one in a cell, so that "directly left of" has one meaning.
Between 6 and 10 of the 36 cells are taken: about nine patches in ten show nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from random import Random

from PIL import Image, ImageDraw

SIDE = 336  # pixels
PATCH = 14  # pixels
CELL = 56  # pixels; four patches
CELLS = SIDE // CELL  # cells along one side

GROUNDS = ((250, 250, 245), (228, 238, 250), (236, 248, 230), (250, 238, 226))
COLOURS = {
    "red": (214, 40, 40),
    "green": (34, 150, 62),
    "blue": (36, 84, 214),
    "yellow": (245, 205, 20),
    "purple": (132, 50, 168),
    "orange": (245, 130, 20),
    "pink": (245, 110, 175),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring")
# 5 x 7 dots, a row per number, the leftmost dot is the highest bit. A to E are left out: they name the options.
LETTERS = {
    "F": (31, 16, 16, 30, 16, 16, 16),
    "H": (17, 17, 17, 31, 17, 17, 17),
    "J": (7, 2, 2, 2, 2, 18, 12),
    "K": (17, 18, 20, 24, 20, 18, 17),
    "L": (16, 16, 16, 16, 16, 16, 31),
    "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 21, 19, 17, 17, 17),
    "P": (30, 17, 17, 30, 16, 16, 16),
    "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30),
    "T": (31, 4, 4, 4, 4, 4, 4),
    "U": (17, 17, 17, 17, 17, 17, 14),
    "V": (17, 17, 17, 17, 17, 10, 4),
    "X": (17, 17, 10, 4, 10, 17, 17),
    "Y": (17, 17, 10, 4, 4, 4, 4),
    "Z": (31, 1, 2, 4, 8, 16, 31),
}
PALETTE = (*GROUNDS, *COLOURS.values())  # a drawing's pixel values index this


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """One drawn shape or letter."""

    kind: str  # a name of SHAPES or a key of LETTERS
    colour: str  # a key of COLOURS
    row: int  # cell, 0..5 from the top
    column: int  # cell, 0..5 from the left
    x: int  # centre, pixels from the left
    y: int  # centre, pixels from the top
    large: bool

    @property
    def is_letter(self) -> bool:
        return self.kind in LETTERS

    @property
    def name(self) -> str:
        return f"{self.colour} letter {self.kind}" if self.is_letter else f"{self.colour} {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What one picture shows."""

    ground: int  # index into GROUNDS
    things: tuple[Thing, ...]

    @property
    def shapes(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if not thing.is_letter)

    @property
    def letters(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if thing.is_letter)


def random_scene(rng: Random) -> Scene:
    """Draw the contents of a scene: 1 or 2 letters, and 5 to 8 shapes of which some share a shape or a colour.

    Without the shared ones every count would be one. Things like to sit beside one another, so that most scenes hold
    neighbours to ask about.
    """
    shapes = rng.sample(SHAPES, len(SHAPES))
    kinds = [shapes[0]] * rng.randint(1, 5)
    kinds += [rng.choice(shapes[1:]) if rng.random() < 0.15 else shapes[1 + i] for i in range(rng.randint(2, 4))]
    kinds = (kinds + shapes[5:])[: max(5, min(8, len(kinds)))]
    colours = rng.sample(tuple(COLOURS), len(COLOURS))
    same = rng.randint(1, 5)
    paints = ([colours[0]] * same + colours[1:])[: len(kinds)]
    rng.shuffle(paints)
    letters = rng.sample(tuple(LETTERS), rng.randint(1, 2))
    kinds += letters
    paints += [rng.choice(tuple(COLOURS)) for _ in letters]

    looks = list(zip(kinds, paints, strict=True))
    rng.shuffle(looks)
    free = {(row, column) for row in range(CELLS) for column in range(CELLS)}
    things: list[Thing] = []
    for kind, colour in looks:
        row, column = _next_cell(free, things, rng)
        free.remove((row, column))
        things.append(
            Thing(
                kind=kind,
                colour=colour,
                row=row,
                column=column,
                x=column * CELL + CELL // 2 + rng.randint(-7, 7),
                y=row * CELL + CELL // 2 + rng.randint(-7, 7),
                large=rng.random() < 0.4,
            )
        )
    return Scene(ground=rng.randrange(len(GROUNDS)), things=tuple(things))


def _next_cell(free: set[tuple[int, int]], things: list[Thing], rng: Random) -> tuple[int, int]:
    beside = sorted(
        {
            (thing.row + down, thing.column + right)
            for thing in things
            for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0))
        }
        & free
    )
    return rng.choice(beside) if beside and rng.random() < 0.5 else rng.choice(sorted(free))


def render(scene: Scene) -> Image.Image:
    """Draw a scene as a palette image ('P', 336 x 336): pixel values index PALETTE."""
    image = Image.new("P", (SIDE, SIDE), scene.ground)
    image.putpalette([level for colour in PALETTE for level in colour])
    pen = ImageDraw.Draw(image)
    order = tuple(COLOURS)
    for thing in scene.things:
        draw_thing(pen, thing, len(GROUNDS) + order.index(thing.colour))
    return image


def draw_thing(pen: ImageDraw.ImageDraw, thing: Thing, fill: int) -> None:
    """Draw one thing with the pixel value ``fill``, without anti-aliasing: every pixel is the thing or is not."""
    if thing.is_letter:
        dot = 5 if thing.large else 3  # pixels
        left, top = thing.x - (5 * dot) // 2, thing.y - (7 * dot) // 2
        for line, bits in enumerate(LETTERS[thing.kind]):
            for place in range(5):
                if bits >> (4 - place) & 1:
                    x, y = left + place * dot, top + line * dot
                    pen.rectangle((x, y, x + dot - 1, y + dot - 1), fill=fill)
        return
    r = 18 if thing.large else 10  # pixels, half the side
    x, y = thing.x, thing.y
    if thing.kind == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.kind == "square":
        pen.rectangle((x - r + 1, y - r + 1, x + r - 1, y + r - 1), fill=fill)
    elif thing.kind == "triangle":
        pen.polygon(((x, y - r), (x + r, y + r), (x - r, y + r)), fill=fill)
    elif thing.kind == "star":
        turns = [(i * pi / 5, r * (1.15 if i % 2 == 0 else 0.48)) for i in range(10)]
        pen.polygon([(round(x + far * sin(turn)), round(y - far * cos(turn))) for turn, far in turns], fill=fill)
    elif thing.kind == "cross":
        arm = r // 3 + 1
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
    elif thing.kind == "diamond":
        pen.polygon(((x, y - r - 2), (x + r - 2, y), (x, y + r + 2), (x - r + 2, y)), fill=fill)
    elif thing.kind == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=r // 3 + 1)
    else:
        raise AssertionError(thing.kind)


def patches(things: tuple[Thing, ...]) -> tuple[int, ...]:
    """Indices of the 24 x 24 patches (raster order, 0..575) that show at least one pixel of ``things``, ascending."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    pen = ImageDraw.Draw(mask)
    for thing in things:
        draw_thing(pen, thing, 255)
    # A box average of 196 pixels: a single 255 among zeros rounds to 1, so nothing is lost.
    return tuple(index for index, level in enumerate(mask.reduce(PATCH).tobytes()) if level)
