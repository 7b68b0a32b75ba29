"""Decoding: the state of each completion, and the tokens that may come next.

The decoder applies the grammar of `language.grammar` to a catalogue, its facts and the histories of a batch. Item
spans allow only items that may be recommended. Citations allow only items of the history. Facts must hold for the
recommended item and for every item that the sentence cites.

A state is a set of tensors with one row for each completion, and every step computes all rows alike. No step reads a
tensor on the host, so an accelerator is never waited for.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.trie import ItemTrie
from llmrec.errors import CatalogueError
from llmrec.language.grammar import CITE, DONE, FACT, ITEM, TEXT, TEXT_RULES, TRANSITIONS, Event, Region, TokenClasses


@dataclass(frozen=True)
class DecodingState:
    """Where each of R completions of P prompts stands.

    Attributes:
        step: number of tokens that each completion has.
        shown: first token of each item of a prompt's history, int64 [P, H]; any item's at padding.
        prompt: prompt of each completion, int64 [R].
        region: `grammar.Region` of the next token, int64 [R].
        node: trie node inside an item span, a citation or a fact, int64 [R].
        available: items that may be recommended, bool [R, N].
        history: distinct items that may be cited at all, -1 at padding, int64 [R, H].
        common_facts: facts that the recommended item shares with each item of the history, bool [R, F, H].
        first_statable: facts that a sentence may state before it has stated or cited anything, bool [R, F].
        first_citable: positions of the history that it may cite then, bool [R, H].
        statable: facts that may be stated now, bool [R, F].
        citable: positions of the history that may be cited now, bool [R, H].
        has_facts: facts of the recommended item are known, bool [R].
        no_common_fact: the item has facts, but shares no category with the history, bool [R].
        sentence: number of sentences that have ended, int64 [R].
        opening: the sentence has no token yet, bool [R].
        cited_here: the sentence has cited an item, bool [R].
        cited: the justification has cited an item, bool [R].
        stated: the justification has stated a fact, bool [R].
    """

    step: int
    shown: torch.Tensor
    prompt: torch.Tensor
    region: torch.Tensor
    node: torch.Tensor
    available: torch.Tensor
    history: torch.Tensor
    common_facts: torch.Tensor
    first_statable: torch.Tensor
    first_citable: torch.Tensor
    statable: torch.Tensor
    citable: torch.Tensor
    has_facts: torch.Tensor
    no_common_fact: torch.Tensor
    sentence: torch.Tensor
    opening: torch.Tensor
    cited_here: torch.Tensor
    cited: torch.Tensor
    stated: torch.Tensor

    @property
    def can_cite(self) -> torch.Tensor:
        """An item of the history may be cited now, bool [R]."""
        return self.citable.any(1)

    @property
    def has_history(self) -> torch.Tensor:
        """There is an item to cite, bool [R]."""
        return (self.history >= 0).any(1)

    @property
    def needs_citation(self) -> torch.Tensor:
        """There is a history, and nothing of it has been cited, bool [R]."""
        return ~self.cited & self.has_history

    @property
    def needs_fact(self) -> torch.Tensor:
        """Facts of the item are known, and none has been stated, bool [R]."""
        return ~self.stated & self.has_facts

    def select(self, rows: torch.Tensor) -> "DecodingState":
        """The states of some rows; repeated rows give copies."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shared = {name: values.pop(name) for name in ("step", "shown")}
        return DecodingState(**shared, **{name: value[rows] for name, value in values.items()})


