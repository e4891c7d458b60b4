"""What was learned: how a bundle of prompt and examples is stored, found and laid out. Knows nothing of HTTP."""
