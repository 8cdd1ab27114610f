"""A certificate authority that is made for one run, and lives as long as the function that makes it.

Its key signs two certificates and is then forgotten: there will be no third. Their dates play no role, because the
authority itself is trusted by this run only, so a node whose clock is wrong, or a run of months, is no trouble.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from runner.cluster.encryption import SUPERVISOR_NAME, Identity
from runner.errors import ResourceError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_FROM = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
#: RFC 5280's word for "without an end".
_UNTIL = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


def make_identities(run: str) -> tuple[Identity, Identity]:
    """Return what proves the supervisor of a run, and what proves its agents. ResourceError without the library."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID
    except ImportError:
        raise ResourceError(
            "connections of agents are encrypted, for which the library cryptography is needed, and it is not"
            " installed: pip install 'toml-runner[cluster]'; or do without, on a network that is yours:"
            " `encrypt = false` in [agents]"
        ) from None
    key = ec.generate_private_key(ec.SECP256R1())
    name = _x509_name(f"runner {run}")
    authority = _sign_certificate(name, key, name, key, x509.BasicConstraints(ca=True, path_length=0), [])
    identities = []
    for title, purpose in (
        (SUPERVISOR_NAME, ExtendedKeyUsageOID.SERVER_AUTH),
        ("agent.runner", ExtendedKeyUsageOID.CLIENT_AUTH),
    ):
        own_key = ec.generate_private_key(ec.SECP256R1())
        certificate = _sign_certificate(
            _x509_name(title),
            own_key,
            name,
            key,
            x509.BasicConstraints(ca=False, path_length=None),
            [x509.ExtendedKeyUsage([purpose]), x509.SubjectAlternativeName([x509.DNSName(title)])],
        )
        identities.append(Identity(_pem(authority), _pem(certificate), _key_pem(own_key)))
    return identities[0], identities[1]


def _x509_name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text[:64])])


def _sign_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints,
    extensions: list[Any],
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    issuer_public = issuer_key.public_key()
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    usage |= {"decipher_only": False, "crl_sign": constraints.ca, "key_cert_sign": constraints.ca}
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), _FROM, _UNTIL)
        .add_extension(constraints, critical=True)
        .add_extension(x509.KeyUsage(digital_signature=not constraints.ca, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
