"""Settings from a TOML file and the environment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from gce_backend.base.errors import SettingsError
from gce_backend.daemon.local import local_settings, settings_file
from gce_backend.loops import JOBS
from gce_backend.settings.settings import (
    JOB_NAMES,
    HttpSettings,
    JobSettings,
    Secret,
    Settings,
    StoreSettings,
    WebhookSettings,
    is_loopback,
    load,
)

EXAMPLE = Path(__file__).parents[3] / "config" / "settings.toml"

CANARY = "canary-0123456789"


def problems(text: str | None, environ: dict[str, str], directory: Path) -> list[str]:
    """The lines of the error that these settings give, without the directory's path."""
    path = None
    if text is not None:
        path = directory / "s.toml"
        path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(path, environ)
    return str(caught.value).replace(f"{directory}/", "").splitlines()


def test_nothing_given_is_the_defaults() -> None:
    """No file and a foreign environment give the documented defaults."""
    assert load(None, {"PATH": "/bin", "GCE_BACKENDS": "x"}) == Settings()


def test_the_example_holds_exactly_the_defaults() -> None:
    """config/settings.toml may be copied without changing anything."""
    assert load(EXAMPLE, {}) == Settings()


def test_the_example_shows_every_key() -> None:
    """Each key is in its section of the example, behind a "#" when it has no default."""
    shown = tomllib.loads(re.sub(r"(?m)^# (\[|\w+ = )", r"\1", EXAMPLE.read_text()))

    settings = msgspec.structs.asdict(Settings())
    settings["jobs"] = {"fetch-instances": JobSettings()}
    settings["webhooks"] = {"json": WebhookSettings()}
    assert shown.keys() == settings.keys()
    assert shown["jobs"].keys() == settings["jobs"].keys()
    assert shown["jobs"]["fetch-instances"].keys() == set(JobSettings.__struct_fields__)
    assert shown["webhooks"]["json"].keys() == set(WebhookSettings.__struct_fields__)
    for name, value in settings.items():
        if isinstance(value, msgspec.Struct):
            assert shown[name].keys() == set(value.__struct_fields__)


def test_every_job_of_the_spec_is_named_in_the_example() -> None:
    """The example lists the names that may be used."""
    assert [job.name for job in JOBS] == list(JOB_NAMES)
    text = EXAMPLE.read_text()
    assert [name for name in JOB_NAMES if name not in text] == []


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """Values come from the variable where there is one, else from the file, else the default."""
    path = tmp_path / "s.toml"
    path.write_text(
        'project = "from-file"\n[http]\nport = 1\nhost = "0.0.0.0"\n'
        '[jobs.fetch_instances]\ncron = "*/5 * * * *"\ntimeout = 7\n'
    )
    environ = {
        "GCE_BACKEND_PROJECT": "example.com:from-env",
        "GCE_BACKEND_HTTP__PORT": "2",
        "GCE_BACKEND_JOBS__FETCH_INSTANCES__CRON": "*/10 * * * * *",
        "GCE_BACKEND_JOBS__IMPORT_CONFIG__TIMEOUT": "1.5",
        "GCE_BACKEND_CONFIG__ALLOWED_HOSTS": "a.example.com, *.b.example.com",
        "GCE_BACKEND_ACTUATE": "false",
        "GCE_BACKEND_LOG__LEVEL": "debug",
    }
    settings = load(path, environ)
    assert (settings.project, settings.http.port, settings.http.host) == (
        "example.com:from-env",
        2,
        "0.0.0.0",
    )
    assert settings.jobs == {
        "fetch-instances": JobSettings(cron="*/10 * * * * *", timeout=7),
        "import-config": JobSettings(timeout=1.5),
    }
    assert settings.config.allowed_hosts == ("a.example.com", "*.b.example.com")
    assert settings.actuate is False
    assert settings.log.level == "debug"


