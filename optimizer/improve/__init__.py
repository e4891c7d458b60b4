"""Makes a better bundle of the feedback in a store, and what is needed to test it: the parts of the command improve."""
