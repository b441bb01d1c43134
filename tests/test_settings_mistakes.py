"""Every mistake in a configuration has its sentence, and no sentence repeats a value."""

import re

import pytest

from moongate.core.errors import ConfigurationError
from moongate.settings import load
from settings_kit import KEY, MODEL, UP, complaint

BAD = [
    ("[server]\nprot = 1", 'server.prot is not a setting; did you mean "port"?'),
    ("[sever]\nport = 1", 'sever is not a setting; did you mean "server"?'),
    (
        "[server]\nzzz = 1",
        (
            "server.zzz is not a setting; known here: host, port, workers, body_bytes_max, "
            "bodies_bytes_max, "
            "drain_s, hosts, public_url, metrics."
        ),
    ),
    (
        '[server]\nport = "8000"',
        "server.port takes a whole number from 0 to 65535; given was text.",
    ),
    (
        "[server]\nport = true",
        "server.port takes a whole number from 0 to 65535; given was true or false.",
    ),
    (
        "[server]\nport = 70000",
        "server.port takes a whole number from 0 to 65535; given was a number outside it.",
    ),
    ("[server]\ndrain_s = nan", "server.drain_s takes a number from 0 to 3600;"),
    (
        "[server]\nhost = 127",
        "server.host takes text in quotes; given was a whole number; put it in quotes.",
    ),
    ('[server]\nhosts = "a"', "server.hosts takes a list of texts in quotes; given was text."),
    ("[server]\nhosts = [1]", "server.hosts[0] takes text in quotes; given was a whole number"),
    (
        '[server]\nmetrics = "keys"',
        (
            'server.metrics takes one of "key", "loopback", "off"; given was another word; '
            'did you mean "key"?'
        ),
    ),
    ("server = 3", "server takes a table; given was a whole number."),
    ("[media]\nfetch = 1", "media.fetch takes true or false; given was a whole number."),
    ("upstreams = 3", "upstreams takes a list of tables; given was a whole number."),
    ("models = [3]", "models[0] takes a table; given was a whole number."),
    (
        '[server]\nworkers = 2\n[store]\nurl = "sqlite:///x.db"',
        "server.workers above 1 needs a PostgreSQL store",
    ),
    ('[store]\nurl = "mysql://x"', 'store.url takes "sqlite:///FILE"'),
    ('[rates]\nredis_url = "http://x"', "rates.redis_url takes an address like"),
    (
        UP.replace('"openai"', '"opnai"'),
        (
            'upstreams[0].kind takes one of "embedded", "moonshot", "openai", "sglang", "vllm"; '
            'given was another word; did you mean "openai"?'
        ),
    ),
    (
        UP + 'api_key = "sk-1"',
        (
            "upstreams[0].api_key is not a setting: no secret stands in this file; "
            'name a variable with "api_key_env".'
        ),
    ),
    (UP.replace('"u"', '"a b"'), "upstreams[0].name takes letters, digits, _, . and -"),
    (
        UP + 'forward = ["seed", "cache_salt"]',
        "upstreams[0].forward[1] is a field that Moongate writes itself; leave it out.",
    ),
    (UP + 'forward = ["a b"]', "upstreams[0].forward[0] takes a field's name: letters, digits"),
    (
        (
            '[[upstreams]]\nname = "u"\nkind = "embedded"\ndata_policy = "self-hosted"\n'
            'forward = ["seed"]'
        ),
        "upstreams[0] is the embedded engine: it takes no forward list.",
    ),
    (UP + UP, "upstreams[1].name is used twice; every upstream needs a name of its own."),
    (UP + KEY + KEY, "upstreams[0].credentials[1].name is used twice; every credential needs"),
    (UP + KEY.replace('"k"', '"a/b"'), "upstreams[0].credentials[0].name takes letters, digits"),
    (
        UP + KEY + 'api_key_file = "f"',
        "upstreams[0].credentials[0] takes one of api_key_env and api_key_file.",
    ),
    (
        UP + 'api_key_env = "K"\n' + KEY,
        "upstreams[0] names an API key of its own beside its credentials; move it into one.",
    ),
    (
        '[[upstreams]]\nname = "u"\nkind = "embedded"\n' + KEY,
        "upstreams[0] is the embedded engine: it takes no credentials.",
    ),
    (
        UP + KEY.replace("api_key_env", "api_key"),
        "upstreams[0].credentials[0].api_key is not a setting: no secret stands in this file;",
    ),
    (
        UP + MODEL.replace('model = "x"', 'model = "x", cost = "cheap"'),
        "models[0].targets[0].cost takes USD per million tokens in quotes, like",
    ),
    (
        UP + MODEL.replace('model = "x"', 'model = "x", weight = 0'),
        "models[0].targets[0].weight takes a whole number from 1 to 1000",
    ),
    (
        UP + MODEL + 'order = "random"',
        'models[0].order takes one of "cost", "latency", "listed", "weighted"',
    ),
    (UP.replace("http:", "ftp:"), "upstreams[0].base_url takes an http(s) address"),
    (UP.replace("127.0.0.1:9", "me:pw@h"), "upstreams[0].base_url holds a user or password"),
    (UP.replace("/v1", "/v1?x=1"), "upstreams[0].base_url ends at its path"),
    (UP.replace("127.0.0.1:9", "h:99999"), "upstreams[0].base_url is not a valid address."),
    (
        '[[upstreams]]\nname = "u"\nkind = "vllm"',
        "upstreams[0].base_url takes an http(s) address",
    ),
    (UP + "shared_cache = true", "upstreams[0].shared_cache is for the kinds vllm and sglang"),
    (
        UP.replace("openai", "embedded"),
        "upstreams[0] is the embedded engine: it takes no base_url and no API key.",
    ),
    (
        '[[upstreams]]\nname = "u"\nkind = "embedded"\ndata_policy = "none"',
        'upstreams[0].data_policy can only be "self-hosted"',
    ),
    (
        UP.replace("openai", "moonshot") + 'data_policy = "self-hosted"',
        'upstreams[0].data_policy cannot be "self-hosted"',
    ),
    (
        UP + 'data_policy = "contract"',
        'upstreams[0].data_policy is "contract", but there is no [upstreams.agreement] below it',
    ),
    (
        UP + '[upstreams.agreement]\ntitle = "T"\neffective = "2026-02-10"\nstatements = ["s"]',
        'upstreams[0].agreement is given, but data_policy is not "contract"',
    ),
    (
        UP + 'data_policy = "contract"\n[upstreams.agreement]\ntitle = "T"\n'
        'effective = "2026-13-10"\nstatements = []',
        'upstreams[0].agreement.effective takes a day like "2026-02-10".',
    ),
    (
        UP + '[search]\ndata_policy = "contract"',
        'search.data_policy is "contract", but there is no [search.agreement] below it',
    ),
    (
        UP + '[search.agreement]\ntitle = "T"\neffective = "2026-02-10"\nstatements = ["s"]',
        'search.agreement is given, but data_policy is not "contract"',
    ),
    (
        UP + '[search]\nengine = "moonshot"\ndata_policy = "contract"',
        'search.data_policy and search.agreement have no use with engine "moonshot"',
    ),
    (
        UP + '[search]\nbase_url = "http://127.0.0.1:8080"',
        (
            'search.base_url has no use: engine "ddgs" asks public pages at their own addresses. '
            "Remove it, or name the engine that listens there: searxng, tavily or brave."
        ),
    ),
    (
        UP + '[search]\nengine = "moonshot"\nbase_url = "http://127.0.0.1:8080"',
        'search.base_url has no use: engine "moonshot" searches at the upstream that serves',
    ),
    (
        UP + 'data_policy = "contract"\n[upstreams.agreement]\neffective = 2026-02-10',
        (
            "upstreams[0].agreement.effective takes text in quotes; given was a date or time "
            "without quotes; put it in quotes."
        ),
    ),
    (
        UP + 'api_key_env = "NO"',
        "upstreams[0].api_key_env names a variable that is not set: set it, or leave the key out.",
    ),
    (UP + 'api_key_file = "no"', "upstreams[0].api_key_file cannot be read: no such file"),
    (UP + 'api_key_env = "A"\napi_key_file = "b"', "names both api_key_env and api_key_file"),
    (UP + 'api_key_env = "TWO"', "upstreams[0].api_key_env leads to something that is no key"),
    (
        UP + MODEL.replace('upstream = "u"', 'upstream = "v1"'),
        "models[0].targets[0].upstream names no upstream of this configuration; there is u.",
    ),
    (UP + MODEL.replace('[{ upstream = "u", model = "x" }]', "[]"), "models[0].targets is empty"),
    (UP + MODEL.replace('cached = "0.5", ', ""), "models[0].price.cached is missing"),
    (
        UP + MODEL.replace("price = ", "#"),
        "models[0].price is missing: a table (what it costs; seeds its first price row).",
    ),
    (UP + MODEL.replace('"0.5"', '"0.0001"'), "models[0].price.cached: a price per million tokens"),
    (UP + MODEL.replace('"0.5"', '"-1"'), "models[0].price.cached: a price cannot be negative."),
    (UP + MODEL.replace('"0.5"', '"cheap"'), "models[0].price.cached is not an amount in dollars"),
    (
        UP + MODEL.replace('"0.5"', "0.5"),
        "models[0].price.cached takes text in quotes; given was a number with a point",
    ),
    (UP + MODEL.replace('["json"]', '["search"]'), "models[0].price.search is missing"),
    (UP + MODEL.replace('"2" }', '"2", search = "x" }'), "models[0].price.search takes USD per"),
    (UP + MODEL + 'list_price = { inputs = "1" }', "models[0].list_price.inputs is not a setting"),
    (UP + MODEL + 'list_price = { input = "x" }', "models[0].list_price.input takes USD per"),
    (UP + MODEL.replace('"json"', '"jsn"'), 'given was another word; did you mean "json"?'),
    (UP + MODEL.replace('"m"', '"a b"'), "models[0].id takes letters"),
    (UP + MODEL.replace("= 100", "= 9000"), "models[0].output_tokens_default is larger than"),
    (UP + MODEL + MODEL, "models[1].id holds a name that models[0].id has already."),
    (
        UP + MODEL + MODEL.replace('"m"', '"n"\naliases = ["m"]'),
        "models[1].aliases holds a name that models[0].id has already.",
    ),
    (UP + MODEL + 'aliases = ["ä"]', "models[0].aliases takes letters"),
    (
        '[privacy]\nrequire = "contract"\n' + UP + MODEL,
        'privacy.require is "contract", and no target of models[0] has a data policy that good',
    ),
    ('[server]\npublic_url = "api.example"', "server.public_url takes an http(s) address"),
    ('[server]\npublic_url = "https://x/v1"', "server.public_url ends at its host"),
    ('[topups]\nstripe_secret = "whsec"', 'name a variable with "stripe_secret_env"'),
    ('[topups]\nstripe_api_key = "sk"', 'name a variable with "stripe_api_key_env"'),
    (
        '[topups]\nstripe_secret_env = "NONE"',
        "topups.stripe_secret_env names a variable that is not set",
    ),
    (
        '[topups]\nstripe_api_key_env = "A"\nsuccess_url = "https://x"',
        "topups.stripe_secret_env is missing: buyers could pay, and nothing would credit them.",
    ),
    (
        '[topups]\nstripe_api_key_env = "A"\nstripe_secret_env = "A"',
        "topups.success_url is missing",
    ),
    ('[topups]\nsuccess_url = "ftp://x"', "topups.success_url takes an http(s) address"),
    ('[topups]\nusd_min = "0"', 'topups.usd_min takes dollars above zero in quotes, like "5.00".'),
    ('[topups]\nusd_max = "lots"', "topups.usd_max takes dollars above zero"),
    ('[topups]\nusd_min = "9"\nusd_max = "8"', "topups.usd_min is larger than topups.usd_max."),
    (
        '[topups]\nstripe_base_url = "http://api.example"',
        "topups.stripe_base_url must be an https address; http is for this machine alone.",
    ),
    ('[alerts]\nlow_balance_usd = "-1"', "alerts.low_balance_usd takes dollars above zero"),
    ('[alerts]\nwebhook_url = "https://x"', "alerts.webhook_secret_env is missing"),
    (
        '[alerts]\nwebhook_url = "http://10.0.0.1/x"\nwebhook_secret_env = "A"',
        "alerts.webhook_url must be an https address",
    ),
    (
        '[alerts]\nwebhook_url = "https://u:p@x"\nwebhook_secret_env = "A"',
        "alerts.webhook_url holds a user or password",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), BAD, ids=[sentence[:60] for _, sentence in BAD])
