"""The policy: a language model with adapters that recommends an item and justifies it."""
