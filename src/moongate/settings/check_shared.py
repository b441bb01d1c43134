"""What several tables of the configuration are held to: addresses, and a contract's agreement."""

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from moongate.settings.serving import Upstream, day_to_s
from moongate.settings.tables import Search


def agreement(table: Upstream | Search, path: str, name: str) -> Iterator[str]:
    """A contract needs an agreement, called ``name`` in the file, and an agreement a contract."""
    held = table.agreement
    if held is None:
        if table.data_policy == "contract":
            yield (
                f'{path}.data_policy is "contract", but there is no [{name}] below '
                "it: give its title, effective day and statements, or set data_policy to "
                '"none". Show only an agreement that you hold.'
            )
        return
    if table.data_policy != "contract":
        yield f'{path}.agreement is given, but data_policy is not "contract"; one must change.'
    if not held.statements or not all(line.strip() for line in held.statements):
        yield f"{path}.agreement.statements needs at least one sentence, and none may be empty."
    try:
        day_to_s(held.effective)
    except ValueError:
        yield f'{path}.agreement.effective takes a day like "2026-02-10".'


def address(
    url: str, path: str, *, example: str = "https://host.example/v1", query: bool = False
) -> Iterator[str]:
    """What is wrong with ``url`` as the address at ``path``."""
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        yield f"{path} is not a valid address."
        return
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_fine:
        yield f'{path} takes an http(s) address, like "{example}".'
    elif parts.username or parts.password:
        yield f"{path} holds a user or password: name a secret with api_key_env instead."
    elif (parts.query and not query) or parts.fragment:
        yield f"{path} ends at its path; leave out what follows ? or #."


def private_address(url: str, path: str) -> Iterator[str]:
    """Secrets and money go there: TLS, unless it is this very machine."""
    wrong = list(address(url, path, query=True))
    yield from wrong
    if not wrong and urlsplit(url).scheme == "http" and not _loopback(urlsplit(url).hostname):
        yield f"{path} must be an https address; http is for this machine alone."


def _loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False
