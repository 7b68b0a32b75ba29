"""Requests in words: attributes of items, conditions on them, and the sentences that ask for them."""