@dataclass(frozen=True)
class Choice:
    """What R completions may continue with. The last columns are the items of each completion's own prompt.

    Attributes:
        tokens: token ids of the columns that all completions have, ascending, int64 [K].
        shown: token ids of each prompt's own columns, int64 [P, H]; H is 0 where there are none.
        prompt: prompt of each completion, int64 [R].
        allowed: bool [R, K + H], or [R, T, K + H] for T tokens of each completion.
    """

    tokens: torch.Tensor
    shown: torch.Tensor
    prompt: torch.Tensor
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
    _fact_columns: torch.Tensor
    _all_tokens: torch.Tensor
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
        fact_tokens = tokens[:0] if self.fact_trie is None else self.fact_trie.tokens
        buffers = {
            "tokens": tokens,
            "_class_columns": torch.stack(columns).float(),  # [classes, K]; matrix products of bool do not exist
            "_fact_columns": torch.searchsorted(tokens, fact_tokens),
            "_all_tokens": torch.cat([tokens, trie.tokens.cpu()]).unique(),  # of text and items
            "_transitions": torch.tensor([TRANSITIONS[region] for region in Region]),
            "_is_category": facts.of_kind("category"),
            "_is_own": facts.of_kind("category", "period"),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def start(self, available: torch.Tensor, history: torch.Tensor) -> DecodingState:
        """States before the first token.

        Args:
            available: items that may be recommended, bool [P, N].
            history: items that may be cited, -1 at padding, int64 [P, H].

        Raises:
            CatalogueError: a row has nothing left to recommend.
        """
        empty = ~available.any(1)
        if empty.any():
            raise CatalogueError(
                f"Nothing is left to recommend in row {int(empty.nonzero()[0])}: the user has seen, or the request "
                "excludes, every item of the catalogue."
            )
        prompt = torch.arange(len(available), device=available.device)
        zeros = torch.zeros_like(prompt)
        no = zeros.bool()
        no_facts = torch.zeros(len(available), self.num_facts, dtype=torch.bool, device=available.device)
        is_same = history[:, :, None] == history[:, None]
        history = history.masked_fill(is_same.tril(-1).any(2), -1)  # each item once
        citable = history >= 0
        return DecodingState(
            step=0,
            shown=self.trie.tokens[self.trie.item_columns[history.clamp(min=0), 0]],
            prompt=prompt,
            region=torch.full_like(zeros, ITEM),
            node=zeros,
            available=available,
            history=history,
            common_facts=no_facts[:, :, None].expand(-1, -1, history.shape[1]),
            first_statable=no_facts,
            first_citable=citable,
            statable=no_facts,
            citable=citable,
            has_facts=no,
            no_common_fact=no,
            sentence=zeros,
            opening=~no,
            cited_here=no,
            cited=no,
            stated=no,
        )

    # -- the next state --

    def advance(self, state: DecodingState, tokens: torch.Tensor) -> DecodingState:
        """States after one more token a row, int64 [R]. Rows that are DONE stay so."""
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
            step=state.step + 1,
            region=self._transitions[state.region, event],
            node=torch.where(node >= 0, torch.where(completed, 0, node), state.node),
            sentence=state.sentence + stops,
            opening=stops | in_item,
        )
        if state.step < self.trie.longest:  # later no recommended item is incomplete
            new = self._after_recommendation(new, torch.where(in_item, item, -1))
        new = self._after_citation(new, torch.where(in_item, -1, item))
        if self.fact_trie is not None:
            new = self._after_fact(new, fact)
        new = self._begin_sentence(new, stops)
        return self._keep_both_possible(new)

    def _events(self, tokens: torch.Tensor, in_span: torch.Tensor, completed: torch.Tensor) -> torch.Tensor:
        """The `grammar.Event` of each row's token, int64 [R]. Tokens of a span mean nothing else."""
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
        """Looks up the facts of recommended items, int64 [R], -1 in rows that have not just completed one.

        Facts in common with the history come first. Items of the history that share a category come before those that
        share a period, and those before items that share any other fact.
        """
        rows = item >= 0
        index = item.clamp(min=0)
        own = self.facts.own(index)
        common = self.facts.common(index, state.history)
        citable = state.history >= 0
        for kind in (torch.ones_like(self._is_own), self._is_own, self._is_category):  # the last kind that is shared
            sharing = (common & kind[:, None]).any(1)
            citable = torch.where(sharing.any(1, keepdim=True), sharing, citable)
        in_common = common.any(2) & self._is_own
        shares_category = (in_common & self._is_category).any(1)
        no_common_fact = ~shares_category & own.any(1) & state.has_history
        statable = torch.where(in_common.any(1, keepdim=True), in_common, own)
        at_first = torch.where(no_common_fact[:, None], own, statable)
        later = statable & ~no_common_fact[:, None]
        return replace(
            state,
            common_facts=torch.where(rows[:, None, None], common, state.common_facts),
            first_statable=torch.where(rows[:, None], later, state.first_statable),
            first_citable=torch.where(rows[:, None], citable, state.first_citable),
            statable=torch.where(rows[:, None], at_first, state.statable),
            citable=torch.where(rows[:, None], citable, state.citable),
            has_facts=torch.where(rows, own.any(1), state.has_facts),
            no_common_fact=torch.where(rows, no_common_fact, state.no_common_fact),
        )

    def _after_citation(self, state: DecodingState, item: torch.Tensor) -> DecodingState:
        """Restricts facts to those of cited items, int64 [R], -1 in rows that have not just completed a citation."""
        cited = item >= 0
        is_cited = state.history == item[:, None]
        index = is_cited.long().argmax(1)[:, None, None].expand(-1, state.common_facts.shape[1], 1)
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
        """Restricts citations to items that share stated facts, int64 [R], -1 in rows that have not just stated one."""
        stated = fact >= 0
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
        """Resets what the next sentence of some rows, bool [R], may state and cite."""
        return replace(
            state,
            statable=torch.where(rows[:, None], state.first_statable, state.statable),
            citable=torch.where(rows[:, None], state.first_citable, state.citable),
            cited_here=state.cited_here & ~rows,
        )

    def _keep_both_possible(self, state: DecodingState) -> DecodingState:
        """Removes facts that no remaining citation shares, and citations that share no remaining fact, so that the
        completion can always finish.
        """
        incomplete = state.needs_citation | state.needs_fact
        both_exist = state.has_facts & state.has_history
        free = ~(incomplete & both_exist & ~state.no_common_fact & (state.region == TEXT))
        pairs = state.common_facts & state.statable[:, :, None] & state.citable[:, None]
        return replace(
            state,
            statable=state.statable & (pairs.any(2) | (free | state.cited)[:, None]),
            citable=state.citable & (pairs.any(1) | (free | state.stated)[:, None]),
        )

    # -- what may come next --

    def choice(self, state: DecodingState) -> Choice:
        """What all rows may continue with; rows that are DONE with the end token alone."""
        if not self.trie.flat:
            return self._choice_of_all(state)
        if state.step == 0:
            allowed = self.trie.allowed(state.node, state.available)
            return Choice(self.trie.tokens, state.shown[:, :0], state.prompt, allowed)
        # Of a flat catalogue, only the items that the prompts show can be cited, so its size costs nothing.
        cited = state.citable & (state.region == CITE)[:, None]
        return Choice(self.tokens, state.shown, state.prompt, torch.cat([self._text(state), cited], 1))

    def _choice_of_all(self, state: DecodingState) -> Choice:
        """The choice among the tokens of the text and of all items, for items of several tokens."""
        count = len(self._all_tokens)
        allowed = state.citable.new_zeros(len(state.region), count + 1)
        allowed[:, torch.searchsorted(self._all_tokens, self.tokens)] = self._text(state)
        of_items = torch.searchsorted(self._all_tokens, self.trie.tokens)
        in_item, in_citation = state.region == ITEM, state.region == CITE
        node = torch.where(in_item | in_citation, state.node, 0)
        cited = self.trie.next_columns(node, state.history.clamp(min=0))
        is_cited = (cited >= 0) & state.citable & in_citation[:, None]
        allowed.scatter_(1, torch.where(is_cited, of_items[cited.clamp(min=0)], count), True)
        if state.step < self.trie.longest:
            recommended = self.trie.allowed(node, state.available) & in_item[:, None]
            allowed[:, of_items] |= recommended
        return Choice(self._all_tokens, state.shown[:, :0], state.prompt, allowed[:, :-1])

    def _text(self, state: DecodingState) -> torch.Tensor:
        """Columns of `tokens` that rows in TEXT, FACT or DONE may continue with, bool [R, K]."""
        in_text, in_fact = state.region == TEXT, state.region == FACT
        classes = torch.stack([rule(state) for rule in TEXT_RULES.values()], 1)  # [R, classes]
        allowed = (classes.float() @ self._class_columns > 0) & in_text[:, None]
        allowed |= (state.region == DONE)[:, None] & (self.tokens == self.classes.end)
        if self.fact_trie is not None:
            facts = self.fact_trie.allowed(torch.where(in_fact, state.node, 0), state.statable)
            allowed[:, self._fact_columns] |= facts & (in_text | in_fact)[:, None]
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
