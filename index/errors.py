"""The error tree that all of drpo grows from; knows no file, no HTTP and no model.

    DrpoError
      BundleError              a bundle that cannot be used; the message names the file and the reason
        BundleFormatError      a format, key or value this version does not know
        BundleIntegrityError   bytes that are not the ones the manifest vouches for, or unsafe content
        EmbedderMismatchError  the embedder at hand is not the one that made the vectors
      EmbedderError            an embedder that cannot be opened or did not answer
      LayoutError              a conversation that a layout cannot express

Messages are for people: what was wrong, and what to do. They never hold keys or user text.
"""


class DrpoError(Exception):
    """The root of every error that drpo raises on purpose."""


class BundleError(DrpoError):
    """A bundle cannot be used."""


class BundleFormatError(BundleError):
    """The manifest has a format, key or value that this version does not know."""


class BundleIntegrityError(BundleError):
    """The files are not the ones that the manifest vouches for, or their content is unsafe to inject."""


class EmbedderMismatchError(BundleError):
    """The embedder at hand gives other vectors than the ones stored in the bundle."""


class EmbedderError(DrpoError):
    """An embedder cannot be opened, or did not answer."""


class LayoutError(DrpoError):
    """A conversation cannot be expressed in the layout."""
