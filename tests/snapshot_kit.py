"""Snapshots of what each kind of upstream is sent: one file a feature, made and read here.

A file of ``tests/snapshots`` holds what a client ``asked`` and, kind by kind, the body that was
``sent``, or the ``refused`` code. What differs from server to server (salts and cache keys of a
tenant) stands as a word. The embedded engine's prompt is shown as text; it is sent as token ids.
``python tests/snapshot_kit.py`` writes every ``sent`` anew: look at the difference before you
commit it.
"""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from capability_kit import KINDS, Place, place_of

FOLDER: Final = Path(__file__).resolve().parent / "snapshots"
OBJECT: Final = '{"moon": "Io"}'
TENANTS: Final = ("cache_salt", "prompt_cache_key")


def features() -> list[str]:
    """The names of the files."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict[str, Any]:
    """One file."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


async def taken(place: Place, fields: dict[str, Any]) -> dict[str, Any]:
    """What the upstream of ``place`` is sent for ``fields``, or the code of the refusal."""
    fields = dict(fields)
    told = [] if place.http else listen(place)
    got = await place.whole(script_for(fields), key=fields.pop("policy", "standard"), **fields)
    if got.status != 200:
        assert got.status == 400, got.body
        return {"refused": got.error["code"]}
    if told:
        body = dict(told[-1])
        del body["id_slot"]  # whichever is free
        return body | {"prompt": await text_of(place, body["prompt"])}
    assert got.sent
    for name in TENANTS:
        if name in got.sent:
            assert got.sent[name] != fields.get(name), "a tenant's own word went out"
            got.sent[name] = "(of the tenant)"
    return got.sent


def script_for(fields: dict[str, Any]) -> str:
    """An answer as it is asked for, from where the last message leaves off, or a call."""
    choice = fields.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        name = (fields["tools"][0] if choice == "required" else choice)["function"]["name"]
        return f'tool {name} {{"at": "Io"}}\nfinish tool_calls'
    if fields.get("response_format", {"type": "text"})["type"] == "text":
        return "text Io.\nfinish stop"
    last = fields.get("messages", [{}])[-1]
    begun = last["content"] if last.get("partial") else ""
    return f"text {json.dumps(OBJECT[len(begun) :])}\nfinish stop"


def listen(place: Place) -> list[dict[str, Any]]:
    """The bodies that the engine is sent from now on."""
    client = place.served.app.upstreams["embedded"]._client
    told: list[dict[str, Any]] = []

    def completion(body: dict[str, Any]) -> Any:
        told.append(body)
        return type(client).completion(client, body)

    client.completion = completion
    return told


async def text_of(place: Place, tokens: tuple[int, ...]) -> str:
    """A prompt's tokens as text."""
    client = place.served.app.upstreams["embedded"]._client
    return json.loads(await client._call("/detokenize", {"tokens": tokens}))["content"]


async def write() -> None:
    """Take every snapshot anew."""
    sent: dict[str, dict[str, Any]] = {name: {} for name in features()}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            async with place_of(kind, Path(folder)) as place:
                for name, found in sent.items():
                    found[kind] = await taken(place, read(name)["asked"])
    for name, found in sent.items():
        text = json.dumps({"asked": read(name)["asked"], "sent": found}, indent=2)
        (FOLDER / f"{name}.json").write_text(f"{text}\n", "utf-8")


if __name__ == "__main__":
    asyncio.run(write())
