"""Process life: start, sockets, workers, reload and shutdown. It does not depend on the content of requests."""
