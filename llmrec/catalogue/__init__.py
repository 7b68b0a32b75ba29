"""The catalogue: item token sequences and their trie, facts about items, co-occurrence of items."""
