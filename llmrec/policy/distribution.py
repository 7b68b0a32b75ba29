"""The one masked distribution: which tokens a completion may continue with.

A completion is `item span -> justification -> end`. Inside the item span only the trie's continuations are allowed,
minus items the user has had. The justification is free text with two kinds of span inside: a citation is an item of
the user's history, and a fact is one that is true, of the recommended item and of whatever its sentence cites. It ends
with a full stop, and not before it has cited and stated something, where there is anything to cite and to state.
Sampling, old, new and reference log-probabilities, entropy, the SFT loss and ranking all come through
`MaskedDistribution`: there is no other place where logits become probabilities.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch

from llmrec.catalogue.facts import FactBook
from llmrec.catalogue.trie import ItemTrie
from llmrec.errors import CatalogueError

ITEM, TEXT, CITE, FACT, DONE = range(5)


@dataclass(frozen=True)
class DecodingState:
    """Where each of B completions stands.

    Attributes:
        region: ITEM, TEXT, CITE, FACT or DONE, int64 [B].
        node: trie node inside an item span, a citation or a fact, int64 [B].
        available: items that may be recommended, bool [B, N].
        history: items that may be cited at all, -1 beyond them, int64 [B, H].
        own: facts of the recommended item, bool [B, F].
        common: facts of both it and each item of the history, bool [B, F, H].
        facts: facts that may be stated now, bool [B, F].
        citable: places in the history that may be cited now, bool [B, H].
        apart: the item has facts, but no category in common with the history, bool [B].
        sentence: sentences that ended so far, int64 [B].
        opening: nothing of the sentence is there yet, bool [B].
        citing: something was cited in the sentence, bool [B].
        cited: something was cited, bool [B].
        stated: a fact was stated, bool [B].
    """

    region: torch.Tensor
    node: torch.Tensor
    available: torch.Tensor
    history: torch.Tensor
    own: torch.Tensor
    common: torch.Tensor
    facts: torch.Tensor
    citable: torch.Tensor
    apart: torch.Tensor
    sentence: torch.Tensor
    opening: torch.Tensor
    citing: torch.Tensor
    cited: torch.Tensor
    stated: torch.Tensor

    @property
    def uncited(self) -> torch.Tensor:
        """There is a history to cite, and nothing of it was cited, bool [B]."""
        return ~self.cited & (self.history >= 0).any(1)

    @property
    def unstated(self) -> torch.Tensor:
        """There are facts to state, and none was stated, bool [B]."""
        return ~self.stated & self.own.any(1)

    def select(self, rows: torch.Tensor) -> "DecodingState":
        """The states of some rows (or, with repeated rows, copies of them)."""
        return DecodingState(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Choice:
    """Rows of one kind with what they may continue with, out of the tokens that this kind can have at all.

    Attributes:
        kind: ITEM, CITE or TEXT (in which facts are).
        rows: row numbers, int64 [r].
        tokens: token id of each column, ascending, int64 [K].
        allowed: bool [r, K].
    """

    kind: int
    rows: torch.Tensor
    tokens: torch.Tensor
    allowed: torch.Tensor


@dataclass(frozen=True)
class Group:
    """Rows of one kind with their distribution over the tokens that this kind can have at all.

    Attributes:
        rows: row numbers, int64 [r].
        tokens: token id of each column, int64 [K].
        log_probs: normalised over the allowed columns, -inf elsewhere, float32 [r, K].
    """

    rows: torch.Tensor
    tokens: torch.Tensor
    log_probs: torch.Tensor

    def entropy(self) -> torch.Tensor:
        """Entropy in nats, [r]."""
        finite = self.log_probs.masked_fill(self.log_probs.isneginf(), 0)
        return -(self.log_probs.exp() * finite).sum(-1)

    def gather(self, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probability of one token id a row, [r]; -inf for a token that these columns do not have."""
        columns = torch.searchsorted(self.tokens, tokens).clamp(max=len(self.tokens) - 1)
        picked = self.log_probs.gather(1, columns[:, None])[:, 0]
        return torch.where(self.tokens[columns] == tokens, picked, -torch.inf)


