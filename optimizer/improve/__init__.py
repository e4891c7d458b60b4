"""Parts of `drpo-optimizer improve`: makes a bundle from feedback in a store, and an experiment that tests it."""
