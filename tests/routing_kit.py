"""A gateway before several scripted upstreams that can be broken and mended one by one."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from moongate.core.ports import Clock
from moongate.upstream.scripted import ScriptedServer
from serving_kit import Served, serve

WORDS = ("Io", "Europa", "Ganymede", "Callisto", "Titan", "Rhea", "Triton", "Charon")


@dataclass
class Pool:
    """Upstreams by name. ``scripts`` says what each answers from now on."""

    served: Served
    servers: dict[str, ScriptedServer]
    scripts: dict[str, str] = field(default_factory=dict)

    async def say(
        self, *texts: str, system: str = "Be brief.", key: str | None = None, **headers: str
    ) -> str:
        """Who answers a conversation of these turns; the request must succeed."""
        head = {"authorization": f"Bearer {key}"} if key else {}
        named = {name.replace("_", "-"): said for name, said in headers.items()}
        reply = await self.served.post(conversation(*texts, system=system), **head, **named)
        assert reply.status == 200, await reply.text()
        return str(reply.headers["x-moongate-upstream"])

    def asked(self, name: str) -> int:
        """How many answers were asked of an upstream so far."""
        return sum(one.method == "POST" for one in self.servers[name].requests)

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric by their labels' values."""
        text = self.served.app.metrics.text().decode()
        found = {}
        for line in text.splitlines():
            if line.startswith(f"{name}{{"):
                labels, _, value = line.removeprefix(name).rpartition(" ")
                found[labels] = float(value)
        return found


def conversation(*texts: str, system: str = "Be brief.", **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "user" if at % 2 == 0 else "assistant", "content": text}
        for at, text in enumerate(texts)
    ]
    return {
        "model": "kimi-k2.5", "messages": [{"role": "system", "content": system}, *turns], **more
    }  # fmt: skip


def config(
    addresses: Mapping[str, str],
    order: str,
    upstream: str,
    more: Mapping[str, str | int],
    rest: str,
    policies: Mapping[str, str],
) -> str:
    tables = "".join(
        f'[[upstreams]]\nname = "{name}"\nkind = "vllm"\nbase_url = "{address}"\n'
        "cache_probe = false\n"
        f'data_policy = "{policies.get(name, "self-hosted")}"\n{upstream.replace("NAME", name)}\n'
        for name, address in addresses.items()
    )
    said = {
        name: f", {'cost' if isinstance(told, str) else 'weight'} = {json.dumps(told)}"
        for name, told in more.items()
    }
    targets = ", ".join(
        f'{{ upstream = "{name}", model = "k"{said.get(name, "")} }}' for name in addresses
    )
    return (
        f'[server]\nport = 0\n{rest}\n{tables}[[models]]\nid = "kimi-k2.5"\norder = "{order}"\n'
        f'targets = [{targets}]\nprice = {{ input = "0.48", cached = "0.10", output = "2.00", '
        'search = "0.005" }\n'
    )


@contextlib.asynccontextmanager
async def pool(
    tmp_path: Path,
    *names: str,
    order: str = "weighted",
    upstream: str = "",
    targets: Mapping[str, str | int] = MappingProxyType({}),
    rest: str = "",
    policies: Mapping[str, str] = MappingProxyType({}),
    clock: Clock | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Pool]:
    """Start one scripted upstream for each of ``names``, and a gateway before them.

    ``upstream`` and ``rest`` are more TOML for each upstream and for the file; ``targets`` are
    costs (texts) or weights (numbers).
    """
    scripts: dict[str, str] = {}
    async with contextlib.AsyncExitStack() as stack:
        servers = {}
        for name in names:
            script = ScriptedServer(
                lambda _, name=name: scripts.get(name, "text Io."), rules=False, models=("k",)
            )
            servers[name] = await stack.enter_async_context(script)
        addresses = {name: server.base_url for name, server in servers.items()}
        text = config(addresses, order, upstream, targets, rest, policies)
        served = await stack.enter_async_context(serve(tmp_path, text, clock=clock, env=env))
        yield Pool(served, servers, scripts)
