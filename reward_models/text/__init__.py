"""The text reward model: a language model with an adapter that scores a recommendation from its text."""
