"""Certificates of an authority of a test's own, as PEM files."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """An authority, whose own certificate is in the file `ca`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(*[False] * 5, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
        made = self._about(self.name, self.key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        own = made.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(own.public_bytes(Encoding.PEM))

    def _about(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))

    def certificate(self, name: str) -> Path:
        """A file with the key and the certificate of someone at 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._about(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        own = made.add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        file = self.folder / f"{name}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + own.public_bytes(Encoding.PEM))
        return file
