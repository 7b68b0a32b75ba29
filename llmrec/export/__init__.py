"""A trained policy as files that need neither llmrec nor peft."""
