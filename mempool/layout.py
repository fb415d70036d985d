"""The layout of a KV block, in memory and on the wire. Imports no torch."""

import msgspec

from mempool.errors import LayoutMismatch


class BlockLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of an aggregated block: the KV of `page_size` tokens in all layers, contiguous.

    A block is a row of planes. With MHA these are the K planes of all layers, then their V planes, each
    `[page_size, heads, dim]`. The block is `[2, layers, page_size, heads, dim]` where K and V have one size.
    With MLA there is one plane `[page_size, dim]` for each layer.

    Attributes:
        kind: "mha" or "mla".
        dtype: The element type, by name, for example "bfloat16".
        page_size: Tokens in a block.
        layers: Layers in a block.
        heads: KV heads in a plane.
        k_plane_bytes: Bytes of one K plane.
        v_plane_bytes: Bytes of one V plane; 0 with MLA.
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
        """Bytes of each plane, in block order."""
        return (self.k_plane_bytes,) * self.layers + (self.v_plane_bytes,) * (
            self.layers if self.v_plane_bytes else 0
        )

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return self.layers * (self.k_plane_bytes + self.v_plane_bytes)

    def row_bytes(self, planes: range) -> int:
        """Bytes that these planes have in one block."""
        return sum(self.plane_bytes[planes.start : planes.stop])

    def planes_of(self, layer: int) -> tuple[range, ...]:
        """The K plane and the V plane of a layer, each as a range of planes."""
        starts = (layer, self.layers + layer) if self.v_plane_bytes else (layer,)
        return tuple(range(start, start + 1) for start in starts)

    def require_same(self, peer: "BlockLayout") -> None:
        """Raises LayoutMismatch with the first field that differs."""
        for field in self.__struct_fields__:
            here, there = getattr(self, field), getattr(peer, field)
            if here != there:
                raise LayoutMismatch(field, here, there)
