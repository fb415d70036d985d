"""How blocks are cut into messages."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from mempool.flags import TransferMode
from mempool.layout import BlockLayout


class Piece(NamedTuple):
    """What one message carries: `planes` of the blocks at `pages` (int64 `[n]`), for positions `first` on.

    `again`: they may have been sent there before.
    """

    pages: torch.Tensor
    first: int
    planes: range
    again: bool = False


def cut(piece: Piece, layout: BlockLayout, mode: TransferMode, piece_bytes: int) -> Iterator[Piece]:
    """Pieces of at most `piece_bytes`; a plane of a block is never cut."""
    if mode == TransferMode.BY_LAYER:
        for planes in _by_layer(layout, piece.planes):
            yield from _rows(piece, planes, max(1, piece_bytes // layout.row_bytes(planes)))
    elif mode == TransferMode.BY_REQUEST:
        for block in _rows(piece, piece.planes, 1):
            yield from (block._replace(planes=range(plane, plane + 1)) for plane in piece.planes)
    elif layout.row_bytes(piece.planes) <= piece_bytes:
        yield from _rows(piece, piece.planes, piece_bytes // layout.row_bytes(piece.planes))
    else:
        groups = list(_groups(layout, piece.planes, piece_bytes))
        for block in _rows(piece, piece.planes, 1):
            yield from (block._replace(planes=planes) for planes in groups)


def _rows(piece: Piece, planes: range, count: int) -> Iterator[Piece]:
    for start in range(0, len(piece.pages), count):
        pages = piece.pages[start : start + count]
        yield piece._replace(pages=pages, first=piece.first + start, planes=planes)


def _by_layer(layout: BlockLayout, planes: range) -> Iterator[range]:
    for layer in range(layout.layers):
        yield from (part for part in layout.planes_of(layer) if part.start in planes)


def _groups(layout: BlockLayout, planes: range, piece_bytes: int) -> Iterator[range]:
    start = planes.start
    for plane in planes:
        if plane > start and layout.row_bytes(range(start, plane + 1)) > piece_bytes:
            yield range(start, plane)
            start = plane
    yield range(start, planes.stop)
