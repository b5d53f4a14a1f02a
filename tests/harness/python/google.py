"""Google's client library, and a checker of signed URLs and forms that shares no code with Valet.

conversation.py runs the operations that are listed at the end of this file.

`sign` and `sign_form` use Google's client library. `verify` and `verify_form` follow Google's documentation of Cloud
Storage: they build the canonical request from what a client sends, and check the RSA signature with the account's public
key. The rules for headers are those of the page "Canonical requests": a client must send every signed header, and must
sign every header that begins with x-goog- or x-amz-.
"""

import base64
import calendar
import datetime
import hashlib
import http.client
import json
import re
import urllib.parse

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client, _signing
from google.oauth2 import service_account

TIMEOUT_SECONDS = 30
STAMP = "%Y%m%dT%H%M%SZ"
ALGORITHM = "GOOG4-RSA-SHA256"


class Refused(Exception):
    """The store would reject the request."""


# --- Google's client ----------------------------------------------------------------------------------------------


def sign(request, _body):
    credentials = service_account.Credentials.from_service_account_info(json.loads(request["key_file"]))
    url = _signing.generate_signed_url_v4(
        credentials,
        resource=request["resource"],
        expiration=request["expires"],
        api_access_endpoint=request["endpoint"],
        method=request["method"],
        headers=dict(request.get("headers", [])),
        query_parameters=dict(request.get("query", [])),
        _request_timestamp=request["timestamp"],
    )
    return {"url": url}, b""


def sign_form(request, _body):
    credentials = service_account.Credentials.from_service_account_info(json.loads(request["key_file"]))
    now = datetime.datetime.strptime(request["timestamp"], STAMP).replace(tzinfo=datetime.timezone.utc)
    import google.cloud.storage.client as module

    kept = module._NOW, _signing._NOW
    module._NOW = _signing._NOW = lambda _zone: now
    try:
        client = Client(project="p", credentials=AnonymousCredentials())
        form = client.generate_signed_post_policy_v4(
            request["bucket"],
            request["key"],
            expiration=now + datetime.timedelta(seconds=request["expires"]),
            conditions=request.get("conditions", []),
            fields=dict(request.get("fields", [])),
            credentials=credentials,
            scheme="https",
        )
    finally:
        module._NOW, _signing._NOW = kept
    return {"url": form["url"], "fields": list(form["fields"].items())}, b""


# --- signed URLs --------------------------------------------------------------------------------------------------


def verify(request, _body):
    try:
        examine(request)
        return {"valid": True, "why": ""}, b""
    except Refused as refusal:
        return {"valid": False, "why": str(refusal)}, b""


def quoted(text, safe=""):
    return urllib.parse.quote(text, safe=safe + "-._~")


