"""Signatures of statements: JWS (RFC 7515) with detached content (appendix F), by Ed25519 (RFC 8037, RFC 9864).

The member `signature` of a statement is `HEADER..SIGNATURE`. What is signed is the statement without this member, in
the form of RFC 8785 (JSON Canonicalization Scheme): so it may be stored or printed in any layout. The `kid` in the
header is the thumbprint of the key (RFC 7638), by which it is found among the public keys (RFC 7517).

Needs the extra `signatures` (joserfc, rfc8785), which is imported when it is used.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

ALGORITHM = "Ed25519"
INSTALL = "pip install 'billing-system[signatures]'"
_PEM = re.compile(rb"-----BEGIN (?:PRIVATE|PUBLIC) KEY-----.*?-----END (?:PRIVATE|PUBLIC) KEY-----", re.DOTALL)


class KeysError(ValueError):
    """Keys are not what they must be. The message says why."""


class SignatureError(ValueError):
    """A signature does not hold. The message says why."""


class SigningKeys:
    """The key that signs, and the public keys that check.

    Args:
        pem: Ed25519 keys in PEM, one after the other (PKCS #8, or SubjectPublicKeyInfo of public ones). The first must
            be a private key, and signs. The others signed earlier; their public keys are published too.

    Raises:
        KeysError: There is no such key.
        ImportError: The extra `signatures` is not installed.
    """

    def __init__(self, pem: bytes) -> None:
        from joserfc.errors import JoseError
        from joserfc.jwk import OKPKey

        try:
            self._keys = [OKPKey.import_key(block) for block in _PEM.findall(pem)]
        except (JoseError, ValueError, TypeError) as error:
            raise KeysError(f"a key cannot be read: {error}") from error
        if not self._keys or not self._keys[0].is_private:
            raise KeysError("the first key must be a private key in PEM (PKCS #8)")
        if any(key.curve_name != "Ed25519" for key in self._keys):
            raise KeysError("every key must be of Ed25519")

    def sign(self, document: Mapping[str, Any]) -> str:
        """The signature of a JSON object, without its member `signature`."""
        from joserfc import jws

        key = self._keys[0]
        header = {"alg": ALGORITHM, "kid": key.thumbprint()}
        return jws.detach_content(jws.serialize_compact(header, _content(document), key, algorithms=[ALGORITHM]))

    def public(self) -> dict[str, Any]:
        """The public keys as a JSON Web Key Set."""
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": key.thumbprint(), "use": "sig", "alg": ALGORITHM}
                for key in self._keys
            ]
        }


def check_signature(document: Mapping[str, Any], key_set: Mapping[str, Any]) -> str:
    """Check the signature of a JSON object in its member `signature`. Returns the `kid` of the key that signed.

    Args:
        document: The object, as it was received.
        key_set: The public keys, as a JSON Web Key Set, from a source that you trust.

    Raises:
        SignatureError: It does not hold, or none of the keys made it.
        KeysError: The key set is none.
        ImportError: The extra `signatures` is not installed.
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    signature = document.get("signature")
    if not isinstance(signature, str):
        raise SignatureError("there is no signature")
    keys = _read_keys(key_set)
    try:
        kid = jws.extract_compact(signature.encode()).headers()["kid"]
    except (JoseError, ValueError, KeyError) as error:
        raise SignatureError("the signature is no JWS with a kid") from error
    if not isinstance(kid, str) or kid not in keys:
        raise SignatureError(f"the key {kid} that signed is none of those given")
    try:
        jws.deserialize_compact(signature, keys[kid], algorithms=[ALGORITHM], payload=_content(document))
    except (JoseError, ValueError) as error:
        raise SignatureError(f"it was not signed like this by the key {kid}") from error
    return str(kid)


def _read_keys(key_set: Mapping[str, Any]) -> "dict[str, OKPKey]":
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    try:
        keys = [OKPKey.import_key(key) for key in key_set["keys"]]
    except (JoseError, ValueError, KeyError, TypeError) as error:
        raise KeysError("this is no JSON Web Key Set of Ed25519 keys") from error
    return {key.thumbprint(): key for key in keys}


def _content(document: Mapping[str, Any]) -> bytes:
    """What is signed."""
    import rfc8785

    return rfc8785.dumps({name: value for name, value in document.items() if name != "signature"})


def as_json(value: Any) -> dict[str, Any]:
    """A struct as the JSON object that is sent."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return decoded
