"""Process life: start, sockets, workers, reload and shutdown. It does not look at request bodies."""
