"""Rows of the capability matrix: what a request may hold."""

import json
from typing import Any

import aiohttp

import picture_kit
from capability_kit import Place, feature
from media_kit import site

AREA = "Request"
OK = "text Io, Europa.\nfinish stop"
OFF = {"type": "disabled"}


PNG = picture_kit.url(picture_kit.png(28, 28))


def user(content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content, **more}]


@feature(AREA, "`system` and `developer` messages")
async def system_and_developer(place: Place) -> None:
    for role in ("system", "developer"):
        messages = [{"role": role, "content": "Be brief."}, *user("Moons?")]
        got = await place.both(OK, messages=messages)
        assert got.status == 200
        if place.http:
            assert got.sent["messages"][0] == {"role": "system", "content": "Be brief."}


@feature(AREA, "`name` on a message")
async def names_of_speakers(place: Place) -> None:
    got = await place.both(OK, messages=user("Moons?", name="Ada"))
    assert got.status == 200
    if place.http:
        assert got.sent["messages"][0]["name"] == "Ada"


@feature(AREA, "Content as text parts; an empty text part is 400")
async def text_parts(place: Place) -> None:
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "three moons."}]
    got = await place.both(OK, messages=user(parts))
    if place.http:
        assert got.sent["messages"][0]["content"] == parts
    empty = user([{"type": "text", "text": ""}])
    got = await place.refuses("invalid_value", messages=empty)
    assert "text content is empty" in got.error["message"]


PICTURE = user(
    [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PNG}}]
)


@feature(
    AREA,
    "Pictures as bytes (`data:`), as an object or a plain string",
    refused={"embedded": "blind"},
    body={"messages": PICTURE},
)
async def pictures_as_bytes(place: Place) -> None:
    bare = user([{"type": "image_url", "image_url": PNG}])
    for messages in (PICTURE, bare):
        got = await place.both(OK, messages=messages)
        assert got.sent["messages"][0]["content"][-1]["image_url"]["url"].startswith("data:image/")
    got = await place.refuses("unsupported_ability", model="text-only", messages=PICTURE)
    assert "images" in got.error["message"]


LINK = user([{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}])


@feature(
    AREA,
    "Pictures by address (`https:`), fetched by the server and sent as bytes",
    refused={"embedded": "blind"},
    body={"messages": LINK},
)
async def pictures_by_address(place: Place) -> None:
    def at(url: str) -> list[dict[str, Any]]:
        return user([{"type": "image_url", "image_url": {"url": url}}])

    async with site() as there:
        there.pages["/a.png"] = picture_kit.png(40, 28)
        place.served.app.gateway.eyes.fetcher = there.fetcher()
        got = await place.both(OK, messages=at(there.url("/a.png")))
        sent = got.sent["messages"][0]["content"][0]["image_url"]["url"]
        assert sent == picture_kit.url(picture_kit.png(40, 28))
        assert len(there.seen) == 1, "an agent's next turn fetches nothing again"
        await place.refuses("image_fetch_failed", messages=at(there.url("/gone.png")))
        inside = f"http://127.0.0.2:{there.port}/a.png"
        got = await place.refuses("image_url_not_allowed", messages=at(inside))
        assert got.error["param"] == "messages[0].content[0].image_url"
        await place.refuses("unsupported_ability", model="text-only", messages=LINK)


CLIP = picture_kit.url(picture_kit.mp4(pad=0), "video/mp4")
FILM = user([{"type": "video_url", "video_url": {"url": CLIP}}])


@feature(
    AREA,
    "Videos as bytes, where the model's `abilities` name video; else 400",
    refused={"embedded": "blind"},
    body={"messages": FILM},
)
async def videos_as_bytes(place: Place) -> None:
    got = await place.both(OK, messages=FILM)
    assert got.sent["messages"][0]["content"][0] == {
        "type": "video_url",
        "video_url": {"url": CLIP},
    }
    await place.refuses("unsupported_ability", model="text-only", messages=FILM)


UPLOAD = user([{"type": "image_url", "image_url": {"url": "ms://file-1"}}])


