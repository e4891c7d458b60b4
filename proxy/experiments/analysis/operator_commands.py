"""Writes the commands that advice names, with the flags without which they would not work."""

from dataclasses import dataclass
from shlex import quote
from typing import Self

from index.store_address import has_password, parse_store_address
from proxy.core.settings import flag, variable


@dataclass(frozen=True, slots=True)
class OperatorCommands:
    """The commands about one experiment, as the operator can copy them.

    Attributes:
        file: The experiment's file, quoted for a shell.
        store: The flag that names the store, after a space. Empty if no flag is needed, or none may hold the password.
        condition: Words after a command that say what else it needs. Empty if it needs nothing else.
    """

    file: str = "FILE"
    store: str = " --store PLACE"
    condition: str = ""

    @classmethod
    def for_server(cls, file: str, store: str) -> Self:
        """Return commands for a server's experiment, which work in every folder of the server's machine.

        Args:
            file: The path of the experiment's file.
            store: The value of --store. The commands do not contain its password.
        """
        if has_password(store):
            return cls(quote(file), "", f" (with the {variable('store')} of the server)")
        path = parse_store_address(store).path
        place = store if path is None else f"sqlite:{path.absolute()}"
        return cls(quote(file), store_flag(place))

    def stop(self, experiment: str) -> str:
        """Return the command that stops the experiment."""
        return self._command(f"stop {experiment}")

    def release(self, experiment: str) -> str:
        """Return the command that undoes `stop`."""
        return self._command(f"release {experiment}")

    @property
    def check(self) -> str:
        """The command that says which requests take part."""
        return self._command(f"check {self.file}")

    def _command(self, arguments: str) -> str:
        return f"`drpo-proxy experiment {arguments}{self.store}`{self.condition}"


def store_flag(given: str) -> str:
    """Return the flag --store after a space; empty if no value is given."""
    return f" {flag('store')} {quote(given)}" if given else ""
