import pytest

from mempool.tiers.sizes import blocks_of_size, bytes_of_size

MIB = 1 << 20


@pytest.mark.parametrize(
    ("size", "blocks"),
    [
        ("8MiB", 8),
        ("8 mb", 8),
        ("1.5G", 1536),
        ("1tb", 1 << 20),
        (str(3 * MIB + 5), 3),
        (9, 9),
        ("1024k", 1),
        ("50%", 1 << 20),
        ("100 %", 2 << 20),
        ("7 blocks", 7),
        ("1 block", 1),
    ],
)
def test_a_size_may_be_bytes_a_share_or_blocks(size, blocks):
    assert blocks_of_size(size, MIB, 2 << 40) == blocks


@pytest.mark.parametrize("size", ["", "lots", "-1G", "8 GiBs", "5 %%", "1.5 blocks"])
def test_what_is_no_size_is_named(size):
    with pytest.raises(ValueError, match=r'not a size: write "8GiB", "25%" or "4096 blocks"'):
        blocks_of_size(size, MIB, 1 << 40)


@pytest.mark.parametrize("size", ["0", 0, "900k", "0 blocks", "0%"])
def test_less_than_one_block_is_refused(size):
    with pytest.raises(ValueError, match="is less than one block of 1 MiB"):
        blocks_of_size(size, MIB, 1 << 40)


def test_more_than_there_is_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"2G is 2 GiB in blocks of 1 MiB, but 1\.5 GiB are available"):
        blocks_of_size("2G", MIB, 1536 * MIB)
    with pytest.raises(ValueError, match=r"2000 blocks is 1\.953 GiB"):
        blocks_of_size("2000 blocks", MIB, 1536 * MIB)


@pytest.mark.parametrize(
    ("size", "count"), [("0", 0), (" 1.5 MiB", 3 * MIB // 2), ("10M", 10 * MIB), ("7", 7)]
)
def test_a_size_may_be_bytes_alone(size, count):
    assert bytes_of_size(size) == count


@pytest.mark.parametrize("size", ["", "50%", "4 blocks", "fast"])
def test_what_is_no_number_of_bytes_is_named(size):
    with pytest.raises(ValueError, match=f"'{size}' is not a size: write"):
        bytes_of_size(size)