@dataclass(frozen=True)
class Scores:
    """What a policy makes of given completions, each [B, T]; 0 (or false) after the end.

    Attributes:
        log_probs: of each token.
        entropy: of the distribution that each token was drawn from, nats; carries no gradient.
        region: ITEM, TEXT, CITE, FACT or DONE.
        free: there was more than one token to choose from. A forced token is certain and teaches nothing.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    region: torch.Tensor
    free: torch.Tensor


class MaskedDistribution:
    """The policy's distribution over completions, from the hidden states of any backbone.

    Args:
        trie: the catalogue.
        facts: what is true of its items.
        fact_tokens: token ids that say each fact, [F] sequences; the first token of each means a fact wherever it
            stands in a justification.
        text_tokens: token ids that free text may use.
        naming_tokens: of them, those that would read as a name or a number, were they not to begin a sentence.
        apart_tokens: of them, those that begin the two sentences that are left where nothing is in common.
        opener: token id that opens a citation.
        end: token id that ends a completion.
        stop: token id that ends a sentence; a citation and the facts of its sentence belong together.
        logits: maps hidden states [r, d] and token ids [K] to logits [r, K].
    """

    def __init__(
        self,
        trie: ItemTrie,
        facts: FactBook,
        fact_tokens: list[tuple[int, ...]],
        text_tokens: list[int],
        naming_tokens: list[int],
        apart_tokens: tuple[list[int], list[int]],
        opener: int,
        end: int,
        stop: int,
        logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ):
        device = trie.tokens.device
        self.trie = trie
        self.facts = facts
        self.fact_trie = ItemTrie(fact_tokens).to(device) if fact_tokens else None
        spoken = {token for sequence in fact_tokens for token in sequence}
        self.tokens = torch.tensor(sorted({*text_tokens, *spoken, opener, end, stop}), device=device)
        free = torch.tensor(sorted({*text_tokens, opener, end, stop} - {s[0] for s in fact_tokens}), device=device)
        self._free = torch.isin(self.tokens, free)
        self._naming = self._free & torch.isin(self.tokens, torch.tensor(naming_tokens, device=device))
        first, second = {*apart_tokens[0]}, {*apart_tokens[1], opener}
        phases = [torch.tensor(sorted(some), device=device) for some in (first, second, {stop}, {end})]
        self._apart = torch.stack([self._free & torch.isin(self.tokens, phase) for phase in phases])
        self._is_category = facts.of_kind("category").to(device)
        self._is_own = facts.of_kind("category", "period").to(device)
        self.opener, self.end, self.stop = opener, end, stop
        self._logits = logits

    def start(self, available: torch.Tensor, history: torch.Tensor) -> DecodingState:
        """States before the first token.

        Args:
            available: items that may be recommended, bool [B, N].
            history: items that may be cited, -1 beyond them, int64 [B, H].

        Raises:
            CatalogueError: a row has nothing left to recommend.
        """
        empty = ~available.any(1)
        if empty.any():
            raise CatalogueError(
                f"Nothing is left to recommend in row {int(empty.nonzero()[0])}: the user has had, or the request "
                "excludes, every item of the catalogue."
            )
        zeros = torch.zeros(len(available), dtype=torch.int64, device=available.device)
        own = torch.zeros(len(available), len(self.facts.facts), dtype=torch.bool, device=available.device)
        common = own[:, :, None].expand(-1, -1, history.shape[1])
        no = zeros.bool()
        return DecodingState(
            zeros, zeros, available, history, own, common, own, history >= 0, no, zeros, ~no, no, no, no
        )  # fmt: skip

    def advance(self, state: DecodingState, tokens: torch.Tensor) -> DecodingState:
        """States after one more token a row, int64 [B]; rows that are DONE stay so."""
        new = {f.name: getattr(state, f.name) for f in fields(state)}
        new["region"] = state.region.clone()
        self._advance_item(state, tokens, new)
        self._advance_fact(state, tokens, new)
        in_text = state.region == TEXT
        new["region"][in_text & (tokens == self.opener)] = CITE
        new["region"][in_text & (tokens == self.end)] = DONE
        stops = in_text & (tokens == self.stop)
        new["sentence"] = state.sentence + stops
        new["opening"] = stops | (state.region == ITEM)
        self._begin_sentence(stops, new)
        return self._leave_both(DecodingState(**new))

    def _advance_item(self, state: DecodingState, tokens: torch.Tensor, new: dict[str, torch.Tensor]) -> None:
        inside = (state.region == ITEM) | (state.region == CITE)
        if not inside.any():
            return
        node = torch.where(inside, self.trie.step(state.node, self.trie.columns_of(tokens)).clamp(min=0), 0)
        item = torch.where(inside, self.trie.node_item[node], -1)
        new["node"] = torch.where(inside, torch.where(item >= 0, 0, node), state.node)
        new["region"][item >= 0] = TEXT
        chosen = ((item >= 0) & (state.region == ITEM)).nonzero()[:, 0]
        if len(chosen):
            for name in ("own", "common"):
                new[name] = new[name].clone()
            new["own"][chosen] = self.facts.own(item[chosen])
            new["common"][chosen] = self.facts.common(item[chosen], state.history[chosen])
            nothing = ~(new["common"] & self._is_category[:, None]).flatten(1).any(1)
            new["apart"] = nothing & new["own"].any(1) & (state.history >= 0).any(1)
            self._begin_sentence(torch.isin(torch.arange(len(item), device=item.device), chosen), new)
        cited = (item >= 0) & (state.region == CITE)
        new["cited"], new["citing"] = state.cited | cited, state.citing | cited
        place = (state.history == item[:, None]).long().argmax(1)
        with_cited = new["common"].gather(2, place[:, None, None].expand(-1, new["common"].shape[1], 1))[..., 0]
        # Sharing a person can only be said once it is said with whom; of several, all must share it.
        may = with_cited & (new["facts"] | (~self._is_own & ~state.citing[:, None]))
        new["facts"] = torch.where(cited[:, None], may, new["facts"])
        new["citable"] = new["citable"] & ~(cited[:, None] & (state.history == item[:, None]))  # once a sentence

    def _advance_fact(self, state: DecodingState, tokens: torch.Tensor, new: dict[str, torch.Tensor]) -> None:
        if self.fact_trie is None:
            return
        inside = (state.region == FACT) | (state.region == TEXT)
        node = torch.where(state.region == FACT, state.node, 0)
        node = torch.where(inside, self.fact_trie.step(node, self.fact_trie.columns_of(tokens)), -1)
        fact = torch.where(node >= 0, self.fact_trie.node_item[node.clamp(min=0)], -1)
        new["node"] = torch.where(node >= 0, torch.where(fact >= 0, 0, node), new["node"])
        new["region"][node >= 0] = FACT
        new["region"][fact >= 0] = TEXT
        new["stated"] = state.stated | (fact >= 0)
        stated = (fact >= 0)[:, None]
        index = fact.clamp(min=0)
        said = torch.zeros_like(new["facts"]).scatter_(1, index[:, None], stated)
        with_fact = new["common"][torch.arange(len(index), device=index.device), index]
        only_period = (state.apart & (fact >= 0))[:, None] & self._is_category  # one category, then perhaps when
        new["facts"] = new["facts"] & ~said & ~only_period
        new["citable"] = torch.where(stated, new["citable"] & with_fact, new["citable"])

    def _begin_sentence(self, rows: torch.Tensor, new: dict[str, torch.Tensor]) -> None:
        """What a new sentence may state and cite: what the item has in common with the history, categories first."""
        if not rows.any():
            return
        citable = new["history"] >= 0
        for kinds in (slice(None), self._is_own, self._is_category):  # the last that any item fits counts
            fitting = new["common"][:, kinds].any(1)
            citable = torch.where(fitting.any(1, keepdim=True), fitting, citable)
        somewhere = new["common"].any(2) & self._is_own
        facts = torch.where(somewhere.any(1, keepdim=True), somewhere, new["own"])
        facts = torch.where(new["apart"][:, None], new["own"] & (new["sentence"] == 0)[:, None], facts)
        new["facts"] = torch.where(rows[:, None], facts, new["facts"])
        new["citable"] = torch.where(rows[:, None], citable, new["citable"])
        new["citing"] = new["citing"] & ~rows

    def _leave_both(self, state: DecodingState) -> DecodingState:
        """Without the facts that would leave nothing to cite, and the citations that would leave nothing to state."""
        agreeing = (state.uncited | state.unstated) & ~state.apart & state.own.any(1) & (state.history >= 0).any(1)
        rows = (agreeing & (state.region == TEXT)).nonzero()[:, 0]
        if not len(rows):
            return state
        facts, citable = state.facts.clone(), state.citable.clone()
        both = state.common[rows] & facts[rows, :, None] & citable[rows, None]
        facts[rows] &= both.any(2) | state.cited[rows, None]
        citable[rows] &= both.any(1) | state.stated[rows, None]
        return replace(state, facts=facts, citable=citable)

    def groups(self, hidden: torch.Tensor, state: DecodingState, temperature: float = 1.0) -> Iterator[Group]:
        """Distributions of all rows that are not DONE, by kind.

        Args:
            hidden: last hidden state of each row, [R, d].
            state: R states.
            temperature: divides the logits.
        """
        for choice in self.choices(state):
            yield self._distribution(hidden[choice.rows], choice, temperature)

    def choices(self, state: DecodingState) -> Iterator[Choice]:
        """What all rows that are not DONE may continue with, by kind: item spans, citations, text with its facts."""
        rows = (state.region == ITEM).nonzero()[:, 0]
        if len(rows):
            yield Choice(ITEM, rows, self.trie.tokens, self.trie.allowed(state.node[rows], state.available[rows]))
        rows = (state.region == CITE).nonzero()[:, 0]
        if len(rows):
            yield self._citation(state, rows)
        rows = ((state.region == TEXT) | (state.region == FACT)).nonzero()[:, 0]
        if len(rows):
            yield Choice(TEXT, rows, self.tokens, self._text(state, rows))

    def _distribution(self, hidden: torch.Tensor, choice: Choice, temperature: float) -> Group:
        logits = self._logits(hidden, choice.tokens).float() / temperature
        return Group(choice.rows, choice.tokens, logits.masked_fill(~choice.allowed, -torch.inf).log_softmax(-1))

    def _citation(self, state: DecodingState, rows: torch.Tensor) -> Choice:
        """Citations; of a flat catalogue only the columns of the histories, so that its size costs nothing."""
        if self.trie.flat:
            places = torch.where(state.history >= 0, self.trie.rank[state.history.clamp(min=0)], -1)
            columns = places[places >= 0].unique()
            place = torch.searchsorted(columns, places[rows])
            allowed = torch.zeros(len(rows), len(columns) + 1, dtype=torch.bool, device=rows.device)
            allowed.scatter_(1, torch.where(state.citable[rows], place, len(columns)), True)
            return Choice(CITE, rows, self.trie.tokens[columns], allowed[:, :-1])
        items = torch.zeros(len(rows), self.trie.num_items + 1, dtype=torch.bool, device=rows.device)
        items.scatter_(1, torch.where(state.citable[rows], state.history[rows], self.trie.num_items), True)
        return Choice(CITE, rows, self.trie.tokens, self.trie.allowed(state.node[rows], items[:, :-1]))

    def _text(self, state: DecodingState, rows: torch.Tensor) -> torch.Tensor:
        """Columns of `tokens` that rows in TEXT or FACT may continue with, bool [r, K]."""
        in_text = (state.region[rows] == TEXT)[:, None]
        free = torch.where(state.apart[rows, None], self._apart_text(state, rows), self._joint_text(state, rows))
        nothing_to_cite = ~state.citable[rows].any(1, keepdim=True)
        free = free & ~(nothing_to_cite & (self.tokens == self.opener)) & (state.opening[rows, None] | ~self._naming)
        allowed = in_text & free
        if self.fact_trie is not None:
            node = torch.where(in_text[:, 0], 0, state.node[rows])
            columns = torch.searchsorted(self.tokens, self.fact_trie.tokens)
            allowed[:, columns] |= self.fact_trie.allowed(node, state.facts[rows])
        return allowed

    def _joint_text(self, state: DecodingState, rows: torch.Tensor) -> torch.Tensor:
        """Text where facts and citations may share a sentence; it ends, as the completion does, when both are there.

        Until a fact is stated one citation is enough: policies that missed the place of the fact would go on citing.
        """
        whole, opening = ~(state.uncited | state.unstated)[rows], state.opening[rows]
        may_cite = ~(state.citing & state.unstated)[rows]
        may_stop, may_end = whole & ~opening, whole & opening & (state.sentence[rows] > 0)
        stops, ends = self.tokens == self.stop, self.tokens == self.end
        allowed = self._free & (may_stop[:, None] | ~stops) & (may_end[:, None] | ~ends)
        return allowed & (may_cite[:, None] | (self.tokens != self.opener))

    def _apart_text(self, state: DecodingState, rows: torch.Tensor) -> torch.Tensor:
        """Text where nothing is in common: facts of the item alone, then a citation in a sentence of its own.

        Any other sentence would have to stop before its fact or its citation.
        """
        phase = state.sentence[rows].clamp(max=1) + (state.sentence[rows] >= 1) * state.cited[rows]
        phase = torch.where(state.sentence[rows] > 1, 3, phase)
        said = (state.facts[rows] != state.own[rows]).any(1)
        phase = torch.where((phase == 0) & said, 2, phase)
        return self._apart[phase]

    def items(
        self, hidden: torch.Tensor, node: torch.Tensor, items: torch.Tensor, temperature: float = 1.0
    ) -> torch.Tensor:
        """Log-probabilities over the trie's columns inside an item span.

        Args:
            hidden: [R, d].
            node: trie node of each row, int64 [R].
            items: items that may be chosen, bool [R, N].

        Returns:
            float32 [R, C], -inf where not allowed.
        """
        logits = self._logits(hidden, self.trie.tokens).float() / temperature
        return logits.masked_fill(~self.trie.allowed(node, items), -torch.inf).log_softmax(-1)

    def score(
        self, hidden: torch.Tensor, tokens: torch.Tensor, start: DecodingState, temperature: float = 1.0
    ) -> Scores:
        """Scores given completions: first what was allowed at each token, then one softmax for all tokens of a kind.

        Args:
            hidden: state that predicts each token, [B, T, d].
            tokens: int64 [B, T]; whatever follows the end is ignored.
            start: B states before the first token.
        """
        state, regions = start, []
        parts: dict[int, list[tuple[int, Choice]]] = defaultdict(list)
        for step in range(tokens.shape[1]):
            for choice in self.choices(state):
                parts[choice.kind].append((step, choice))
            regions.append(state.region)
            state = self.advance(state, tokens[:, step])
        log_probs = hidden.new_zeros(tokens.shape, dtype=torch.float32)
        entropy, free = torch.zeros_like(log_probs), torch.zeros_like(tokens, dtype=torch.bool)
        for kind, steps in parts.items():
            row = torch.cat([choice.rows for _, choice in steps])
            column = torch.cat([torch.full_like(choice.rows, step) for step, choice in steps])
            allowed = torch.cat([choice.allowed for _, choice in steps])
            choice = Choice(kind, row, steps[0][1].tokens, allowed)
            group = self._distribution(hidden[row, column], choice, temperature)
            log_probs = log_probs.index_put((row, column), group.gather(tokens[row, column]))
            with torch.no_grad():
                entropy[row, column] = group.entropy()
                free[row, column] = allowed.sum(1) > 1
        return Scores(log_probs, entropy, torch.stack(regions, 1), free)