def test_an_empty_variable_unsets_what_may_be_unset(tmp_path: Path) -> None:
    """An empty text is None, the empty list or the empty text; never a broken number."""
    path = tmp_path / "s.toml"
    path.write_text('project = "from-file"\n')
    environ = {
        "GCE_BACKEND_PROJECT": "",
        "GCE_BACKEND_HTTP__TOKEN": "",
        "GCE_BACKEND_MACHINE_PROVIDER__ALLOWED_HOSTS": "",
        "GCE_BACKEND_STORE__NAMESPACE": "",
    }
    settings = load(path, environ)
    assert settings.project is None
    assert settings.http.token is None
    assert settings.machine_provider.allowed_hosts == ()
    assert settings.store.namespace == ""


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """One line for each, with its file or variable, its key, and what to do."""
    text = (
        'projekt = "x"\n[http]\nport = 70000\nhost = 5\n[htpp]\nport = 1\n[jobs.fetch-instance]\n'
        'cron = "* * * * *"\n[store]\nresync_seconds = "often"\n'
    )
    environ = {
        "GCE_BACKEND_LOG__LEVEL": "loud",
        "GCE_BACKEND_HTTP__PROT": "1",
        "GCE_BACKEND_HTTP": "1",
        "GCE_BACKEND_OWNER__NAME": "1",
    }
    found = problems(text, environ, tmp_path)
    prefixes = [
        's.toml: projekt: unknown key "projekt"; did you mean "project"?',
        's.toml: htpp.port: unknown key "htpp"; did you mean "http"?',
        's.toml: jobs.fetch-instance.cron: unknown key "fetch-instance"; did you mean "fetch-ins',
        "GCE_BACKEND_HTTP: is a section; set one of its keys: host, port, token",
        'GCE_BACKEND_HTTP__PROT: unknown key "prot"; did you mean "port"?',
        'GCE_BACKEND_OWNER__NAME: unknown key "name": what stands before it is a value',
        "s.toml: http.host: Expected `str`, got `int`; correct it, or remove it for the default, '",
        "s.toml: http.port: Expected `int` <= 65535; correct it, or remove it for the default, 8",
        "s.toml: store.resync_seconds: Expected `float`, got `str`; correct it",
        'GCE_BACKEND_LOG__LEVEL: must be one of "debug", "info", "warning", "error"; correct it',
    ]
    assert len(found) == len(prefixes)
    for line, prefix in zip(sorted(found), sorted(prefixes), strict=True):
        assert line.startswith(prefix)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OWNER", "GCE-Backend"),
        ("OWNER", "a" * 64),
        ("OWNER", "ends-with-"),
        ("PROJECT", "No Spaces"),
        ("HTTP__PORT", "-1"),
        ("HTTP__PORT", ""),
        ("ACTUATE", "perhaps"),
        ("SHUTDOWN_SECONDS", "0"),
        ("SHUTDOWN_SECONDS", "nan"),
        ("DELETION__PERMITTED_SHARE", "1.1"),
        ("DELETION__UNCONFIRMED_SHARE", "nan"),
        ("DELETION__UNCONFIRMED_COUNT", "-1"),
        ("PUBSUB__ACK_DEADLINE_SECONDS", "5"),
        ("PUBSUB__MAX_MESSAGES", "1001"),
        ("PUBSUB__TOPIC", "goog-topic"),
        ("STORE__NAMESPACE", "a/b"),
        ("CONFIG__SOURCE", "svn"),
        ("CONFIG__SOURCE", "directory"),
        ("JOBS__IMPORT_CONFIG__CRON", "every minute"),
        ("JOBS__IMPORT_CONFIG__CRON", "* * * *"),
        ("JOBS__IMPORT_CONFIG__CRON", "61 * * * *"),
        ("JOBS__IMPORT_CONFIG__CRON", "0 0 31 2 *"),
        ("JOBS__IMPORT_CONFIG__TIMEOUT", "-1"),
        ("ENDPOINTS__COMPUTE", "compute.googleapis.com"),
        ("ENDPOINTS__COMPUTE", "ftp://compute.googleapis.com"),
        ("ENDPOINTS__COMPUTE", "https://host:port/"),
        ("ENDPOINTS__COMPUTE", "https://user:pass@host/"),
        ("ENDPOINTS__COMPUTE", "https://host/?key=1"),
        ("ENDPOINTS__COMPUTE", "http://compute.googleapis.com/compute/v1/"),
        ("ENDPOINTS__DATASTORE", "http://metadata.google.internal"),
        ("ENDPOINTS__PUBSUB", "http://127.0.0.1.example.com"),
        ("ENDPOINTS__METADATA", "http://example.com"),
    ],
)
def test_values_that_cannot_be_right_are_refused(name: str, value: str, tmp_path: Path) -> None:
    """Each wrong value gives one problem, which names the variable."""
    (problem,) = problems(None, {f"GCE_BACKEND_{name}": value}, tmp_path)
    assert problem.startswith(f"GCE_BACKEND_{name}: ")
    assert "pass" not in problem


