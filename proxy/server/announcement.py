"""Tells the operator on standard output that the server is ready: its addresses, its models, and example calls."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console

from proxy.core.variant_names import RAW
from proxy.experiments.store.dsn import dsn_of
from proxy.inference.injection.bundle_flags import flag_for_listed
from proxy.server.lifecycle import Announce
from proxy.server.service import Status

_ADMIN: Final = """
Page      {0}/ui     (try it, experiments, feedback, bundles, live numbers)
Admin     {0}     (POST /admin/reload reads bundles and keys again)"""

# For a server that requires keys: lines before the calls, the header of curl, and the key of the Python call.
_KEYED: Final = (
    "In these calls, replace drpo-... with your key, which `drpo-proxy new-key` showed.\n\nKEY=drpo-...\n",
    '-H "Authorization: Bearer $KEY" ',
    "drpo-...",
)


def announcer(console: Console, flags: Sequence[str] = (), store: str = "") -> Announce:
    """Return a function that prints the announcement, for `proxy.server.lifecycle.serve`.

    Args:
        console: The console that prints it.
        flags: The values of --bundle.
        store: The value of --store; empty if there is no store. Its password is not printed.
    """
    place = dsn_of(store).name if store else ""
    return lambda base_url, admin_url, status: _announce(console, flags, place, base_url, admin_url, status)


def _announce(
    console: Console, flags: Sequence[str], store: str, base_url: str, admin_url: str | None, status: Status
) -> None:
    """Print which models are served and how to call them.

    Print a warning if the kind of a model is doubtful, and if no backend lists the model of a bundle.

    If no model is served, print only which backends the server waits for.
    """
    for warning in status.warnings:
        console.print(f"Warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    if not status.models:
        waiting = f"Listening on {base_url}, waiting for a backend: {', '.join(status.problems)}"
        console.print(f"{waiting}{_store_line(store, status)}", markup=False, soft_wrap=True)
        return
    for name in sorted(set(status.bundled) - set(status.models)):
        listed, flag = ", ".join(status.models), flag_for_listed(flags, name, status.models)
        warning = (
            f"A bundle is for {name}, but backends list only {listed}. To serve it for a listed model, give {flag}"
        )
        console.print(warning, style="yellow", markup=False, soft_wrap=True)
    console.print(_snippets(base_url, admin_url, store, status), markup=False, soft_wrap=True)


def _store_line(store: str, status: Status) -> str:
    """Return a line with the store and the experiments, after a line break; empty if there is no store."""
    names = ", ".join(status.experiments)
    return f"\nStore     {store}     ({f'experiments: {names}' if names else 'no experiments'})" if store else ""


def _snippets(base_url: str, admin_url: str | None, store: str, status: Status) -> str:
    """Return a text with the server's addresses, and with example calls that a user can copy.

    The calls name a served model that has a bundle. If no served model has a bundle, they name the first served model.
    """
    aligned = next((name for name in status.bundled if name in status.models), None)
    model = aligned or status.models[0]
    raw = f"or {model}@{RAW} (without injection)" if aligned else "(without injection: it has no bundle)"
    keys = "a key of --api-keys-file" if status.keyed else "any API key"
    insert, header, key = _KEYED if status.keyed else ("", "", "any")
    admin = _ADMIN.format(admin_url) if admin_url else ""
    bundle = f"\nBundle    {status.chosen[aligned]}" if aligned else ""
    return f"""
drpo-proxy is {"ready" if aligned or not status.bundled else "up"}.

Base URL  {base_url}     (any OpenAI client; {keys})
Models    {model}  {raw}{bundle}{_store_line(store, status)}{admin}

{insert}curl {base_url}/chat/completions -H 'Content-Type: application/json' {header}\\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "What is DNA?"}}]}}'

from openai import OpenAI   # pip install openai
client = OpenAI(base_url="{base_url}", api_key="{key}")
question = [{{"role": "user", "content": "What is DNA?"}}]
print(client.chat.completions.create(model="{model}", messages=question).choices[0].message.content)

Stop with Ctrl-C."""
