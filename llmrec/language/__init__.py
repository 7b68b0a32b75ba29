"""Language: the base model, prompts, justification templates, their grammar, and the check of what a text states."""
