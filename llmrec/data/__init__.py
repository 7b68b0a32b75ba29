"""Event logs: readers, feedback rules, histories, splits, prepared data and decisions."""
