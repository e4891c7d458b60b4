"""The stages of an optimization run, in order: examples, prompt, tuning, sealed evaluation."""