@pytest.mark.parametrize(
    ("name", "given", "normalised"),
    [
        ("compute", "http://127.0.0.1:99/compute/v1", "http://127.0.0.1:99/compute/v1/"),
        ("compute", "https://host/v1//", "https://host/v1/"),
        ("datastore", "http://localhost:1/v1/", "http://localhost:1/v1"),
        ("pubsub", "http://[::1]:1/v1", "http://[::1]:1/v1"),
        ("metadata", "http://169.254.169.254/", "http://169.254.169.254"),
    ],
)
def test_endpoints_are_normalised(name: str, given: str, normalised: str) -> None:
    """Compute's root ends in one slash, the others in none; plain http works on loopback."""
    settings = load(None, {f"GCE_BACKEND_ENDPOINTS__{name.upper()}": given})
    assert getattr(settings.endpoints, name) == normalised


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.3.2.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("", False)],
)
def test_loopback_is_told_from_the_rest(host: str, loopback: bool) -> None:  # table
    """Addresses and the one name that stand for this machine only."""
    assert is_loopback(host) is loopback


def test_a_relative_directory_starts_at_the_file(tmp_path: Path) -> None:
    """In the file it is relative to the file, in the environment to the working directory."""
    path = tmp_path / "s.toml"
    path.write_text('[config]\nsource = "directory"\ndirectory = "fleet"\n')
    assert load(path, {}).config.directory == tmp_path / "fleet"
    environ = {"GCE_BACKEND_CONFIG__DIRECTORY": "fleet"}
    assert load(path, environ).config.directory == Path("fleet")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"port = \n", "s.toml: is not valid TOML"),
        (b'owner = "\xff"\n', "s.toml: is not UTF-8"),
        (None, "s.toml: cannot be read (No such file or directory)"),
    ],
)
def test_an_unreadable_file_is_a_problem_beside_others(
    content: bytes | None, problem: str, tmp_path: Path
) -> None:
    """The environment's problems are reported with it."""
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(path, {"GCE_BACKEND_NOTHING": "1"})
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{tmp_path}/{problem}")
    assert second.startswith("GCE_BACKEND_NOTHING: unknown key")


def test_a_job_named_in_both_spellings_is_a_problem(tmp_path: Path) -> None:
    """Dashes and underscores are one name, so that two values are ambiguous."""
    text = "[jobs.import-config]\ntimeout = 1\n[jobs.import_config]\ntimeout = 2\n"
    (problem,) = problems(text, {}, tmp_path)
    assert problem == "s.toml: jobs.import_config.timeout: is given twice; remove one"


def test_the_http_token_is_never_shown(tmp_path: Path) -> None:
    """No repr and no problem holds it, and it cannot be encoded by accident."""
    environ = {"GCE_BACKEND_HTTP__TOKEN": CANARY}
    settings = load(None, environ)
    assert settings.http.token == Secret(CANARY)
    assert settings.http.token.reveal() == CANARY
    assert CANARY not in f"{settings!r} {settings}"
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)
    text = '[http]\ntoken = ["canary"]\nport = "canary"\n'
    assert "canary" not in "".join(problems('[http]\ntoken = "canary"\n', {}, tmp_path))
    assert "canary" not in "".join(problems(text, {}, tmp_path))


@pytest.mark.parametrize(
    "guessable",
    [
        "let-me",
        "fifteen-letters",
        "a" * 64,
        "1234512345123451",
        "abcabcabcabcabcabc",
        "0101100110010110",
    ],
)
def test_line_22_a_token_that_can_be_guessed_is_refused_at_the_start(
    guessable: str, tmp_path: Path
) -> None:
    """Short, of few characters, or a repetition; the message names the remedy, not the token."""
    (problem,) = problems("", {"GCE_BACKEND_HTTP__TOKEN": guessable}, tmp_path)
    assert problem.startswith("GCE_BACKEND_HTTP__TOKEN: is too easy to guess")
    assert "openssl rand -hex 24" in problem
    assert guessable not in problem


@pytest.mark.parametrize("token", ["f3a9c01b7d5e2468", "let-me-in-please", "x9" + "-secret" * 3])
def test_a_token_of_sixteen_different_characters_will_do(token: str) -> None:
    """What `openssl rand -hex 8` makes is the least."""
    settings = load(None, {"GCE_BACKEND_HTTP__TOKEN": token})
    assert settings.http.token == Secret(token)