@feature(
    AREA,
    "Uploaded files (`ms://`)",
    refused={"embedded": "blind"},
    body={"messages": UPLOAD},
)
async def uploads(place: Place) -> None:
    await place.refuses("file_not_found", messages=UPLOAD)
    form = aiohttp.FormData({"purpose": "image"})
    form.add_field("file", picture_kit.png(28, 28), filename="moon.png")
    served = place.served
    head = {"authorization": f"Bearer {place.keys['standard']}"}
    async with served.http.post(f"{served.url}/files", data=form, headers=head) as reply:
        file = await reply.json()
    shown = {"type": "image_url", "image_url": {"url": f"ms://{file['id']}"}}
    got = await place.both(OK, messages=user([shown]))
    assert got.sent["messages"][0]["content"][0] == {
        "type": "image_url",
        "image_url": {"url": PNG},
    }


@feature(AREA, "`max_completion_tokens`, and its older name; the newer one wins")
async def output_caps(place: Place) -> None:
    for fields, cap in (
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 8}, 8),
        ({"max_tokens": 8, "max_completion_tokens": 7}, 7),
    ):
        got = await place.whole(OK, **fields)
        assert got.usage["completion_tokens"] <= cap
        if place.http:
            names = {"max_tokens", "max_completion_tokens"} & set(got.sent)
            named = "max_tokens" if place.kind == "openai" else "max_completion_tokens"
            assert names == {named}
            assert got.sent[named] == cap
    for wrong in (0, -1, 1.5, "9", 10**30):
        got = await place.whole(OK, max_completion_tokens=wrong)
        assert (got.status, got.error["param"]) == (400, "max_completion_tokens")


@feature(AREA, "A cap above the room left is lowered and named in `x-moongate-clamped`")
async def cap_is_lowered(place: Place) -> None:
    text = "text Io.\nfinish stop"
    if place.http:
        got = await place.whole(text, max_completion_tokens=900_000)
        assert got.status == 200
        assert got.headers["x-moongate-clamped"] == "max_completion_tokens"
        assert 1 < got.sent.get("max_completion_tokens", got.sent.get("max_tokens")) <= 262_144
        return
    got = await place.whole(text, max_tokens=262_144, stop=["."], messages=user("Say: Hi."))
    assert got.status == 200
    assert got.headers["x-moongate-clamped"] == "max_completion_tokens"


@feature(AREA, "A prompt that leaves no room is 400 in Moonshot's words")
async def no_room(place: Place) -> None:
    said = "error 400 invalid_request_error Your request exceeded model token limit : 262144"
    got = await place.whole(said, messages=user("moon " * 12_000))
    assert (got.status, got.error["code"]) == (400, "context_length_exceeded")
    assert "exceeded model token limit" in got.error["message"]


@feature(AREA, "`stop`: five strings of 32 bytes; the matched text is not returned")
async def stops(place: Place) -> None:
    got = await place.both("text Io,\nfinish stop", stop=["END", "e"])
    if place.http:
        assert got.sent["stop"] == ["END", "e"]
    else:
        assert "e" not in got.text
    got = await place.whole("text Io,\nfinish stop", stop="END")
    assert got.status == 200
    for wrong in (["x"] * 6, ["x" * 33], [""], [1]):
        got = await place.whole("text no", stop=wrong)
        assert (got.status, got.error["param"]) == (400, "stop")


@feature(AREA, "Thinking on: the default, or `enabled`; reasoning comes first")
async def thinking_on(place: Place) -> None:
    script = "think Moons.\nthink  Three.\ntext Io\ntext , Europa\nfinish stop"
    for more in ({}, {"thinking": {"type": "enabled"}}):
        got = await place.both(script, **more)
        assert isinstance(got.message["reasoning_content"], str)
        if place.http:
            assert (got.message["reasoning_content"], got.text) == ("Moons. Three.", "Io, Europa")
        switch = {name: got.sent.get(name) for name in ("thinking", "chat_template_kwargs")}
        if place.kind in ("vllm", "sglang"):
            assert switch == {"thinking": None, "chat_template_kwargs": {"thinking": True}}
            assert (got.sent["temperature"], got.sent["top_p"]) == (1.0, 0.95)
        elif place.kind == "moonshot":
            assert switch == {"thinking": more.get("thinking"), "chat_template_kwargs": None}
            assert "temperature" not in got.sent
    for wrong in ({}, {"type": "high"}, {"type": "enabled", "keep": "all"}, "enabled"):
        got = await place.whole("text no", thinking=wrong)
        assert got.status == 400


