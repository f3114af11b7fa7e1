"""The file of named tokens: what it says, and what is refused with a message that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from gce_backend.base.errors import SettingsError
from gce_backend.settings.settings import HttpSettings, Secret, load
from gce_backend.settings.tokens import MAX_FILE_BYTES, Role, named_tokens

SINGLE = Secret("0123456789abcdef-single")
ALICE = 'role = "operate"\ntoken = "alice-9f8e7d6c5b4a"\n'
GOOD = f"""
["alice@example.com"]
{ALICE}
[prometheus]
role = "read"
token = "prometheus-1a2b3c4d"
"""


def problems(tmp_path: Path, text: str | bytes, token: Secret | None = None) -> list[str]:
    """What is said of a file, without its path."""
    path = tmp_path / "tokens.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError) as refused:
        named_tokens(HttpSettings(token=token, tokens_file=path))
    lines = str(refused.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert "9f8e7d6c5b4a" not in str(refused.value)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_names_and_roles_are_read_and_the_single_token_is_one_of_them(tmp_path: Path) -> None:
    """The file's place is relative to the settings file; no repr shows a token."""
    (tmp_path / "tokens.toml").write_text(GOOD)
    (tmp_path / "settings.toml").write_text('[http]\ntokens_file = "tokens.toml"\n')
    environ = {"GCE_BACKEND_HTTP__TOKEN": SINGLE.reveal()}
    found = named_tokens(load(tmp_path / "settings.toml", environ).http)
    assert [(one.name, one.role) for one in found] == [
        ("operator", Role.ADMINISTER),
        ("alice@example.com", Role.OPERATE),
        ("prometheus", Role.READ),
    ]
    assert found[1].token.reveal() == "alice-9f8e7d6c5b4a"
    assert "9f8e7d6c5b4a" not in repr(found)
    assert named_tokens(HttpSettings()) == ()


@pytest.mark.parametrize("role", list(Role))
def test_a_role_includes_those_before_it(role: Role) -> None:
    """Who may administer may operate, and who may operate may read."""
    order = [Role.READ, Role.OPERATE, Role.ADMINISTER]
    included = [other for other in order if role.includes(other)]
    assert included == order[: order.index(role) + 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"[bob]\n{ALICE.replace('operate', 'admin')}", "bob.role: must be one of read, operate"),
        ('[bob]\ntoken = "bob-9f8e7d6c5b4a"\n', "bob.role: must be one of read"),
        ('[bob]\nrole = "read"\n', "bob.token: is missing, or is not a text"),
        ('[bob]\nrole = "read"\ntoken = 12345678901234567\n', "bob.token: is missing, or is not"),
        ('[bob]\nrole = "read"\ntoken = "short"\n', "bob.token: is too easy to guess"),
        (f'[bob]\nrole = "read"\ntoken = "{"ab" * 20}"\n', "bob.token: is too easy to guess"),
        (f"[bob]\n{ALICE}name = 1\n", 'bob: unknown key "name"'),
        (f"[alice.smith]\n{ALICE}", 'alice: unknown key "smith"; use role and token, and quote'),
        (f'["a b"]\n{ALICE}', "a b: is not a name"),
        ("bob = 3\n", "bob: is not a table"),
        (f"[operator]\n{ALICE}", "operator: is the name of http.token"),
        (
            f'{GOOD}\n[bob]\nrole = "read"\ntoken = "{SINGLE.reveal()}"',
            "bob.token: is the token of",
        ),
        (f"{GOOD}\n[bob]\n{ALICE}", "bob.token: is the token of alice@example.com too"),
        (b"[bob]\nrole = '\xff'\n", "is not UTF-8 text"),
        ("[bob\n", "is not valid TOML"),
        ("#" * (MAX_FILE_BYTES + 1), f"has more than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str | bytes, said: str) -> None:
    """And never with a token."""
    assert any(line.startswith(said) for line in problems(tmp_path, text, SINGLE))


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    """Not only the first one."""
    found = problems(tmp_path, '[bob]\nrole = "x"\ntoken = "y"\n[eve]\nrole = "read"\n')
    assert [line.partition(":")[0] for line in found] == ["bob.role", "bob.token", "eve.token"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the setting that names it."""
    with pytest.raises(SettingsError, match=r"absent: cannot be read .* correct http.tokens_file"):
        named_tokens(HttpSettings(tokens_file=tmp_path / "absent"))


def test_too_many_tokens_are_refused(tmp_path: Path) -> None:
    """Each request compares its token with all of them."""
    text = "".join(f'[t{n}]\nrole = "read"\ntoken = "abcdef-12345-{n:06d}"\n' for n in range(501))
    assert problems(tmp_path, text) == ["has 501 tokens, more than 500"]
