"""A prefix tree (trie) over the token sequences of all items: which tokens may follow, and which item was reached.

The tree is stored as flat arrays. Items are sorted by token sequence, so the items below a node form one contiguous
range of that order. Whether any available item lies below a child is then one subtraction of prefix sums, for any
number of items.
"""

import torch
from torch import nn

from llmrec.errors import CatalogueError


class ItemTrie(nn.Module):
    """A prefix tree over item token sequences, none of which is the beginning of another.

    Its arrays are buffers that are not saved, so that they move with the model.

    Tokens are addressed by *column*: their index in `tokens`. A language-model head needs logits for these tokens only.

    Args:
        sequences: token ids of each item, [N].

    Attributes:
        num_items: number N of items.
        tokens: token ids that occur in any item, ascending, int64 [C].
        order: item indices in the lexicographic order of their sequences, int64 [N].
        rank: position of each item in `order`, int64 [N].
        node_item: item index of a leaf, -1 of an inner node, int64 [nodes]. Node 0 is the root.
        item_columns: column of each token of each item, padded with -1, int64 [N, longest].
        item_nodes: node at which each token of each item is chosen, padded with -1, int64 [N, longest].
        longest: number of tokens of the longest item.
        flat: whether every item is one token. The column of an item is then its rank.

    Raises:
        CatalogueError: there are no items, a sequence is empty, or one sequence is the beginning of another.
    """

    tokens: torch.Tensor
    order: torch.Tensor
    rank: torch.Tensor
    node_item: torch.Tensor
    item_columns: torch.Tensor
    item_nodes: torch.Tensor
    _depth: torch.Tensor
    _low: torch.Tensor
    _high: torch.Tensor
    _edge_column: torch.Tensor
    _edge_node: torch.Tensor
    _edge_start: torch.Tensor
    _edge_key: torch.Tensor

    def __init__(self, sequences: list[tuple[int, ...]]):
        super().__init__()
        if not sequences:
            raise CatalogueError("The catalogue has no items; expected at least one item to recommend.")
        sorted_items = sorted(range(len(sequences)), key=lambda item: sequences[item])
        _check_prefix_free(sequences, sorted_items)
        self.num_items = len(sequences)
        self.longest = max(map(len, sequences))
        self.flat = self.longest == 1
        tokens = torch.tensor(sorted({token for sequence in sequences for token in sequence}))
        order = torch.tensor(sorted_items)
        columns = {token: column for column, token in enumerate(tokens.tolist())}
        nodes, edges = _build([tuple(columns[token] for token in sequences[item]) for item in sorted_items])
        # Node n covers the items order[low[n] : high[n]].
        low, high = torch.tensor(nodes).T.contiguous()
        # The edges of node n are edge_start[n] to edge_start[n + 1].
        parent, edge_column, edge_node = torch.tensor(edges).T.contiguous()
        edge_start = torch.searchsorted(parent, torch.arange(len(nodes) + 1))
        degrees = edge_start[1:] - edge_start[:-1]
        self._largest_degree = int(degrees.max())
        buffers = {
            "tokens": tokens,
            "order": order,
            "rank": torch.argsort(order),
            "node_item": torch.where(degrees == 0, order[low.clamp(max=self.num_items - 1)], -1),
            "_low": low,
            "_high": high,
            "_edge_column": edge_column,
            "_edge_node": edge_node,
            "_edge_start": edge_start,
            "_edge_key": parent * len(tokens) + edge_column,
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        paths = self._paths([[columns[token] for token in sequence] for sequence in sequences])
        for name, value in paths.items():
            self.register_buffer(name, value, persistent=False)

    def _paths(self, columns: list[list[int]]) -> dict[str, torch.Tensor]:
        """The buffers `item_columns` and `item_nodes`, and the number of tokens before each node, int64 [nodes]."""
        padded = torch.tensor([row + [-1] * (self.longest - len(row)) for row in columns])
        nodes = [torch.zeros(self.num_items, dtype=torch.int64)]
        for column in padded.T[:-1]:
            nodes.append(self.step(nodes[-1].clamp(min=0), column))
        item_nodes = torch.stack(nodes, 1).masked_fill(padded < 0, -1)
        depth = torch.zeros_like(self.node_item)
        for step in range(self.longest):
            depth[item_nodes[:, step][item_nodes[:, step] >= 0]] = step
        return {"item_columns": padded, "item_nodes": item_nodes, "_depth": depth}

    def columns_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Column of each token id.

        Args:
            tokens: token ids, int64 of any shape.

        Returns:
            int64 of the same shape; -1 for a token that occurs in no item. `step` maps -1 to -1.
        """
        columns = torch.searchsorted(self.tokens, tokens.contiguous()).clamp(max=len(self.tokens) - 1)
        return torch.where(self.tokens[columns] == tokens, columns, -1)

    def allowed(self, nodes: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """Which columns may follow each node.

        Args:
            nodes: current node of each row (0 is the root), int64 [R].
            available: items that may still be chosen in each row, bool [R, N].

        Returns:
            bool [R, C]; true where at least one available item lies below the child.
        """
        if self.flat:  # Every row is at the root, and column c leads to the item of rank c.
            return available[:, self.order]
        counts = available.new_zeros(len(nodes), self.num_items + 1, dtype=torch.int32)
        torch.cumsum(available[:, self.order], dim=1, dtype=torch.int32, out=counts[:, 1:])
        starts = self._edge_start[nodes][:, None]
        place = torch.arange(self._largest_degree, device=nodes.device)  # [E], E edges at most
        edges = (starts + place).clamp(max=len(self._edge_node) - 1)
        child = self._edge_node[edges]
        below = counts.gather(1, self._high[child]) > counts.gather(1, self._low[child])
        is_edge = starts + place < self._edge_start[nodes + 1][:, None]
        column = torch.where(is_edge & below, self._edge_column[edges], len(self.tokens))
        mask = available.new_zeros(len(nodes), len(self.tokens) + 1)
        return mask.scatter_(1, column, True)[:, :-1]

    def next_columns(self, nodes: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """The column by which each node leads to each of its row's items.

        Args:
            nodes: current node of each row, int64 [R].
            items: item indices, int64 [R, H].

        Returns:
            int64 [R, H]; -1 where the item is not below the node.
        """
        depth = self._depth[nodes][:, None]
        return torch.where(self.item_nodes[items, depth] == nodes[:, None], self.item_columns[items, depth], -1)

    def step(self, nodes: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The child that each node has along a column.

        Args:
            nodes: int64 [R], each at least 0.
            columns: int64 [R], -1 for a token outside the trie.

        Returns:
            int64 [R]; -1 where the node has no such child.
        """
        key = nodes * len(self.tokens) + columns
        edge = torch.searchsorted(self._edge_key, key).clamp(max=len(self._edge_key) - 1)
        # Column -1 of node n has the key of the last column of node n - 1.
        found = (columns >= 0) & (self._edge_key[edge] == key)
        return torch.where(found, self._edge_node[edge], -1)


def _check_prefix_free(sequences: list[tuple[int, ...]], order: list[int]) -> None:
    if not all(sequences):
        raise CatalogueError(f"Item {sequences.index(())} has no tokens; expected at least one. Give it a title.")
    # In sorted order the extensions of a sequence follow right after it.
    for item, following in zip(order, order[1:], strict=False):
        if sequences[following][: len(sequences[item])] == sequences[item]:
            raise CatalogueError(
                f"The tokens of item {item} are the beginning of those of item {following}; expected items that can "
                "be told apart. Change the title of one of them."
            )


def _build(sequences: list[tuple[int, ...]]) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """Builds the tree level by level.

    Args:
        sequences: columns of each item, sorted.

    Returns:
        nodes as (low, high) ranges of `sequences`, and edges as (parent, column, child), sorted by parent and column.
    """
    nodes = [(0, len(sequences))]
    edges: list[tuple[int, int, int]] = []
    level = [0]
    depth = 0
    while level:
        children: list[int] = []
        for node in level:
            low, high = nodes[node]
            if len(sequences[low]) == depth:  # A leaf: no sequence is the beginning of another, so it holds one item.
                continue
            start = low
            for end in range(low + 1, high + 1):
                if end == high or sequences[end][depth] != sequences[start][depth]:
                    edges.append((node, sequences[start][depth], len(nodes)))
                    children.append(len(nodes))
                    nodes.append((start, end))
                    start = end
        level = children
        depth += 1
    return nodes, edges
