"""Self-made certificates: what a client that trusts the bundle accepts, and when one is renewed."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from tests.operator.webhook.tls_handshake import handshake
from vectorizer_operator.webhook import certificates
from vectorizer_operator.webhook.certificates import AUTHORITIES, CERTIFICATE, KEY, LIFETIME, RENEW_BEFORE
from vectorizer_operator.webhook.tls import ServerCertificate

HOST = "vectorizer-operator-webhook.vectorizer-system.svc"
NOW = datetime.now(UTC)


@pytest.fixture
def made() -> dict[str, bytes]:
    return certificates.make([HOST], now=NOW)


async def shown(data: dict[str, bytes]) -> ServerCertificate:
    certificate = ServerCertificate()
    await certificate.load(data[CERTIFICATE], data[KEY])
    return certificate


async def test_a_client_that_trusts_the_authority_accepts_the_certificate_for_its_host_only(
    made: dict[str, bytes],
) -> None:
    server = await shown(made)
    await handshake(server.context, trusting=made[AUTHORITIES], host=HOST)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await handshake(server.context, trusting=made[AUTHORITIES], host="elsewhere.svc")
    another = certificates.make([HOST], now=NOW)
    with pytest.raises(ssl.SSLCertVerificationError):
        await handshake(server.context, trusting=another[AUTHORITIES], host=HOST)


async def test_after_a_renewal_the_old_certificate_and_the_new_one_are_trusted(
    made: dict[str, bytes],
) -> None:
    renewed = certificates.make([HOST], now=NOW, trusted=made[AUTHORITIES])
    for data in (made, renewed):
        await handshake((await shown(data)).context, trusting=renewed[AUTHORITIES], host=HOST)


async def test_a_certificate_is_exchanged_in_place_and_a_bad_pair_changes_nothing(
    made: dict[str, bytes],
) -> None:
    renewed = certificates.make([HOST], now=datetime.now(UTC))
    server = await shown(made)
    with pytest.raises(ssl.SSLError):
        await server.load(renewed[CERTIFICATE], made[KEY])
    await handshake(server.context, trusting=made[AUTHORITIES], host=HOST)
    await server.load(renewed[CERTIFICATE], renewed[KEY])
    await handshake(server.context, trusting=renewed[AUTHORITIES], host=HOST)
    assert server.seconds_left == pytest.approx(LIFETIME.total_seconds(), abs=60)


def test_a_good_certificate_is_left_alone(made: dict[str, bytes]) -> None:
    assert certificates.why_renew(made, [HOST], now=NOW) is None


def test_a_certificate_is_renewed_long_before_it_expires(made: dict[str, bytes]) -> None:
    expires = NOW + LIFETIME
    assert certificates.why_renew(made, [HOST], now=expires - RENEW_BEFORE - timedelta(hours=1)) is None
    why = certificates.why_renew(made, [HOST], now=expires - RENEW_BEFORE + timedelta(hours=1))
    assert why == f"it expires at {expires:%Y-%m-%d %H:%M} UTC"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({CERTIFICATE: b""}, "there is none"),
        ({CERTIFICATE: b"nonsense"}, "there is none"),
        ({AUTHORITIES: b""}, "there is none"),
        ({KEY: b"nonsense"}, "its key is missing or another one's"),
        ({KEY: certificates.make([HOST], now=NOW)[KEY]}, "its key is missing or another one's"),
        ({AUTHORITIES: certificates.make([HOST], now=NOW)[AUTHORITIES]}, "none of its authorities signed it"),
    ],
    ids=["empty", "no PEM", "no authority", "no key", "another's key", "another's authority"],
)
def test_what_cannot_be_shown_or_trusted_is_made_anew(
    made: dict[str, bytes], change: dict[str, bytes], reason: str
) -> None:
    assert certificates.why_renew({**made, **change}, [HOST], now=NOW) == reason


def test_a_certificate_for_other_hosts_is_made_anew(made: dict[str, bytes]) -> None:
    assert certificates.why_renew(made, [HOST, "new.svc"], now=NOW) == "it is not for new.svc"


def test_a_bundle_holds_each_authority_once_and_none_that_expired(made: dict[str, bytes]) -> None:
    old = certificates.make([HOST], now=NOW - LIFETIME - timedelta(days=1))
    bundle = certificates.trust(made[AUTHORITIES], old[AUTHORITIES], made[AUTHORITIES], b"", now=NOW)
    assert bundle == made[AUTHORITIES]


def test_the_authority_can_sign_nothing_but_what_it_signed(made: dict[str, bytes]) -> None:
    authority = x509.load_pem_x509_certificate(made[AUTHORITIES])
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert b"PRIVATE KEY" not in made[AUTHORITIES] + made[CERTIFICATE]
    assert made[KEY].count(b"PRIVATE KEY") == 2  # one key, the certificate's: its first and its last line


def test_when_nothing_is_shown_there_is_no_time_left() -> None:
    assert ServerCertificate().seconds_left is None
    assert certificates.expires_at(b"nonsense") is None