def test_line_23_no_host_that_a_stranger_can_register_gets_a_token_by_default() -> None:
    """The hosts of the defaults are names, not domains below which anybody may have one."""
    settings = load(None, {})
    assert settings.machine_provider.allowed_hosts == ()
    assert not [host for host in settings.config.allowed_hosts if "*" in host]


@pytest.mark.parametrize(
    "pattern",
    [
        "*",
        "*.com",
        "*example.com",
        "mp-*.example.com",
        "https://a.example.com",
        "a.example.com:1",
        "a@example.com",
        "*.*.example.com",
        "a b",
        "a..example.com",
        "-a.example.com",
        "x" * 300,
    ],
)
def test_what_is_no_host_is_refused(pattern: str, tmp_path: Path) -> None:
    """A pattern that would match more, or less, than it seems to."""
    (problem,) = problems(f'[config]\nallowed_hosts = ["{pattern}"]\n', {}, tmp_path)
    assert "is not a host" in problem
    assert len(problem) < 700


def test_hosts_are_compared_in_one_form() -> None:
    """Capitals and the dot at the end of a full name make no difference."""
    hosts = {"GCE_BACKEND_CONFIG__ALLOWED_HOSTS": "Config.Example.com.,*.LUCI.app"}
    assert load(None, hosts).config.allowed_hosts == ("config.example.com", "*.luci.app")


def test_the_settings_file_of_a_local_run_says_all_but_the_token(tmp_path: Path) -> None:
    """Read again, it is what the daemon has, and where it listens."""
    url = "http://127.0.0.1:4711"
    given = Settings(
        http=HttpSettings(token=Secret("let-me")),
        store=StoreSettings(namespace="fleet-a"),
        jobs={"fetch-instances": JobSettings(timeout=7.0)},
    )
    local = local_settings(given, url, "local-project", tmp_path)
    path = tmp_path / "local.toml"
    path.write_text(settings_file(local, url), "utf-8")
    assert "let-me" not in path.read_text("utf-8")
    expected = msgspec.structs.replace(local, url=url, http=HttpSettings())
    assert load(path, {}) == expected


def test_extra_dimensions_are_keys_or_pairs(tmp_path: Path) -> None:
    """Any value of a key, or one; from the environment, too."""
    text = '[machine_provider]\nextra_dimensions = ["linux_flavor:FEDORA"]\n'
    (tmp_path / "good.toml").write_text(text)
    settings = load(tmp_path / "good.toml", {})
    assert settings.machine_provider.extra_dimensions == ("linux_flavor:FEDORA",)
    for wrong in ("", "Linux", "a b", ":x", "key:", "x" * 300):
        text = f'[machine_provider]\nextra_dimensions = ["{wrong}"]\n'
        (problem,) = problems(text, {}, tmp_path)
        assert "machine_provider.extra_dimensions" in problem
        assert len(problem) < 500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[webhooks.json]\nurl = "http://example.com/x"', "plain http would show the token"),
        ('[webhooks.json]\nurl = "https://user@example.com/x"', "must hold neither a user"),
        ('[webhooks.json]\nurl = "https://example.com/x?a=1#b"', "is not a URL"),
        ('[webhooks.json]\nurl = "file:///etc/passwd"', "is not a URL"),
        ('[webhooks.json]\nsecret = "short"', "is too easy to guess"),
        ('[webhooks.json]\nevents = ["problems"]', "Invalid enum value 'problems'"),
        ('[webhooks.teams]\nurl = "https://example.com"', "use one of: json, slack, pagerduty"),
        ('[webhooks.pagerduty]\nurl = "https://example.com"', "secret: is missing; set the integr"),
    ],
)
def test_a_webhook_is_checked(tmp_path: Path, text: str, said: str) -> None:
    """No plain http but on loopback, no guessable key, no unknown format or event."""
    assert said in "".join(problems(text, {}, tmp_path))


def test_webhooks_come_from_variables_too(tmp_path: Path) -> None:
    """Their addresses are secrets; queries are kept."""
    prefix = "GCE_BACKEND_WEBHOOKS__SLACK__"
    environ = {
        f"{prefix}URL": "https://hooks.example.com/services/x?sig=1",
        f"{prefix}EVENTS": "problem, order",
    }
    assert load(None, environ).webhooks == {
        "slack": WebhookSettings(
            url="https://hooks.example.com/services/x?sig=1", events=("problem", "order")
        )
    }
