"""The command `drpo-proxy fit`: measures whether a bundle helps a model, without a judge."""
