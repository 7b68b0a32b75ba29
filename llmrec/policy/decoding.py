"""Decoding: the state of each completion, and the tokens that may come next.

The decoder applies the grammar of `language.grammar` to a catalogue, its facts and the histories of a batch. Item
spans allow only items that may be recommended. Citations allow only items of the history. Facts must hold for the
recommended item and for every item that the sentence cites.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.trie import ItemTrie
from llmrec.errors import CatalogueError
from llmrec.language.grammar import CITE, FACT, ITEM, TEXT, TEXT_RULES, TRANSITIONS, Event, Region, TokenClasses


@dataclass(frozen=True)
class DecodingState:
    """Where each of B completions stands.

    Attributes:
        region: `grammar.Region` of the next token, int64 [B].
        node: trie node inside an item span, a citation or a fact, int64 [B].
        available: items that may be recommended, bool [B, N].
        history: items that may be cited at all, -1 at padding, int64 [B, H].
        own_facts: facts of the recommended item, bool [B, F].
        common_facts: facts that it shares with each item of the history, bool [B, F, H].
        statable: facts that may be stated now, bool [B, F].
        citable: positions of the history that may be cited now, bool [B, H].
        no_common_fact: the item has facts, but shares no category with the history, bool [B].
        sentence: number of sentences that have ended, int64 [B].
        opening: the sentence has no token yet, bool [B].
        cited_here: the sentence has cited an item, bool [B].
        cited: the justification has cited an item, bool [B].
        stated: the justification has stated a fact, bool [B].
    """

    region: torch.Tensor
    node: torch.Tensor
    available: torch.Tensor
    history: torch.Tensor
    own_facts: torch.Tensor
    common_facts: torch.Tensor
    statable: torch.Tensor
    citable: torch.Tensor
    no_common_fact: torch.Tensor
    sentence: torch.Tensor
    opening: torch.Tensor
    cited_here: torch.Tensor
    cited: torch.Tensor
    stated: torch.Tensor

    @property
    def can_cite(self) -> torch.Tensor:
        """An item of the history may be cited now, bool [B]."""
        return self.citable.any(1)

    @property
    def needs_citation(self) -> torch.Tensor:
        """There is a history, and nothing of it has been cited, bool [B]."""
        return ~self.cited & (self.history >= 0).any(1)

    @property
    def needs_fact(self) -> torch.Tensor:
        """Facts of the item are known, and none has been stated, bool [B]."""
        return ~self.stated & self.own_facts.any(1)

    def select(self, rows: torch.Tensor) -> "DecodingState":
        """The states of some rows; repeated rows give copies."""
        return DecodingState(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True)
class Choice:
    """What rows of one kind may continue with, out of the tokens that this kind can have at all.

    Attributes:
        kind: ITEM, CITE or TEXT. Facts belong to TEXT.
        rows: row numbers, int64 [r].
        tokens: token id of each column, ascending, int64 [K].
        allowed: bool [r, K].
    """

    kind: Region
    rows: torch.Tensor
    tokens: torch.Tensor
    allowed: torch.Tensor


class Decoder(nn.Module):
    """The grammar of completions for one catalogue.

    Args:
        trie: the items.
        facts: what is true of the items.
        classes: token ids by their part in a justification.

    Attributes:
        tokens: ids that a justification can hold outside of citations, ascending, int64 [K].
    """

    tokens: torch.Tensor
    _class_columns: torch.Tensor
    _transitions: torch.Tensor
    _is_category: torch.Tensor
    _is_own: torch.Tensor

    def __init__(self, trie: ItemTrie, facts: FactBook, classes: TokenClasses):
        super().__init__()
        self.trie = trie
        self.facts = facts.tensors()
        self.classes = classes
        self.num_facts = len(facts.facts)
        self.fact_trie = ItemTrie(list(classes.facts)) if classes.facts else None
        tokens = torch.tensor(classes.vocabulary())
        members = classes.members()
        columns = [torch.isin(tokens, torch.tensor(sorted(members[kind]))) for kind in TEXT_RULES]
        buffers = {
            "tokens": tokens,
            "_class_columns": torch.stack(columns).float(),  # [classes, K]; matrix products of bool do not exist
            "_transitions": torch.tensor([TRANSITIONS[region] for region in Region]),
            "_is_category": facts.of_kind("category"),
            "_is_own": facts.of_kind("category", "period"),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def start(self, available: torch.Tensor, history: torch.Tensor) -> DecodingState:
        """States before the first token.

        Args:
            available: items that may be recommended, bool [B, N].
            history: items that may be cited, -1 at padding, int64 [B, H].

        Raises:
            CatalogueError: a row has nothing left to recommend.
        """
        empty = ~available.any(1)
        if empty.any():
            raise CatalogueError(
                f"Nothing is left to recommend in row {int(empty.nonzero()[0])}: the user has seen, or the request "
                "excludes, every item of the catalogue."
            )
        zeros = torch.zeros(len(available), dtype=torch.int64, device=available.device)
        no = zeros.bool()
        no_facts = torch.zeros(len(available), self.num_facts, dtype=torch.bool, device=available.device)
        return DecodingState(
            region=torch.full_like(zeros, ITEM),
            node=zeros,
            available=available,
            history=history,
            own_facts=no_facts,
            common_facts=no_facts[:, :, None].expand(-1, -1, history.shape[1]),
            statable=no_facts,
            citable=history >= 0,
            no_common_fact=no,
            sentence=zeros,
            opening=~no,
            cited_here=no,
            cited=no,
            stated=no,
        )

    # -- the next state --

    def advance(self, state: DecodingState, tokens: torch.Tensor) -> DecodingState:
        """States after one more token a row, int64 [B]. Rows that are DONE stay so."""
        in_item, in_text = state.region == ITEM, state.region == TEXT
        item_node, item = _follow(self.trie, in_item | (state.region == CITE), state.node, tokens)
        node, fact = item_node, torch.full_like(item, -1)
        if self.fact_trie is not None:
            start = torch.where(in_text, 0, state.node)  # a fact begins at the root of its trie
            fact_node, fact = _follow(self.fact_trie, in_text | (state.region == FACT), start, tokens)
            node = torch.maximum(item_node, fact_node)
        completed = (item >= 0) | (fact >= 0)
        event = self._events(tokens, node >= 0, completed)
        stops = in_text & (event == Event.STOP)
        new = replace(
            state,
            region=self._transitions[state.region, event],
            node=torch.where(node >= 0, torch.where(completed, 0, node), state.node),
        )
        new = self._after_recommendation(new, torch.where(in_item, item, -1))
        new = self._after_citation(new, torch.where(in_item, -1, item))
        new = self._after_fact(new, fact)
        new = replace(new, sentence=state.sentence + stops, opening=stops | in_item)
        new = self._begin_sentence(new, stops)
        return self._keep_both_possible(new)

    def _events(self, tokens: torch.Tensor, in_span: torch.Tensor, completed: torch.Tensor) -> torch.Tensor:
        """The `grammar.Event` of each row's token, int64 [B]. Tokens of a span mean nothing else."""
        event = torch.full_like(tokens, Event.WORD)
        for kind, rows in (
            (Event.OPENER, tokens == self.classes.opener),
            (Event.STOP, tokens == self.classes.stop),
            (Event.END, tokens == self.classes.end),
            (Event.SPAN, in_span),
            (Event.SPAN_END, completed),
        ):
            event = torch.where(rows, kind, event)
        return event

    def _after_recommendation(self, state: DecodingState, item: torch.Tensor) -> DecodingState:
        """Looks up the facts of recommended items, int64 [B], -1 in rows that have not just completed one."""
        rows = (item >= 0).nonzero()[:, 0]
        if not len(rows):
            return state
        own_facts, common_facts = state.own_facts.clone(), state.common_facts.clone()
        own_facts[rows] = self.facts.own(item[rows])
        common_facts[rows] = self.facts.common(item[rows], state.history[rows])
        shares_category = (common_facts & self._is_category[:, None]).flatten(1).any(1)
        no_common_fact = ~shares_category & own_facts.any(1) & (state.history >= 0).any(1)
        new = replace(state, own_facts=own_facts, common_facts=common_facts, no_common_fact=no_common_fact)
        return self._begin_sentence(new, item >= 0)

    def _after_citation(self, state: DecodingState, item: torch.Tensor) -> DecodingState:
        """Restricts facts to those of cited items, int64 [B], -1 in rows that have not just completed a citation."""
        cited = item >= 0
        if not cited.any():
            return state
        is_cited = state.history == item[:, None]
        position = is_cited.long().argmax(1)
        index = position[:, None, None].expand(-1, state.common_facts.shape[1], 1)
        with_cited = state.common_facts.gather(2, index)[..., 0]
        # A shared entity can only be stated once the sentence cites somebody who shares it; of several, all must.
        may_state = with_cited & (state.statable | (~self._is_own & ~state.cited_here[:, None]))
        return replace(
            state,
            cited=state.cited | cited,
            cited_here=state.cited_here | cited,
            statable=torch.where(cited[:, None], may_state, state.statable),
            citable=state.citable & ~(cited[:, None] & is_cited),  # a sentence cites an item once
        )

    def _after_fact(self, state: DecodingState, fact: torch.Tensor) -> DecodingState:
        """Restricts citations to items that share stated facts, int64 [B], -1 in rows that have not just stated one."""
        stated = fact >= 0
        if not stated.any():
            return state
        index = fact.clamp(min=0)
        repeated = torch.zeros_like(state.statable).scatter_(1, index[:, None], stated[:, None])
        # With nothing in common, one category is enough; the period may still follow.
        second_category = (state.no_common_fact & stated)[:, None] & self._is_category
        with_fact = state.common_facts[torch.arange(len(index), device=index.device), index]
        return replace(
            state,
            stated=state.stated | stated,
            statable=state.statable & ~repeated & ~second_category,
            citable=torch.where(stated[:, None], state.citable & with_fact, state.citable),
        )

    def _begin_sentence(self, state: DecodingState, rows: torch.Tensor) -> DecodingState:
        """Resets what the next sentence of some rows, bool [B], may state and cite.

        Facts in common with the history come first. Items of the history that share a category come before those that
        share a period, and those before items that share any other fact.
        """
        if not rows.any():
            return state
        citable = state.history >= 0
        for kinds in (slice(None), self._is_own, self._is_category):  # the last kind that any item shares decides
            sharing = state.common_facts[:, kinds].any(1)
            citable = torch.where(sharing.any(1, keepdim=True), sharing, citable)
        in_common = state.common_facts.any(2) & self._is_own
        statable = torch.where(in_common.any(1, keepdim=True), in_common, state.own_facts)
        alone = state.own_facts & (state.sentence == 0)[:, None]
        statable = torch.where(state.no_common_fact[:, None], alone, statable)
        return replace(
            state,
            statable=torch.where(rows[:, None], statable, state.statable),
            citable=torch.where(rows[:, None], citable, state.citable),
            cited_here=state.cited_here & ~rows,
        )

    def _keep_both_possible(self, state: DecodingState) -> DecodingState:
        """Removes facts that no remaining citation shares, and citations that share no remaining fact, so that the
        completion can always finish.
        """
        incomplete = state.needs_citation | state.needs_fact
        both_exist = state.own_facts.any(1) & (state.history >= 0).any(1)
        rows = (incomplete & both_exist & ~state.no_common_fact & (state.region == TEXT)).nonzero()[:, 0]
        if not len(rows):
            return state
        statable, citable = state.statable.clone(), state.citable.clone()
        pairs = state.common_facts[rows] & statable[rows, :, None] & citable[rows, None]
        statable[rows] &= pairs.any(2) | state.cited[rows, None]
        citable[rows] &= pairs.any(1) | state.stated[rows, None]
        return replace(state, statable=statable, citable=citable)

    # -- what may come next --

    def choices(self, state: DecodingState) -> Iterator[Choice]:
        """What all rows that are not DONE may continue with, by kind: item spans, citations, text with its facts."""
        rows = (state.region == ITEM).nonzero()[:, 0]
        if len(rows):
            allowed = self.trie.allowed(state.node[rows], state.available[rows])
            yield Choice(ITEM, rows, self.trie.tokens, allowed)
        rows = (state.region == CITE).nonzero()[:, 0]
        if len(rows):
            yield self._citation(state, rows)
        rows = ((state.region == TEXT) | (state.region == FACT)).nonzero()[:, 0]
        if len(rows):
            yield Choice(TEXT, rows, self.tokens, self._text(state, rows))

    def _citation(self, state: DecodingState, rows: torch.Tensor) -> Choice:
        """Citations. Of a flat catalogue, only the columns of the histories, so that its size costs nothing."""
        if self.trie.flat:
            ranks = torch.where(state.history >= 0, self.trie.rank[state.history.clamp(min=0)], -1)
            columns = ranks[ranks >= 0].unique()
            column = torch.searchsorted(columns, ranks[rows])
            allowed = torch.zeros(len(rows), len(columns) + 1, dtype=torch.bool, device=rows.device)
            allowed.scatter_(1, torch.where(state.citable[rows], column, len(columns)), True)
            return Choice(CITE, rows, self.trie.tokens[columns], allowed[:, :-1])
        items = torch.zeros(len(rows), self.trie.num_items + 1, dtype=torch.bool, device=rows.device)
        items.scatter_(1, torch.where(state.citable[rows], state.history[rows], self.trie.num_items), True)
        return Choice(CITE, rows, self.trie.tokens, self.trie.allowed(state.node[rows], items[:, :-1]))

    def _text(self, state: DecodingState, rows: torch.Tensor) -> torch.Tensor:
        """Columns of `tokens` that rows in TEXT or FACT may continue with, bool [r, K]."""
        in_text = state.region[rows] == TEXT
        classes = torch.stack([rule(state)[rows] for rule in TEXT_RULES.values()], 1)  # [r, classes]
        allowed = (classes.float() @ self._class_columns > 0) & in_text[:, None]
        if self.fact_trie is not None:
            node = torch.where(in_text, 0, state.node[rows])
            columns = torch.searchsorted(self.tokens, self.fact_trie.tokens)
            allowed[:, columns] |= self.fact_trie.allowed(node, state.statable[rows])
        return allowed


def _follow(
    trie: ItemTrie, inside: torch.Tensor, node: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step in a trie for the rows `inside`, bool [B].

    Returns:
        the node reached and, at a leaf, its item (or fact), int64 [B] each; -1 where there is none.
    """
    reached = torch.where(inside, trie.step(torch.where(inside, node, 0), trie.columns_of(tokens)), -1)
    return reached, torch.where(reached >= 0, trie.node_item[reached.clamp(min=0)], -1)
