"""The embedded model: a child process that serves a small base model, or a model file of the operator."""
