"""The server of `llmrec serve`: recommendations over HTTP, and a store of impressions and feedback."""
