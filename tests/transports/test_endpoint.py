from pathlib import Path

import pytest

from echo_core.errors import SettingsError
from echo_core.transports.endpoint import Endpoint, Secret, parse_endpoint


def parse(url: str, **environ: str) -> Endpoint:
    return parse_endpoint(url, port=4222, options=frozenset({"prefix", "speed"}), environ=environ)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("nats://", (("127.0.0.1", 4222),)),
        ("nats://broker", (("broker", 4222),)),
        ("nats://broker:1", (("broker", 1),)),
        ("nats://a:1,b,[::1]:3,[::2]", (("a", 1), ("b", 4222), ("::1", 3), ("::2", 4222))),
        ("nats://user:p%40ss@a:1,b:2/path?prefix=x", (("a", 1), ("b", 2))),
    ],
)
def test_hosts_are_read_with_the_usual_port(url: str, hosts: tuple[tuple[str, int], ...]) -> None:
    assert parse(url).hosts == hosts


def test_every_part_is_read() -> None:
    endpoint = parse("nats://us%3Aer:p%40ss@a:1/some%2Fpath/?prefix=x.y")
    assert (endpoint.user, endpoint.password.reveal(), endpoint.path) == ("us:er", "p@ss", "some/path")
    assert endpoint.text("prefix", "") == "x.y"
    assert endpoint.tls is None


def test_user_and_password_come_from_the_environment_where_the_url_has_none() -> None:
    told = {"ECHO_CORE_TRANSPORT_USER": "env", "ECHO_CORE_TRANSPORT_PASSWORD": "from env"}
    endpoint = parse("nats://a", **told)
    assert (endpoint.user, endpoint.password.reveal()) == ("env", "from env")
    endpoint = parse("nats://me:mine@a", **told)
    assert (endpoint.user, endpoint.password.reveal()) == ("me", "mine")


def test_the_password_comes_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from file\n")
    assert parse(f"nats://me@a/?password_file={file}").password.reveal() == "from file"
    by_variable = parse("nats://me@a", ECHO_CORE_TRANSPORT_PASSWORD_FILE=str(file))
    assert by_variable.password.reveal() == "from file"


def test_a_password_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="/no/such/file"):
        parse("nats://me@a/?password_file=/no/such/file")


def test_secrets_are_shown_to_nobody() -> None:
    endpoint = parse("nats://me:hidden@a:1/x?prefix=p")
    assert endpoint.public == "nats://a:1/x"
    assert "hidden" not in f"{endpoint} {endpoint!r} {endpoint.password}"
    with pytest.raises(TypeError):
        Secret("hidden").__reduce__()


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("nats://a:port", "no port"),
        ("nats://me:hidden@a:70000", "no port"),
        ("nats://me:hidden", "no port"),
        ("nats://me:hidden/den@a", "%2F"),
        ("nats://me:hidden?den@a", "%3F"),
        ("nats://me:7?hidden@a", "%3F"),
        ("nats://me:7#hidden@a", "%23"),
        ("nats://hidden/den@a", "%2F"),
        ("nats://me:hidden[@a", "cannot be read"),
        ("nats://me:hidden\u2100@a", "cannot be read"),
        ("nats://me:hidden@a?colour=red", "no option 'colour'"),
        ("nats+ssl://me:hidden@a", r"nats\+tls://"),
        ("nats://me:hidden@a?ca=/x", r"write nats\+tls://"),
        ("nats+tls://me:hidden@a?ca=/no/such/file", "TLS cannot be set up"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(url: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        parse(url)
    assert "hidden" not in f"{caught.value!r} {caught.value}"


def test_options_are_numbers_switches_and_choices() -> None:
    endpoint = parse("nats://a?speed=3&prefix=no")
    assert endpoint.number("speed", 1, int, least=1) == 3
    assert endpoint.number("missing", 1.5, float, least=1) == 1.5
    assert endpoint.switch("prefix", default=True) is False
    assert endpoint.chosen("speed", "1", "1", "3") == "3"
    with pytest.raises(SettingsError, match="from 4 up"):
        endpoint.number("speed", 9, int, least=4)
    with pytest.raises(SettingsError, match="yes or no"):
        endpoint.switch("speed", default=True)
    with pytest.raises(SettingsError, match="one of 1, 2"):
        endpoint.chosen("speed", "1", "1", "2")
    with pytest.raises(SettingsError, match="a number"):
        endpoint.number("prefix", 1.0, float, least=0)