def examine(check):
    """Raises Refused unless the store would accept this request at the time `now`."""
    parts = urllib.parse.urlsplit(check["url"])
    if parts.fragment:
        raise Refused("it has a fragment")
    query = []
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        query.append((urllib.parse.unquote(name, errors="strict"), urllib.parse.unquote(value, errors="strict")))
    names = [name for name, _ in query]
    if len(set(names)) != len(names):
        raise Refused("a parameter is there twice")
    plain = dict(query)
    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"):
        if f"X-Goog-{name}" not in plain:
            raise Refused(f"it has no X-Goog-{name}")
    issued = stamp(plain["X-Goog-Date"])
    if not re.fullmatch("[0-9]+", plain["X-Goog-Expires"]) or not 1 <= int(plain["X-Goog-Expires"]) <= 604800:
        raise Refused(f"X-Goog-Expires is {plain['X-Goog-Expires']}")
    in_time(check["now"], issued, issued + int(plain["X-Goog-Expires"]))
    scope = scope_of(plain["X-Goog-Algorithm"], plain["X-Goog-Credential"], plain["X-Goog-Date"], check["account"])

    headers = {"host": parts.hostname}
    for name, value in check["headers"]:
        if name.lower() in headers:
            raise Refused(f"the header {name} is sent twice")
        headers[name.lower()] = " ".join(value.split())
    signed = plain["X-Goog-SignedHeaders"].split(";")
    if "host" not in signed or signed != sorted(signed):
        raise Refused("the host is not signed, or the signed headers are not sorted")
    for name in signed:
        if name not in headers:
            raise Refused(f"the header {name} is signed and not sent")
    for name in headers:
        if name.startswith(("x-goog-", "x-amz-")) and name not in signed and not name.endswith("-content-sha256"):
            raise Refused(f"the header {name} is sent and not signed")

    path = quoted(urllib.parse.unquote(parts.path, errors="strict"), safe="/")
    others = sorted((quoted(name), quoted(value)) for name, value in query if name != "X-Goog-Signature")
    canonical = "\n".join(
        [
            check["method"],
            path,
            "&".join(f"{name}={value}" for name, value in others),
            "".join(f"{name}:{headers[name]}\n" for name in signed),
            ";".join(signed),
            headers.get("x-goog-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    by_the_account(check["key_file"], plain["X-Goog-Signature"], "\n".join([ALGORITHM, plain["X-Goog-Date"], scope, digest]))
    obeyed(headers, check)


def obeyed(headers, check):
    """Raises Refused if the headers forbid an upload with this `size`, `content`, and existing object (`exists`)."""
    if (size_range := headers.get("x-goog-content-length-range")) and "size" in check:
        least, most = map(int, size_range.split(","))
        if not least <= check["size"] <= most:
            raise Refused("the size is out of range")
    if (md5 := headers.get("content-md5")) and "content" in check:
        if base64.b64encode(hashlib.md5(check["content"].encode()).digest()).decode() != md5:
            raise Refused("the bytes are not those of the MD5")
    if headers.get("x-goog-if-generation-match") == "0" and check.get("exists"):
        raise Refused("the object is there already")


def stamp(text):
    try:
        return calendar.timegm(datetime.datetime.strptime(text, STAMP).timetuple())
    except ValueError:
        raise Refused(f"the date is {text}") from None


def in_time(now, issued, expires):
    # Google accepts clocks that are some minutes ahead.
    if now < issued - 900:
        raise Refused("it does not work yet")
    if now >= expires:
        raise Refused("it has expired")


def scope_of(algorithm, credential, date, account):
    if algorithm != ALGORITHM:
        raise Refused(f"the algorithm is {algorithm}")
    who, _, scope = credential.partition("/")
    if who != account:
        raise Refused(f"it is signed by {who}")
    if scope != f"{date[:8]}/auto/storage/goog4_request":
        raise Refused(f"the scope is {scope}")
    return scope


def by_the_account(key_file, signature, message):
    pem = json.loads(key_file)["private_key"].encode()
    public = serialization.load_pem_private_key(pem, password=None).public_key()
    if not re.fullmatch("([0-9a-f]{2})+", signature):
        raise Refused("the signature is not hexadecimal")
    try:
        public.verify(bytes.fromhex(signature), message.encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise Refused("the signature is over something else") from None


# --- forms --------------------------------------------------------------------------------------------------------


def verify_form(request, _body):
    try:
        examine_form(request)
        return {"valid": True, "why": ""}, b""
    except Refused as refusal:
        return {"valid": False, "why": str(refusal)}, b""


def examine_form(check):
    if check.get("method", "POST") != "POST":
        raise Refused("a form is posted")
    fields = {}
    for name, value in check["fields"]:
        if name.lower() in fields:
            raise Refused(f"the field {name} is there twice")
        fields[name.lower()] = value
    for name in ("key", "policy", "x-goog-algorithm", "x-goog-credential", "x-goog-date", "x-goog-signature"):
        if name not in fields:
            raise Refused(f"it has no {name}")
    scope_of(fields["x-goog-algorithm"], fields["x-goog-credential"], fields["x-goog-date"], check["account"])
    by_the_account(check["key_file"], fields["x-goog-signature"], fields["policy"])
    text = base64.b64decode(fields["policy"], validate=True).decode("ascii")
    document = json.loads(text)
    expires = datetime.datetime.strptime(document["expiration"], "%Y-%m-%dT%H:%M:%SZ")
    in_time(check["now"], stamp(fields["x-goog-date"]), calendar.timegm(expires.timetuple()))
    covered = set()
    for condition in document["conditions"]:
        if isinstance(condition, list) and condition[0] == "content-length-range":
            if not condition[1] <= check["size"] <= condition[2]:
                raise Refused("the size is out of range")
            continue
        if isinstance(condition, list):
            operator, name, value = condition
            name = name.removeprefix("$")
        else:
            ((name, value),) = condition.items()
            operator = "eq"
        actual = check["bucket"] if name == "bucket" else fields.get(name.lower())
        holds = {"eq": lambda: actual == value, "starts-with": lambda: actual is not None and actual.startswith(value)}
        if not holds[operator]():
            raise Refused(f"the condition on {name} does not hold")
        covered.add(name.lower())
    bare = set(fields) - covered - {"policy", "x-goog-signature"}
    if bare or "bucket" not in covered:
        raise Refused(f"no condition covers {min(bare, default='bucket')}")


# --- HTTP ---------------------------------------------------------------------------------------------------------


def send(request, body):
    parts = urllib.parse.urlsplit(request["url"])
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(request["method"], parts.path + ("?" + parts.query if parts.query else ""), body, dict(request.get("headers", [])))
        answer = connection.getresponse()
        return {"status": answer.status, "headers": answer.getheaders()}, answer.read()
    finally:
        connection.close()


OPERATIONS = {"sign": sign, "sign_form": sign_form, "verify": verify, "verify_form": verify_form, "send": send}
