"""All item token sequences in one trie, as CSR arrays.

Items are sorted by token sequence, so the items below a node are one contiguous range of that order: whether any
allowed item lies below a child is one subtraction of prefix sums, whatever the number of items.
"""

import torch

from llmrec.errors import CatalogueError


class ItemTrie:
    """A prefix tree over prefix-free item token sequences.

    Tokens are named by *column*: their index in `tokens`, so that a language-model head need only be evaluated on
    the tokens that occur in items.

    Attributes:
        tokens: token ids that occur in any item, ascending, int64 [C].
        order: item index by lexicographic rank of its sequence, int64 [N].
        rank: the inverse of `order`, int64 [N].
        node_item: item index of a leaf, -1 of an inner node, int64 [nodes].
        flat: every item is one token (then a column is an item's rank).

    Raises:
        CatalogueError: no items, an empty sequence, or one sequence is the beginning of another.
    """

    def __init__(self, sequences: list[tuple[int, ...]]):
        if not sequences:
            raise CatalogueError("The catalogue has no items: nothing could ever be recommended.")
        order = sorted(range(len(sequences)), key=lambda item: sequences[item])
        _check_prefix_free(sequences, order)
        self.num_items = len(sequences)
        self.flat = all(len(sequence) == 1 for sequence in sequences)
        self.tokens = torch.tensor(sorted({token for sequence in sequences for token in sequence}))
        self.order = torch.tensor(order)
        self.rank = torch.argsort(self.order)
        columns = {token: column for column, token in enumerate(self.tokens.tolist())}
        nodes, edges = _build([tuple(columns[t] for t in sequences[item]) for item in order])
        self._low, self._high = torch.tensor(nodes).T.contiguous()
        parent, self._edge_column, self._edge_node = torch.tensor(edges).T.contiguous()
        self._edge_start = torch.searchsorted(parent, torch.arange(len(nodes) + 1))
        self._edge_key = parent * len(self.tokens) + self._edge_column
        is_leaf = self._edge_start[1:] == self._edge_start[:-1]
        self.node_item = torch.where(is_leaf, self.order[self._low.clamp(max=self.num_items - 1)], -1)

    def to(self, device: torch.device | str) -> "ItemTrie":
        """Moves all arrays to a device, in place."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))
        return self

    def columns_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Columns of token ids of any shape; a token that is in no item gets a wrong column, never an error."""
        return torch.searchsorted(self.tokens, tokens.contiguous()).clamp(max=len(self.tokens) - 1)

    def allowed(self, nodes: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Which columns may follow.

        Args:
            nodes: current node of each row (0 is the root), int64 [R].
            available: which items may still be chosen in that row, bool [R, N].

        Returns:
            bool [R, C]: true where at least one available item lies below the child.
        """
        if self.flat:  # all rows stand at the root, and column c leads to the item of rank c
            return available[:, self.order]
        counts = available.new_zeros(len(nodes), self.num_items + 1, dtype=torch.int32)
        torch.cumsum(available[:, self.order], dim=1, dtype=torch.int32, out=counts[:, 1:])
        starts, ends = self._edge_start[nodes], self._edge_start[nodes + 1]
        rows = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), ends - starts)
        first = torch.cumsum(ends - starts, 0) - (ends - starts)
        edges = starts[rows] + torch.arange(len(rows), device=nodes.device) - first[rows]
        child = self._edge_node[edges]
        mask = available.new_zeros(len(nodes), len(self.tokens))
        mask[rows, self._edge_column[edges]] = counts[rows, self._high[child]] > counts[rows, self._low[child]]
        return mask

    def step(self, nodes: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The child of each node along a column.

        Args:
            nodes: int64 [R].
            columns: int64 [R].

        Returns:
            int64 [R]; -1 where the column does not follow.
        """
        key = nodes * len(self.tokens) + columns
        edge = torch.searchsorted(self._edge_key, key).clamp(max=len(self._edge_key) - 1)
        return torch.where(self._edge_key[edge] == key, self._edge_node[edge], -1)


def _check_prefix_free(sequences: list[tuple[int, ...]], order: list[int]) -> None:
    if not all(sequences):
        raise CatalogueError(f"Item {sequences.index(())} has no tokens: every item needs a non-empty title.")
    for one, two in zip(order, order[1:], strict=False):  # sorted: a prefix stands right before its extension
        if sequences[two][: len(sequences[one])] == sequences[one]:
            raise CatalogueError(f"The tokens of item {one} begin those of item {two}: neither could be told apart.")


def _build(sequences: list[tuple[int, ...]]) -> tuple[list, list]:
    """Nodes as (low, high) ranges of the sorted sequences, edges as (parent, column, child) sorted by both."""
    nodes, edges, level = [(0, len(sequences))], [], [0]
    depth = 0
    while level:
        following = []
        for node in level:
            low, high = nodes[node]
            if len(sequences[low]) == depth:  # prefix-free: this node is a leaf with one item
                continue
            start = low
            for end in range(low + 1, high + 1):
                if end == high or sequences[end][depth] != sequences[start][depth]:
                    edges.append((node, sequences[start][depth], len(nodes)))
                    following.append(len(nodes))
                    nodes.append((start, end))
                    start = end
        level, depth = following, depth + 1
    return nodes, edges