@feature(AREA, "Thinking off")
async def thinking_off(place: Place) -> None:
    got = await place.both("text Io.\nfinish stop", thinking=OFF)
    assert "reasoning_content" not in got.message
    if place.kind in ("vllm", "sglang"):
        assert got.sent["chat_template_kwargs"] == {"thinking": False}
        assert (got.sent["temperature"], got.sent["top_p"]) == (0.6, 0.95)
    elif place.kind == "moonshot":
        assert got.sent["thinking"] == OFF
    elif place.kind == "openai":  # it knows no switch, and the client is told
        assert got.headers["x-moongate-dropped"] == "thinking"


FIXED = {"top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}
WRONG = {
    "temperature": 0.5,
    "top_p": 0.8,
    "n": 2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
}


@feature(AREA, "Fixed sampling: the exact values are taken, in both thinking modes")
async def fixed_sampling(place: Place) -> None:
    for thinking, temperature in ("enabled", 1.0), ("disabled", 0.6):
        mode = {"thinking": {"type": thinking}}
        for policy in ("standard", "strict", "lenient"):
            got = await place.whole(OK, key=policy, temperature=temperature, **FIXED, **mode)
            assert got.status == 200, got.body
            told = "thinking" if (place.kind, thinking) == ("openai", "disabled") else None
            assert got.headers.get("x-moongate-dropped") == told


@feature(AREA, "Another value is 400 in Moonshot's words, on `standard` and `strict` keys")
async def other_sampling_is_refused(place: Place) -> None:
    for thinking, temperature in ("enabled", "1"), ("disabled", "0.6"):
        only = {"temperature": temperature, "top_p": "0.95", "n": "1"}
        for field, value in WRONG.items():
            for policy in ("standard", "strict"):
                got = await place.whole(
                    "text no", key=policy, thinking={"type": thinking}, **{field: value}
                )
                assert (got.status, got.error["param"]) == (400, field)
                said = f"invalid {field}: only {only.get(field, '0')} is allowed for this model"
                assert got.error["message"] == said
                assert got.error["type"] == "invalid_request_error"


@feature(AREA, "On `lenient` keys it is dropped and named in `x-moongate-dropped`")
async def other_sampling_is_dropped(place: Place) -> None:
    for field, value in WRONG.items():
        got = await place.whole(OK, key="lenient", **{field: value})
        assert got.status == 200, got.body
        assert got.headers["x-moongate-dropped"] == field
        assert got.sent.get(field) != value
        assert len(got.body["choices"]) == 1
    got = await place.whole(OK, key="lenient", **WRONG)
    assert set(got.headers["x-moongate-dropped"].split(",")) == set(WRONG)
    got = await place.whole("text no", key="lenient", temperature="hot")
    assert (got.status, got.error["code"]) == (400, "invalid_type")


@feature(AREA, "An unknown field is forwarded by the kind's list, else named; `strict` keys: 400")
async def unknown_fields(place: Place) -> None:
    got = await place.whole(OK, seed=7, x_mine=1, logprobs=True, metadata={"a": "b"})
    dropped = set(got.headers["x-moongate-dropped"].split(","))
    assert dropped - {"seed"} == {"x_mine", "logprobs", "metadata"}
    assert ("seed" in dropped) == (place.kind == "moonshot")
    if place.http:
        assert got.sent.get("seed") == (None if place.kind == "moonshot" else 7)
        assert not {"x_mine", "logprobs", "metadata"} & set(got.sent)
    got = await place.refuses("unknown_parameter", key="strict", x_mine=1)
    assert got.error["param"] == "x_mine"


@feature(AREA, "`safety_identifier` and `prompt_cache_key` are known to every key")
async def identifiers(place: Place) -> None:
    got = await place.whole(OK, key="strict", safety_identifier="u1", prompt_cache_key="s1")
    assert got.status == 200, got.body
    if place.kind in ("moonshot", "openai"):
        assert got.sent["safety_identifier"] == "u1"
        assert got.sent["prompt_cache_key"] not in ("s1", None)
    elif place.http:
        assert "prompt_cache_key" not in got.sent
        assert got.sent["cache_salt"]


@feature(AREA, "Fields that Moongate writes itself cannot be smuggled in")
async def owned_fields(place: Place) -> None:
    mine = {"chat_template": "{{ x }}", "cache_salt": "mine", "add_generation_prompt": False}
    mine |= {"continue_final_message": True, "functions": []}
    got = await place.whole(OK, **mine)
    assert got.status == 200
    assert set(mine) <= set(got.headers["x-moongate-dropped"].split(","))
    assert json.dumps(got.sent).find("{{ x }}") < 0
    assert not (set(mine) - {"cache_salt"}) & set(got.sent)
    assert got.sent.get("cache_salt") != "mine"
