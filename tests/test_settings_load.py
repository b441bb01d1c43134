"""Settings: what the default is, what a file changes, and that no secret shows."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.core.cards import Target
from moongate.core.money import Price
from moongate.settings import Secret, Settings, load
from moongate.settings.read import Reading, fields
from moongate.settings.secret import shown, without_password
from moongate.settings.tables import Alerts
from settings_kit import KEY, MODEL, UP, complaint, read


def test_without_a_file_the_engine_answers():
    settings = load(None, {})
    assert [(up.name, up.kind, up.data_policy) for up in settings.upstreams] == [
        ("embedded", "embedded", "self-hosted")
    ]
    (card,) = settings.cards()
    assert (card.id, card.window, card.output_tokens_default) == ("kimi-k2.5", 262_144, 32_768)
    assert card.aliases == ("moonshotai/Kimi-K2.5",)
    assert card.created_s == 1_769_472_000  # 2026-01-27
    assert card.architecture["parameters_total"] == "1T"
    assert card.architecture["parameters_active"].startswith("32B")
    assert card.sampling is not None
    assert (card.sampling.temperature_thinking, card.sampling.temperature_instant) == (1.0, 0.6)
    assert card.targets == (Target("embedded", "kimi-k2.5"),)
    assert settings.prices() == {"kimi-k2.5": Price(480, 100, 2_000, 5_000_000)}


def test_a_moonshot_key_in_the_environment_chooses_moonshot_and_claims_no_policy():
    settings = load(None, {"MOONSHOT_API_KEY": "sk-1"})
    (up,) = settings.upstreams
    assert (up.kind, up.data_policy, up.base_url) == (
        "moonshot",
        "none",
        "https://api.moonshot.ai/v1",
    )
    assert up.api_key is not None
    assert up.api_key.reveal() == "sk-1"
    assert load(None, {"MOONSHOT_API_KEY": ""}).upstreams[0].kind == "embedded"


WHOLE = """
[server]
host = "0.0.0.0"
port = 9000
workers = 2
body_bytes_max = 2048
drain_s = 5
hosts = ["api.example.org"]
metrics = "off"
[store]
url = "postgresql://me:pw@db/moongate"
[rates]
redis_url = "redis://host:6379/0"
[[upstreams]]
name = "moonshot"
kind = "moonshot"
base_url = "https://api.moonshot.ai/v1/"
api_key_env = "K"
data_policy = "contract"
region = "global"
concurrency_max = 3
first_token_timeout_s = 2.5
idle_timeout_s = 1
[upstreams.agreement]
title = "T"
effective = "2026-02-10"
statements = ["s"]
document = "ask us"
[[models]]
id = "kimi-k2.5"
tokenizer = "tok/tiktoken.model"
targets = [{ upstream = "moonshot", model = "kimi-k2.5" }]
[search]
engine = "tavily"
base_url = "https://x"
api_key_env = "K"
data_policy = "contract"
[search.agreement]
title = "S"
effective = "2026-03-01"
statements = ["queries are not retained"]
[privacy]
require = "contract"
[operator]
name = "O"
contact = "c"
url = "u"
[embedded]
model = "m.gguf"
projector = "p.gguf"
slots = 2
[media]
fetch = false
[ledger]
hold_first = 1
hold_step = 2
hold_low = 1
crash_settlement = "checkpoint"
[topups]
stripe_secret_env = "K"
stripe_api_key_env = "K"
success_url = "https://shop.example/paid?s={CHECKOUT_SESSION_ID}"
cancel_url = "https://shop.example/"
usd_min = "10"
usd_max = "99.99"
stripe_base_url = "http://127.0.0.1:12111"
[alerts]
webhook_url = "https://ops.example/hook?team=1"
webhook_secret_env = "K"
low_balance_usd = "2.50"
"""


def test_the_example_of_every_table_is_read(tmp_path):
    settings = read(
        tmp_path,
        WHOLE,
        {"K": " sk-secret\n"},
    )
    (up,) = settings.upstreams
    assert up.base_url == "https://api.moonshot.ai/v1"
    assert up.api_key is not None
    assert up.api_key.reveal() == "sk-secret"
    assert up.agreement is not None
    assert up.agreement.effective == "2026-02-10"
    assert settings.search.agreement is not None
    assert settings.search.agreement.title == "S"
    assert settings.embedded.model == str(tmp_path / "m.gguf")
    assert settings.models[0].tokenizer == str(tmp_path / "tok/tiktoken.model")
    assert settings.models[0].window == 262_144
    assert settings.store.file(tmp_path) is None
    for secret in (
        settings.topups.stripe_secret,
        settings.topups.stripe_api_key,
        settings.alerts.webhook_secret,
    ):
        assert secret is not None
        assert secret.reveal() == "sk-secret"
    for text in (repr(settings), str(settings.effective())):
        assert "sk-secret" not in text
        assert "pw" not in text
        assert "<secret>" in text


def test_secrets_from_a_file_and_left_alone_when_not_wanted(tmp_path):
    (tmp_path / "key").write_text("sk-file\n")
    up = read(tmp_path, UP + 'api_key_file = "key"').upstreams[0]
    assert up.api_key is not None
    assert up.api_key.reveal() == "sk-file"
    assert read(tmp_path, UP + 'api_key_env = "NO"', secrets=False).upstreams[0].api_key is None
    (tmp_path / "key").write_text("\n")
    assert "is an empty file." in complaint(tmp_path, UP + 'api_key_file = "key"')


def test_several_credentials_are_places_of_one_upstream(tmp_path):
    (tmp_path / "key").write_text("sk-file\n")
    text = (
        UP
        + KEY.replace('api_key_env = "K"', 'api_key_file = "key"\nconcurrency_max = 3')
        + KEY.replace('"k"', '"l"')
        + MODEL.replace('model = "x"', 'model = "x", weight = 2, cost = "0.30"')
    )
    settings = read(tmp_path, text, {"K": "sk-env"})
    up = settings.upstreams[0]
    secrets = {place: one.api_key for place, one in up.places().items()}
    assert {place: key and key.reveal() for place, key in secrets.items()} == {
        "u/k": "sk-file",
        "u/l": "sk-env",
    }
    assert [up.room(one) for one in up.credentials] == [3, 64]
    assert settings.cards()[0].targets == (
        Target("u/k", "x", weight=2, cost=300),
        Target("u/l", "x", weight=2, cost=300),
    )
    assert {target.name for target in settings.cards()[0].targets} == {"u"}
    assert "sk-" not in repr(settings) + str(settings.effective())
    assert list(read(tmp_path, UP).upstreams[0].places()) == ["u"]
    assert "names a variable that is not set" in complaint(tmp_path, UP + KEY)


def test_a_secret_does_not_slip_out():
    secret = Secret("sk-x")
    assert f"{secret} {secret!r} {[secret]}" == "<secret> <secret> [<secret>]"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert without_password("redis://u:p@h/0") == "redis://u:<secret>@h/0"
    assert without_password("redis://h:6379/0") == "redis://h:6379/0"
    assert without_password("postgresql://u:p@q@h/d") == "postgresql://u:<secret>@h/d"
    assert without_password("postgresql://u@h/d?sslmode=require&password=p&host=h") == (
        "postgresql://u@h/d?sslmode=require&password=<secret>&host=h"
    )
    alerts = Alerts(webhook_url="https://hooks.example.org/services/T1/s3cret?thread=s3cret")
    assert shown(alerts)["webhook_url"] == "https://hooks.example.org/<secret>"
    assert shown(Alerts(webhook_url="http://127.0.0.1:9"))["webhook_url"] == "http://127.0.0.1:9"


def test_a_known_model_lends_what_is_left_out_and_an_unknown_one_does_not(tmp_path):
    settings = read(tmp_path, UP + '[[models]]\nid = "kimi-k2.5"\nwindow = 65536\n' + MODEL)
    known, other = settings.cards()
    assert (known.window, known.targets) == (65_536, (Target("u", "kimi-k2.5"),))
    assert known.sampling is not None
    assert (other.sampling, other.owned_by, other.architecture) == (None, "operator", {})
    assert settings.prices()["m"] == Price(1_000, 500, 2_000, 0)


def test_a_required_policy_takes_weaker_targets_away(tmp_path):
    both = UP + UP.replace('"u"', '"gpu"') + 'data_policy = "self-hosted"\n'
    settings = read(tmp_path, '[privacy]\nrequire = "contract"\n' + both)
    assert settings.cards()[0].targets == (Target("gpu", "kimi-k2.5"),)
    assert len(read(tmp_path, both).cards()[0].targets) == 2


def test_a_small_window_caps_the_answers_default(tmp_path):
    file = tmp_path / "c.toml"
    for window, cap in ((8_192, 8_192), (100_000, 32_768)):
        file.write_text(f'[[models]]\nid = "kimi-k2.5"\nwindow = {window}\n')
        assert load(file, {}).models[0].output_tokens_default == cap


def test_what_a_server_tells_is_read_back(tmp_path):
    settings = load(None, {"MOONSHOT_API_KEY": "sk-canary"})
    told = Settings.told(json.loads(json.dumps(settings.effective())), "there")
    assert told.effective() == settings.effective()
    assert (told.origin, told.prices()) == ("there", settings.prices())


def test_the_command_line_goes_over_the_file():
    server = load(None, {}).with_server(port=9, host="::1").server
    assert (server.host, server.port, server.workers) == ("::1", 9, 1)


def test_a_relative_store_lies_in_the_home_folder(tmp_path):
    assert load(None, {}).store.file(tmp_path) == tmp_path / "moongate.db"
    absolute = read(tmp_path, '[store]\nurl = "sqlite:////srv/x.db"').store
    assert absolute.file(tmp_path) == Path("/srv/x.db")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*fields(Settings), "x"])


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_no_shape_of_data_breaks_the_reading(data):
    reading = Reading()
    built = reading.table(Settings, data, "")
    assert (built is None) == bool(reading.mistakes)
