"""Merkle trees as RFC 9162 (Certificate Transparency 2.0), section 2.1, has them, with SHA-256.

The hash of a leaf is SHA-256(0x00 || data), that of a node SHA-256(0x01 || left || right). The tree of n leaves has on
its left the largest power of two below n. The root of no leaf at all is SHA-256 of nothing.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node above two others."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that leaves are appended to, at O(log n) hashes each: its full subtrees, the largest first.

    Args:
        size: How many leaves it has.
        subtrees: The roots of its full subtrees as one piece of bytes: one for each bit of `size` that is set, the
            highest first.

    Raises:
        ValueError: There are not as many subtrees as bits.
    """

    def __init__(self, size: int = 0, subtrees: bytes = b"") -> None:
        if len(subtrees) != HASH_BYTES * size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} full subtrees")
        self.size = size
        self._roots = split_hashes(subtrees)

    @property
    def subtrees(self) -> bytes:
        """The roots of the full subtrees, to go on from later."""
        return b"".join(self._roots)

    def append(self, data: bytes) -> None:
        """Add a leaf."""
        root, size = leaf_hash(data), self.size
        while size & 1:
            root = node_hash(self._roots.pop(), root)
            size >>= 1
        self._roots.append(root)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves."""
        for data in leaves:
            self.append(data)

    def root(self) -> bytes:
        """The root of the tree as it is now."""
        if not self._roots:
            return EMPTY_ROOT
        *others, root = self._roots
        for left in reversed(others):
            root = node_hash(left, root)
        return root


def split_hashes(joined: bytes) -> list[bytes]:
    """Hashes that were joined to one piece of bytes. Raises ValueError if one is not whole."""
    if len(joined) % HASH_BYTES:
        raise ValueError(f"{len(joined)} bytes are no whole number of hashes")
    return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree of these leaves."""
    tree = Frontier()
    tree.extend(leaves)
    return tree.root()


def audit_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """What it takes beside a leaf to compute the root (section 2.1.3.1), from the leaf upwards.

    Args:
        leaves: All leaves of the tree.
        index: Which leaf, from 0.

    Raises:
        IndexError: There is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    path, level = [], [leaf_hash(data) for data in leaves]
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):  # the last one of an odd number goes up as it is
            path.append(level[sibling])
        pairs = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
        index //= 2
    return path


def root_by_path(data: bytes, index: int, size: int, path: Iterable[bytes]) -> bytes:
    """The root that a leaf and its audit path lead to (section 2.1.3.2).

    Args:
        data: The leaf.
        index: Which leaf it is, from 0.
        size: How many leaves the tree has.
        path: Its audit path.

    Raises:
        ValueError: The path does not fit the index and the size.
    """
    if not 0 <= index < size:
        raise ValueError("the index lies outside the tree")
    root, last = leaf_hash(data), size - 1
    for other in path:
        if last == 0:
            raise ValueError("the path is too long")
        if index & 1 or index == last:
            root = node_hash(other, root)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            root = node_hash(root, other)
        index, last = index >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return root
