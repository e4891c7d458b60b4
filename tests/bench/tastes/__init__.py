"""Shows that feedback becomes a better bundle: hidden tastes, scripted users, the real proxy and the real `improve`."""
