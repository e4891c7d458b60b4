"""Contains the parts of `drpo-optimizer improve`: it makes a bundle from the feedback in a store, and an experiment
that tests this bundle."""
