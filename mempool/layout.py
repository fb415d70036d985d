"""What a KV block looks like in memory and on the wire. Imports no torch."""

import msgspec

from mempool.errors import LayoutMismatch


class BlockLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The aggregated block: the KV of `page_size` tokens in all layers, contiguous.

    A block is a row of planes. MHA: the K planes of all layers, then their V planes, each
    `[page_size, heads, dim]`, which is `[2, layers, page_size, heads, dim]` where K and V are of one size.
    MLA: one `[page_size, dim]` plane a layer.
    """

    kind: str
    dtype: str
    page_size: int
    layers: int
    heads: int
    k_plane_bytes: int
    v_plane_bytes: int

    @property
    def plane_bytes(self) -> tuple[int, ...]:
        """Bytes of each plane, in their order in the block."""
        return (self.k_plane_bytes,) * self.layers + (self.v_plane_bytes,) * (
            self.layers if self.v_plane_bytes else 0
        )

    @property
    def block_bytes(self) -> int:
        return self.layers * (self.k_plane_bytes + self.v_plane_bytes)

    def row_bytes(self, planes: range) -> int:
        """Bytes of these planes of one block."""
        return sum(self.plane_bytes[planes.start : planes.stop])

    def planes_of(self, layer: int) -> tuple[range, ...]:
        """The K planes and the V planes of a layer, each a range as `send` takes it."""
        starts = (layer, self.layers + layer) if self.v_plane_bytes else (layer,)
        return tuple(range(start, start + 1) for start in starts)

    def require_same(self, peer: "BlockLayout") -> None:
        """Raises LayoutMismatch with the first field that differs."""
        for field in self.__struct_fields__:
            here, there = getattr(self, field), getattr(peer, field)
            if here != there:
                raise LayoutMismatch(field, here, there)
