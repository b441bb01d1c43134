"""`moongate ask` with pictures and schemas: what it sends, and what it says of what it cannot."""

import asyncio
import io
import json
import types

import pytest

from moongate.cli import run
from moongate.upstream.scripted import ScriptedServer
from picture_kit import jpeg, png, url
from serving_kit import ONE_UPSTREAM, serve

ROWS = {
    "type": "object",
    "properties": {
        "rows": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"moon": {"type": "string"}, "km": {"type": "integer"}},
                "required": ["moon", "km"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["rows"],
    "additionalProperties": False,
}
TABLE = '{"rows":[{"moon":"Io","km":3643},{"moon":"Europa","km":3122}]}'


@pytest.fixture
def say(capsys, tmp_path, monkeypatch):
    for name in ("MOONGATE_URL", "MOONGATE_API_KEY", "MOONGATE_CONFIG", "MOONGATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    async def said(*argv: str, stdin: bytes = b"") -> tuple[int, str, str]:
        text = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        monkeypatch.setattr("moongate.cli.packing.sys", types.SimpleNamespace(stdin=text))
        home = ("--home", str(tmp_path / "home"))
        code = await asyncio.to_thread(run, ["ask", *argv, *home])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return said


@pytest.fixture
async def scripted():
    async with ScriptedServer(f"text {TABLE}\nusage prompt=500 completion=30\nfinish stop") as it:
        yield it


@pytest.fixture
async def served(tmp_path, scripted):
    config = ONE_UPSTREAM.format(kind="moonshot", base_url=scripted.base_url)
    async with serve(tmp_path, config) as it:
        yield it


async def test_a_screenshot_of_a_table_becomes_rows(tmp_path, say, served, scripted):
    (tmp_path / "shot.png").write_bytes(png(640, 200))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    image, form = str(tmp_path / "shot.png"), str(tmp_path / "rows.json")
    code, out, err = await say("Give the rows.", "--image", image, "--schema", form)
    assert code == 0, err
    assert json.loads(out) == json.loads(TABLE)
    assert "500 tokens in" in err
    sent = scripted.requests[-1].body
    assert sent["messages"][-1]["content"] == [
        {"type": "image_url", "image_url": {"url": url(png(640, 200))}},
        {"type": "text", "text": "Give the rows."},
    ]
    assert sent["response_format"]["json_schema"]["schema"] == ROWS


async def test_pictures_come_from_files_stdin_and_addresses(tmp_path, say, served, scripted):
    (tmp_path / "a.txt").write_bytes(jpeg())  # what it is called tells nothing
    pictures = ["--image", str(tmp_path / "a.txt"), "--image", "-", "--image", url(png(9, 9))]
    assert (await say("What?", *pictures, "--no-stream", stdin=png()))[0] == 0
    sent = scripted.requests[-1].body["messages"][-1]["content"]
    assert [part["image_url"]["url"] for part in sent[:-1]] == [
        url(jpeg(), "image/jpeg"), url(png()), url(png(9, 9)),
    ]  # fmt: skip
    code, _, err = await say("What?", "--image", "https://127.0.0.1/a.png")
    assert (code, "This URL cannot be fetched." in err) == (1, True)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("-", "--image", "-"), "stdin is read once"),
        (("x", "--image", "no-such.png"), "No such file"),
        (("x", "--image", "{folder}/text.png"), "text.png is no PNG, JPEG, WebP or GIF picture."),
        (("x", "--image", "{folder}/large.png"), "large.png is larger than 16 MiB."),
        (("x", "--image", "-"), "stdin is no PNG"),
        (("x", "--schema", "{folder}/text.png"), "is not a JSON file."),
        (("x", "--schema", "{folder}/list.json"), "holds no JSON schema"),
        (("x", "--schema", "no-such.json"), "does not exist"),
    ],
)
async def test_what_cannot_be_sent_is_wrong_use(tmp_path, say, argv, sentence):
    (tmp_path / "text.png").write_text("a picture, honestly")
    (tmp_path / "large.png").write_bytes(png() + bytes(16 << 20))
    (tmp_path / "list.json").write_text("[]")
    code, out, err = await say(*(part.format(folder=tmp_path) for part in argv))
    assert (code, out) == (2, "")
    assert sentence in err