def test_every_mistake_has_its_sentence(tmp_path, text, sentence):
    told = complaint(tmp_path, text, {"A": "x", "TWO": "two words"})
    assert told.startswith(f"The configuration ({tmp_path}/moongate.toml) cannot be used:\n  - ")
    assert sentence in told
    assert all(re.fullmatch(r"  - [a-z].*[.?]", line) for line in told.splitlines()[1:]), told


def test_all_mistakes_are_told_at_once(tmp_path):
    told = complaint(tmp_path, "[server]\nprot = 1\nport = -1\n[lager]\n")
    assert len(told.splitlines()) == 4


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[server", "is not valid TOML: "),
        (b"\xff", "is not UTF-8 text."),
        (None, "cannot be read: no such file or directory."),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path, content, sentence):
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        load(file, {})
    with pytest.raises(ConfigurationError, match="is a directory"):
        load(tmp_path, {})


def test_values_are_not_repeated(tmp_path):
    """A secret in the wrong place stays out of the complaint."""
    canary = "sk-canary-7f3a"
    text = f'[server]\nport = "{canary}"\nmetrics = "{canary}"\n' + UP + f'api_key = "{canary}"'
    assert canary not in complaint(tmp_path, text)
    env = {"K": f"{canary} {canary}"}
    assert canary not in complaint(tmp_path, UP + 'api_key_env = "K"', env)
