"""Model hubs: upload and download of adapters, their model card, and comparison of revisions."""
