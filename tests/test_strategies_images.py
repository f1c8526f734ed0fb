"""Several images of one prompt: rules that think of an image's rows or stretches take each by itself."""

from __future__ import annotations

import pytest
import torch

from strategies import hiprune, holov
from strategies.catalog import get
from strategies.evidence import CLASS_ATTENTION, PLACES, EvidenceView
from strategies.images import SQUARES, image_sizes
from tower_evidence import places
from workers.families.model import joined_rows

SHAPES = ((4, 3), (2, 6), (5, 5))  # rows and columns of each image


def image(number: int) -> EvidenceView:
    rows, columns = SHAPES[number]
    drawn = torch.Generator().manual_seed(number)
    attention = {
        name: torch.rand(rows * columns, 2, generator=drawn) for name in (CLASS_ATTENTION, hiprune.MIDDLE, hiprune.DEEP)
    }
    return EvidenceView(
        visual=rows * columns,
        system=2,
        text=3,
        seed=0,
        device=torch.device("cpu"),
        hidden_states_VD=torch.randn(rows * columns, 8, generator=drawn),
        evidence={PLACES: places(rows * columns, columns).float(), **attention},
    )


def joined(images: list[EvidenceView]) -> EvidenceView:
    """As the engine joins what it has read of the tower."""
    return EvidenceView(
        visual=sum(one.visual for one in images),
        system=2,
        text=3,
        seed=0,
        device=torch.device("cpu"),
        hidden_states_VD=torch.cat([one.hidden_VD for one in images]),
        evidence={name: joined_rows(name, [one.evidence[name] for one in images]) for name in images[0].evidence},
    )


@pytest.fixture
def images() -> list[EvidenceView]:
    return [image(number) for number in range(len(SHAPES))]


def test_where_an_image_ends(images):
    assert image_sizes(joined(images).read(PLACES)[:, 0].long()) == (12, 12, 25)
    ends = torch.tensor([1, 1, 0, 2, 0, SQUARES + 1, 0, SQUARES + 2, 0, 2 * SQUARES + 1])  # 0: the end of a row
    assert image_sizes(ends) == (5, 4, 1)


@pytest.mark.parametrize("edges", ["clip", "drop"])
def test_neighbours_of_hiprune_are_those_in_an_image_alone(images, edges):
    """One anchor, in one image after another: what is kept beside it is what a prompt of that image alone keeps."""
    before = 0
    for number, own in enumerate(images):
        for anchor in range(own.visual):
            alone = torch.zeros(own.visual, 2)
            alone[anchor] = 1
            seen = [*images]
            seen[number] = EvidenceView(
                visual=own.visual, system=2, text=3, seed=0, device=own.device, hidden_states_VD=own.hidden_VD,
                evidence={**own.evidence, hiprune.MIDDLE: 9 * alone, hiprune.DEEP: own.evidence[hiprune.DEEP] - 9},
            )  # fmt: skip
            (kept,) = get("hiprune").choose(joined(seen), [5], {"alpha": 1.0, "edges": edges})
            near = [token for token in kept.tolist() if before <= token < before + own.visual]
            (expected,) = get("hiprune").choose(seen[number], [5], {"alpha": 1.0, "edges": edges})
            neighbours = {anchor, *around(anchor, SHAPES[number], edges)}
            assert {token - before for token in near} == neighbours <= set(expected.tolist())
        before += own.visual


def around(anchor: int, shape: tuple[int, int], edges: str) -> set[int]:
    rows, columns = shape
    near = {anchor - 1, anchor + 1, anchor - columns, anchor + columns}
    if edges == "clip":
        return {min(max(token, 0), rows * columns - 1) for token in near}
    return {token for token in near if 0 <= token < rows * columns}


def test_stretches_of_holov_end_with_an_image(images):
    assert holov._Stretches((12, 7, 2), 3, torch.device("cpu")).sizes == [4, 4, 4, 3, 2, 2, 1, 1]
    together, most = joined(images), 4
    runs = holov._Stretches((12, 12, 25), most, together.device)
    scores_BV = holov._scores([together], holov.SCALE * together.read(CLASS_ATTENTION).mean(dim=1)[None], runs)
    alone = [
        holov._scores([one], holov.SCALE * one.read(CLASS_ATTENTION).mean(dim=1)[None],
                      holov._Stretches((one.visual,), most, one.device))[0]
        for one in images
    ]  # fmt: skip
    torch.testing.assert_close(scores_BV[0], torch.cat(alone))


@pytest.mark.parametrize("form", ["redistributed", "literal", "paper"])
def test_holov_of_prompts_that_end_their_images_elsewhere_is_that_of_each(images, form):
    """In one batch there may be prompts with as many tokens in other images."""
    views = [joined(images), joined([images[2], images[0], images[1]]), joined(images)]
    own = [holov.holov_rows([view], torch.arange(20)[None], form=form, stretches=3)[0] for view in views]
    views = [joined(images), joined([images[2], images[0], images[1]]), joined(images)]
    assert torch.equal(
        holov.holov_rows(views, torch.arange(20).expand(3, -1), form=form, stretches=3), torch.stack(own)
    )
