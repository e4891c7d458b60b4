"""Uses preference pairs in a run: as a specification for the writer model, or to choose among written examples."""
