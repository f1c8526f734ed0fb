"""A padded batch in transformers' own layout, from which visual tokens are dropped as the layers go by.

The batch comes as a (B, S) rectangle with padding on either side. After a drop the samples may differ in length, so
each **group** of layers has a rectangle of its own: samples aligned right, filled up on the left, with a mask that
hides the filling. Words between images stay. Position ids stay with their tokens, or are renumbered where the method
says so.

Shape letters: see ``strategies/view.py``; here also W columns of a group, N keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from strategies.errors import UsageError
from workers.sites import InputRows
from workers.upload import to_device


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The columns that a run of layers works on."""

    first_layer: int
    rows_BW: Tensor  # int64, the row of the whole sequence in each column
    alive_BW: Tensor  # bool, False: padding
    full: bool  # no padding at all, so that sdpa needs no mask
    columns: tuple[Tensor, ...]  # per sample (K,) int64, where its visual tokens are, ascending
    visual: tuple[Tensor, ...]  # per sample (K,) int64, its visual tokens as indices into the image
    shift_BS: Tensor | None = None  # by how much the position ids of the whole sequence are lowered; None: not


@dataclass(eq=False, slots=True)
class Batch:
    """Some prompts that run together, from their first forward to their last decoded token."""

    system: tuple[int, ...]  # per sample, tokens before its images and between them; padding is never counted
    between: tuple[int, ...]  # those between
    text: tuple[int, ...]  # per sample, tokens after its images
    after: tuple[int, ...]  # per sample, the column behind its last image
    length: int  # S
    groups: list[Group]  # the first is the whole sequence
    prefill: bool = True  # whether the forward in progress is the first one
    attention_mask: Tensor | None = None  # of the forward in progress, as given
    inputs: dict[int, dict[str, Any]] = field(default_factory=dict)  # of its layers, by their group's first layer

    def group(self, layer: int) -> Group:
        return next(group for group in reversed(self.groups) if group.first_layer <= layer)

    def pictures(self, tokens: Sequence[int]) -> list[range]:
        """Which of the pictures given are each sample's, in order; none where it has none, or no pictures were given.

        Copies of a sample (beams) share them.

        Args:
            tokens: of each picture.

        Raises:
            UsageError: pictures and samples do not have as many.
        """
        wanted, found, stop = [len(visual_V) for visual_V in self.groups[0].visual], [range(0)], 0
        copies = max(1, sum(wanted) // max(1, sum(tokens)))
        shown = [sample for sample, count in enumerate(wanted) if count and tokens]
        of: dict[int, range] = {}
        for place, sample in enumerate(shown):
            if place % copies == 0:
                first, left = stop, wanted[sample]
                while left > 0 and stop < len(tokens):
                    left, stop = left - tokens[stop], stop + 1
                if left:
                    given = sum(tokens[first:stop])
                    raise UsageError(f"sample {sample} has {wanted[sample]} image tokens, and its images have {given}")
                found.append(range(first, stop))
            of[sample] = found[-1]
        if shown and stop < len(tokens):
            raise UsageError(f"{len(tokens)} images were given, and the samples have {stop}")
        return [of.get(sample, range(0)) for sample in range(len(wanted))]


def new_batch(ids_BS: Tensor, mask_BS: Tensor | None, image_token: int, visual_tokens: int | None) -> Batch:
    """Read from token ids and attention mask where the images are.

    Raises:
        UsageError: a sample has another number of image tokens than those of whole images.
    """
    batch, length = ids_BS.shape
    alive_BS = torch.ones_like(ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS.to(ids_BS.device).bool()
    seen_2BS = torch.stack((ids_BS == image_token, alive_BS)).cpu()  # the one wait for the device
    columns, system, between, text, after = [], [], [], [], []
    for sample, (image_S, alive_S) in enumerate(zip(*seen_2BS, strict=True)):
        visual_V = image_S.nonzero()[:, 0]
        count = len(visual_V)
        if visual_tokens is not None and count % visual_tokens:
            said = f"sample {sample} has {count} image tokens; pruned takes whole images"
            raise UsageError(f"{said}, {visual_tokens} tokens each")
        first, stop = (int(visual_V[0]), int(visual_V[-1]) + 1) if count else (0, 0)
        columns.append(to_device(visual_V, ids_BS.device))
        between.append(int(alive_S[first:stop].sum()) - count)
        system.append(int(alive_S[:first].sum()) + between[-1])
        text.append(int(alive_S.sum()) - count - system[-1])
        after.append(stop)
    whole = Group(
        first_layer=0,
        rows_BW=torch.arange(length, device=ids_BS.device).expand(batch, -1),
        alive_BW=alive_BS,
        full=bool(seen_2BS[1].all()),
        columns=tuple(columns),
        visual=tuple(torch.arange(len(visual_V), device=ids_BS.device) for visual_V in columns),
    )
    return Batch(tuple(system), tuple(between), tuple(text), tuple(after), length, groups=[whole])


def input_rows(batch: Batch, inputs_BSD: Tensor, sample: int) -> InputRows:
    """A sample's visual and later rows of the decoder's input; padding is none of them."""
    whole, after = batch.groups[0], batch.after[sample]
    text_SD = inputs_BSD[sample, after:]
    return InputRows(
        visual_VD=inputs_BSD[sample, whole.columns[sample]],
        text_TD=text_SD if whole.full else text_SD[whole.alive_BW[sample, after:]],
    )


def drop(batch: Batch, layer: int, kept: Sequence[Tensor], compact: bool, hidden_BWD: Tensor) -> Tensor:
    """Begin a new group without the tokens that were not kept.

    Args:
        batch: gets the new group.
        layer: the first that runs without them.
        kept: per sample (K,) int64, indices into its living visual tokens, in the order in which they go on.
        compact: whether position ids are renumbered without gaps, also those of earlier drops; else they stay.
        hidden_BWD: residual stream in the columns of the last group.

    Returns:
        The residual stream in the columns of the new group.
    """
    before, whole = batch.groups[-1], batch.groups[0]
    alive_BW = before.alive_BW.clone()
    for sample, (kept_K, visual_V) in enumerate(zip(kept, before.columns, strict=True)):
        alive_BW[sample, visual_V] = False
        alive_BW[sample, visual_V[kept_K]] = True
    lengths = [system + len(kept_K) + text for system, kept_K, text in zip(batch.system, kept, batch.text, strict=True)]
    width = max(lengths)
    columns_BW = alive_BW.byte().argsort(dim=1, stable=True)[:, -width:]  # the living last, in their order
    columns = []
    for sample, (kept_K, visual_V, length) in enumerate(zip(kept, before.columns, lengths, strict=True)):
        before_W = alive_BW[sample].cumsum(dim=0) + (width - length - 1)
        columns.append(before_W[visual_V[kept_K.sort().values]])
        if not compact:  # positions go with the tokens, in the order in which these were chosen
            columns_BW[sample, columns[-1]] = visual_V[kept_K]
    rows_BW, left_BW = before.rows_BW.gather(1, columns_BW), alive_BW.gather(1, columns_BW)
    shift_BS = before.shift_BS
    if compact:
        left_BS = torch.zeros_like(whole.alive_BW).scatter(1, rows_BW, left_BW)
        shift_BS = (whole.alive_BW & ~left_BS).cumsum(dim=1)
    group = Group(
        first_layer=layer,
        rows_BW=rows_BW,
        alive_BW=left_BW,
        full=min(lengths) == width,
        columns=tuple(columns),
        visual=tuple(old[kept_K] for old, kept_K in zip(before.visual, kept, strict=True)),
        shift_BS=shift_BS,
    )
    batch.groups.append(group)
    return hidden_BWD.gather(1, columns_BW[..., None].expand(-1, -1, hidden_BWD.shape[-1]))


def positions(batch: Batch, group: Group, given: Tensor) -> Tensor:
    """Position ids of a group's queries from those of the whole forward, (B or 1, S) or one for each new token."""
    given = given.expand(group.rows_BW.shape[0], -1)
    if group.shift_BS is not None:
        given = (given - (group.shift_BS if batch.prefill else group.shift_BS[:, -1:])).clamp(min=0)
    return given.gather(1, group.rows_BW) if batch.prefill else given


def at_rows(group: Group, rows_BSE: Tensor) -> Tensor:
    """(B, W, E) of a group's columns from (B or 1, S, E) of the whole sequence."""
    every_BSE = rows_BSE.expand(group.rows_BW.shape[0], -1, -1)
    return every_BSE.gather(1, group.rows_BW[..., None].expand(-1, -1, rows_BSE.shape[-1]))


def add_rows(group: Group, hidden_BWD: Tensor, at_BS: Tensor, rows_ND: Tensor) -> Tensor:
    """A group's hidden states with rows added to the tokens that it still has.

    Args:
        group: of the layer that made them.
        hidden_BWD: its hidden states.
        at_BS: bool, which tokens of the whole sequence something is added to.
        rows_ND: what, one for each of them.
    """
    whole_BSD = hidden_BWD.new_zeros(*at_BS.shape, hidden_BWD.shape[-1])
    whole_BSD[at_BS] = rows_ND.to(whole_BSD)
    return hidden_BWD + at_rows(group, whole_BSD)


def mask(batch: Batch, group: Group, queries: int, past: int, eager: bool, dtype: torch.dtype) -> Tensor | None:
    """The attention mask of a group's layers: (B or 1, 1, Q, N) bool, additive under eager; None where none is needed.

    Args:
        batch: with the attention mask of the forward in progress, which covers decoded tokens too.
        group: of the layers.
        queries: rows of the forward.
        past: keys in the cache of these layers.
        eager: whether attention adds its mask.
        dtype: of the additive mask.
    """
    alive_BN, full = group.alive_BW, group.full
    if not batch.prefill:
        later, given = past + queries - alive_BN.shape[1], batch.attention_mask
        rows = (alive_BN.shape[0], later)
        later_BN = alive_BN.new_ones(rows) if given is None else given[:, -later:].to(alive_BN.device).bool()
        full = full and (given is None or bool(later_BN.all()))
        alive_BN = torch.cat((alive_BN, later_BN), dim=1)
    keys = alive_BN.shape[1]
    if full and (queries == 1 or (queries == keys and not eager)):
        return None
    causal_QN = causal(queries, keys, alive_BN.device)
    visible_BQN = causal_QN[None]
    if not full:
        itself_QN = causal_QN.triu(keys - queries)  # padding sees itself: a row that sees nothing would be NaN
        visible_BQN = causal_QN & alive_BN[:, None] | itself_QN
    if not eager:
        return visible_BQN[:, None]
    additive = torch.zeros(visible_BQN.shape, dtype=dtype, device=visible_BQN.device)
    return additive.masked_fill_(~visible_BQN, torch.finfo(dtype).min)[:, None]


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, True where a query may look: the queries are the last of the keys' rows."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def spread(hidden_BWD: Tensor, group: Group, length: int) -> Tensor:
    """(B, S, D): a group's hidden states in the rows of the whole sequence, zero where a token was dropped."""
    batch, _, width = hidden_BWD.shape
    rows_BW = group.rows_BW.masked_fill(~group.alive_BW, length)  # padding goes to a row that is cut off
    target = rows_BW[..., None].expand(-1, -1, width)
    return hidden_BWD.new_zeros(batch, length + 1, width).scatter(1, target, hidden_BWD)[:, :length]
