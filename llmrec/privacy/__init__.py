"""Privacy of a log and of an adapter: k-anonymity of histories, and a membership inference attack."""
