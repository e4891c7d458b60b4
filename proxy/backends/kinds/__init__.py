"""Decides by a model's answers whether it is a chat model or a base model. It does not depend on connections."""
