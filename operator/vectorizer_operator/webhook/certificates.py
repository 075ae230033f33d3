"""The webhook's self-made certificate: made, judged and renewed as a Secret's data. Pure but for randomness.

A Secret holds `tls.crt` and `tls.key`, what the server shows, and `ca.crt`, the authorities that the API server
shall trust, the newest first. An authority signs one certificate and its key is thrown away: to renew is to make
a new authority and keep trusting the old one until it expires, so that a replica still showing the old certificate
goes on being believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
CLOCK_SKEW = timedelta(minutes=5)
"""A certificate is valid from a little before it was made, for API servers whose clock is behind."""

COMMON_NAME = "vectorizer-operator webhook"
"""For people who look at the certificate; the API server goes by the alternative names, which have no length limit."""

CERTIFICATE, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"


def make(dns_names: Sequence[str], *, now: datetime, trusted: bytes = b"") -> dict[str, bytes]:
    """A Secret's data with a new authority and certificate for *dns_names*, still trusting *trusted* (PEM)."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{COMMON_NAME} authority")])
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)])
    certificate = (
        _builder(subject, authority_name, key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    return {
        CERTIFICATE: certificate.public_bytes(serialization.Encoding.PEM),
        KEY: key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        AUTHORITIES: trust(authority.public_bytes(serialization.Encoding.PEM), trusted, now=now),
    }


def trust(*bundles: bytes, now: datetime) -> bytes:
    """One bundle of every certificate in *bundles* (PEM) that has not expired, each once, in their order."""
    certificates: dict[bytes, x509.Certificate] = {}
    for bundle in bundles:
        for certificate in _parse(bundle):
            if certificate.not_valid_after_utc > now:
                certificates[certificate.fingerprint(hashes.SHA256())] = certificate
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates.values())


def why_renew(data: Mapping[str, bytes], dns_names: Sequence[str], *, now: datetime) -> str | None:
    """Why a Secret's data needs a new certificate, or None while it is good."""
    certificates = _parse(data.get(CERTIFICATE, b""))
    authorities = _parse(data.get(AUTHORITIES, b""))
    if not certificates or not authorities:
        return "there is none"
    certificate = certificates[0]
    expires = certificate.not_valid_after_utc
    if now > expires - RENEW_BEFORE:
        return f"it expires at {expires:%Y-%m-%d %H:%M} UTC"
    if not _key_fits(certificate, data.get(KEY, b"")):
        return "its key is missing or another one's"
    if not any(_signed_by(certificate, authority) for authority in authorities):
        return "none of its authorities signed it"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    missing = set(dns_names) - set(names.get_values_for_type(x509.DNSName))
    return f"it is not for {', '.join(sorted(missing))}" if missing else None


def expires_at(certificate: bytes) -> datetime | None:
    """When a PEM certificate expires, or None if it is none."""
    certificates = _parse(certificate)
    return certificates[0].not_valid_after_utc if certificates else None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _parse(bundle: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []


def _signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _key_fits(certificate: x509.Certificate, key: bytes) -> bool:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError):
        return False
    return loaded.public_key() == certificate.public_key()
