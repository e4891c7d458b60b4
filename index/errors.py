"""The base class of all errors of drpo, and the errors of index. This module does not depend on files, HTTP or models.

    DrpoError
      BundleError              a bundle cannot be used; the message names the file and the reason
        BundleFormatError      a file has a format, key or value that this version does not support
        BundleIntegrityError   a file differs from the manifest's record of it, or its content is unsafe to inject
        EmbedderMismatchError  the opened embedder is not the embedder that made the bundle's vectors
      EmbedderError            an embedder cannot be opened or did not answer
      LayoutError              a layout cannot express a conversation
      UsageError               the command line is wrong, or names a file that cannot be read

A message tells a person what is wrong and what to do. It never contains an API key or a user's text.
"""


class DrpoError(Exception):
    """The base class of all errors that drpo raises on purpose."""


class BundleError(DrpoError):
    """A bundle cannot be used."""


class BundleFormatError(BundleError):
    """A file has a format, key or value that this version does not support."""


class BundleIntegrityError(BundleError):
    """A file differs from the manifest's record of it, or its content is unsafe to inject."""


class EmbedderMismatchError(BundleError):
    """The opened embedder is not the embedder that made the bundle's vectors."""


class EmbedderError(DrpoError):
    """An embedder cannot be opened, or did not answer."""


class LayoutError(DrpoError):
    """A layout cannot express a conversation."""


class UsageError(DrpoError):
    """The command line is wrong, or names a file that cannot be read."""
